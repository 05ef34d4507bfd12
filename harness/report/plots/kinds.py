"""Make the pictures that a suite asks for from its records, as data for `chart`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from statistics import median

from harness.contracts import registry
from harness.errors import RecordError
from harness.report import pareto, tables
from harness.report.plots import along, complexity, fronts, history
from harness.report.plots.chart import Axis, Line, Panel, Picture, Rule, draw, spaced
from harness.report.plots.style import FORMATS
from harness.report.table import CONTENDED, NOTES, RANDOM_WEIGHTS, Cell, Heading, Table
from harness.runs.line import Record, device_label
from harness.runs.measured import judgement
from harness.runs.plan import Arm, Group
from harness.runs.records import Run
from harness.suite.schema import Column, Plot, TableSpec

NAN = float("nan")


def pictures(run: Run) -> dict[str, bytes]:
    """File names and bytes of every picture that the suite of `run` asks for.

    Raises `Incomplete` where a mean lacks results and the suite refuses such means, and `RecordError` where the probe
    of a section does not declare the plot.
    """
    probes = {section.name: section.probe for section in run.suite.measure}
    for plot in run.suite.plots:
        if plot.section and plot.kind not in registry.probes.get(probes[plot.section]).plots:
            raise RecordError(f"{run.folder}: {probes[plot.section]!r} cannot be drawn as {plot.kind}")
    drawings = [make() for make in builders(run)]
    if run.suite.rehearsal:
        drawings = [replace(each, title=f"REHEARSAL, no result: {each.title}") for each in drawings]
    return {f"{picture.name}{suffix}": draw(picture, suffix) for picture in drawings for suffix in FORMATS}


def builders(run: Run) -> list[Callable[[], Picture]]:
    """What makes each picture that the suite of `run` asks for, those of `drift` last."""
    return [
        *(partial(KINDS[plot.kind], plot, run) for plot in run.suite.plots),
        *(partial(along.picture, drift, run) for drift in run.suite.drift),
    ]


# ------------------------------------------------------------------------------------- arms and records


def _arms(plot: Plot, run: Run) -> list[tuple[int, Arm, str]]:
    """Arms to show: number in the suite (their colour), arm, and label with its mark."""
    return [
        (number, arm, arm.label + (RANDOM_WEIGHTS if arm.card.weights == "random" else ""))
        for number, arm in enumerate(run.arms)
        if plot.models is None or arm.label in plot.models
    ]


def _groups(plot: Plot, run: Run) -> Iterator[tuple[int, str, Group]]:
    arms = {arm.label: (number, label) for number, arm, label in _arms(plot, run)}
    for group in run.groups:
        if group.section == plot.section and group.arm in arms:
            yield *arms[group.arm], group


def _records(run: Run, group: Group) -> list[Record]:
    """The finished measurements of a group, the newest of each round."""
    return [run.records.at(entry.offset) for entry in run.done(group)]


def _remarks(records: Sequence[Record], labels: Sequence[str], verb: str = "Measured") -> tuple[str, ...]:
    """The devices of the records, and the meaning of the marks in the labels."""
    devices = dict.fromkeys(device_label(record.device) for record in records)
    sentences = [f"{verb} on {' and on '.join(devices)}."] if devices else []
    if any(judgement(record.values, record.notes).contended for record in records):
        sentences.append(f"{CONTENDED} {NOTES[CONTENDED]}.")
    if any(label.endswith(RANDOM_WEIGHTS) for label in labels):
        sentences.append(f"{RANDOM_WEIGHTS} {NOTES[RANDOM_WEIGHTS]}.")
    return tuple(sentences)


# ------------------------------------------------------------------------------------------------ kinds


def _cache_by_length(plot: Plot, run: Run) -> Picture:
    """Bytes that one request keeps after so many latent frames: they grow until the window is full."""
    lines = []
    for number, arm, _ in _arms(plot, run):
        card = arm.card
        if card.cache_bytes is None:
            continue
        window = card.window_frames or plot.longest
        ends = sorted({1, *(n for n in (window, plot.longest) if n <= plot.longest)})
        sizes = tuple(card.cache_bytes * min(n, window) / window for n in ends)
        lines.append(Line(arm.label, number, tuple(map(float, ends)), sizes, marked=False))
    across = Axis("clip (latent frames)", log=True, ticks=spaced(_doubling(plot.longest)))
    up = Axis("cache of one request", "B", log=True)
    title = plot.title or "What a clip's cache takes"
    remark = "From the models' cards: cached scalars of every token and layer that the window holds."
    return Picture(plot.name, title, (Panel(across, up, tuple(lines)),), (remark,))


def _doubling(longest: int) -> list[float]:
    steps = int(math.log2(longest))
    return [*(float(2**n) for n in range(steps if 2**steps * 1.5 > longest else steps + 1)), float(longest)]


def _memory_by_batch(plot: Plot, run: Run) -> Picture:
    """Peak memory of every batch size that was tried, the budget, and a cross where it did not suffice."""
    lines: list[Line] = []
    crosses: list[tuple[float, float, int]] = []
    labels: list[str] = []
    records: list[Record] = []
    budgets: list[float] = []
    for number, label, group in _groups(plot, run):
        for record in _records(run, group)[:1]:
            samples, budget = record.samples, record.values["budget_bytes"]
            fits = [i for i, fit in enumerate(samples["fits"]) if fit]
            x, y = ([samples[name][i] for i in fits] for name in ("batch", "peak_bytes"))
            lines.append(Line(label, number, tuple(x), tuple(y)))
            failed = [samples["batch"][i] for i, fit in enumerate(samples["fits"]) if not fit]
            crosses += [(min(failed), budget, number)] if failed else []
            labels.append(label)
            records.append(record)
            budgets.append(budget)
    rules = tuple(Rule(f"budget, {_bytes(budget)}", y=budget) for budget in dict.fromkeys(budgets))
    across = Axis("requests in a batch", whole=True)
    panel = Panel(across, Axis("peak memory", "B", from_zero=True), tuple(lines), rules, tuple(crosses))
    remarks = _remarks(records, labels)
    remarks = (
        *dict.fromkeys(f"The budget covers {r.notes['covers']}." for r in records if "covers" in r.notes),
        *remarks,
    )
    if crosses:
        remarks = ("A cross is the smallest batch that did not fit.", *remarks)
    return Picture(plot.name, plot.title or "Memory against batch", (panel,), remarks)


def _bytes(size: float) -> str:
    """In the units of the axis, after whole mebibytes where a budget was given in them."""
    said = f"{size / 1e9:.4g} GB" if size >= 1e9 else f"{size / 1e6:.4g} MB"
    return said if size % 2**20 else f"{size / 2**20:g} MiB ({said})"


def _chunk_time(plot: Plot, run: Run) -> Picture:
    """Time of each chunk, the median over generations and rounds, against its index."""
    lines: list[Line] = []
    rules: list[float] = []
    labels: list[str] = []
    all_records: list[Record] = []
    for number, label, group in _groups(plot, run):
        records = _records(run, group)
        if not records:
            continue
        by_index = list(zip(*(record.samples["chunk_s_by_index"] for record in records), strict=False))
        seconds = tuple(median(times) for times in by_index)
        lines.append(Line(label, number, tuple(map(float, range(len(seconds)))), seconds, marked=len(seconds) <= 40))
        steady = records[0].notes.get("steady_chunks")
        if isinstance(steady, list) and steady and isinstance(steady[0], int) and steady[0] > 0:
            rules.append(float(steady[0]) - 0.5)
        labels.append(label)
        all_records += records
    upright = tuple(Rule(" window full", x=place) for place in dict.fromkeys(rules))
    panel = Panel(Axis("chunk", whole=True), Axis("time of the chunk", "s", from_zero=True), tuple(lines), upright)
    remarks = ("Time between two decoded chunks, the first from the request on.", *_remarks(all_records, labels))
    return Picture(plot.name, plot.title or "Chunk time against index", (panel,), remarks)


def _quality_by_cache(plot: Plot, run: Run) -> Picture:
    """Quality with its interval against cached scalars, a point an arm."""
    table = _table(plot, run)
    lines = []
    for number, arm, label in _arms(plot, run):
        cell, scalars = _cell(table, arm.label, 0), arm.card.cached_scalars
        if cell.value is None or not scalars:
            continue
        low, high = _ends([cell])
        text = label + "".join(cell.marks)
        lines.append(Line(text, number, (float(scalars),), (cell.value,), low, high, joined=False))
    across = Axis("cached scalars (per token and layer)", log=True, ticks=spaced(sorted({line.x[0] for line in lines})))
    rules = _best_at_zero(table.columns[0])
    panel = Panel(across, Axis(plot.axis or _heading(table)), tuple(lines), rules, named=True)
    return Picture(plot.name, plot.title or "Quality against cached scalars", (panel,), _table_remarks(table))


def _quality_by_option(plot: Plot, run: Run) -> Picture:
    """Quality against a number among the options, a line a grid; an arm without it is a level rule."""
    table = _table(plot, run)
    panels = []
    for column, of in enumerate(table.columns):
        points: dict[str, list[tuple[float, Cell]]] = {}
        rules: list[Rule] = [*_best_at_zero(of)]
        for _, arm, label in _arms(plot, run):
            cell, place = _cell(table, arm.label, column), arm.options.get(plot.option)
            name = label.partition(" [")[0]
            if isinstance(place, int | float):
                points.setdefault(name, []).append((float(place), cell))
            elif cell.value is not None:
                rules.append(Rule(label, y=cell.value))
        lines = []
        for look, (name, points_of_line) in enumerate(points.items()):
            places, cells = zip(*sorted(points_of_line, key=lambda pair: pair[0]), strict=True)
            y = tuple(NAN if cell.value is None else cell.value for cell in cells)
            lines.append(Line(name, look, places, y, *_ends(cells)))
        heading = plot.axis or (f"{of.label} ({of.unit})" if of.unit else of.label)
        panels.append(Panel(Axis(plot.option), Axis(heading), tuple(lines), tuple(rules)))
    return Picture(plot.name, plot.title or f"Quality against {plot.option}", tuple(panels), _table_remarks(table))


def _quality_over_time(plot: Plot, run: Run) -> Picture:
    """Quality of each segment of a clip with its interval, a line an arm; arms stand a little apart."""
    table = _table(plot, run)
    arms = _arms(plot, run)
    lines = []
    for place, (number, arm, label) in enumerate(arms):
        cells = [_cell(table, arm.label, column) for column in range(len(plot.values))]
        # Side by side, so that whiskers do not cover each other.
        shift = 0.06 * (place - (len(arms) - 1) / 2)
        low, high = _ends(cells)
        y = tuple(NAN if cell.value is None else cell.value for cell in cells)
        lines.append(Line(label, number, tuple(i + shift for i in range(len(y))), y, low, high))
    names = plot.labels or [column.label for column in table.columns]
    across = Axis("segment of the clip", ticks=tuple((float(i), name) for i, name in enumerate(names)))
    panel = Panel(across, Axis(plot.axis or _heading(table)), tuple(lines), _best_at_zero(table.columns[0]))
    return Picture(plot.name, plot.title or "Quality over time", (panel,), _table_remarks(table))


def _complexity(plot: Plot, run: Run) -> Picture:
    """Cost of attention by form, log-log; of the newest record."""
    records = [record for group in run.groups if group.section == plot.section for record in _records(run, group)]
    panels = complexity.panels(records[-1].samples) if records else (Panel(Axis(""), Axis(""), ()),)
    # FLOPs and bytes are counted; seconds are measured, where there are any.
    remarks = _remarks(records[-1:], (), verb="Run")
    return Picture(plot.name, plot.title or "What attention costs by form", panels, remarks)


def _cache_history(plot: Plot, run: Run) -> Picture:
    """The frames that each chunk sees, a panel an arm, and the errors of attention; of the newest records."""
    arms = [
        (number, label, records[-1]) for number, label, group in _groups(plot, run) if (records := _records(run, group))
    ]
    shown = f"Frames of the first {history.MOST_ARMS} of {len(arms)} arms." if len(arms) > history.MOST_ARMS else ""
    remarks = (
        "A mark is a latent frame that the chunk sees, a cross one that is gone.",
        *history.remarks(arms),
        *((shown,) if shown else ()),
        "Errors: mean over layers and heads, in a band from the least to the greatest.",
    )
    panels = tuple(history.panels(arms)) or (Panel(Axis("chunk"), Axis("latent frame"), ()),)
    return Picture(plot.name, plot.title or "What stands in the cache", panels, remarks)


def _pareto(plot: Plot, run: Run) -> Picture:
    """Quality against each cost, the dominated arms grey."""
    table = tables.made(pareto.spec(plot), run)
    remarks = (*fronts.remarks(plot, run), *_table_remarks(table))
    title = plot.title or "Quality against what it costs"
    return Picture(plot.name, title, tuple(fronts.panels(plot, run, table)), remarks, tall=True)


KINDS: dict[str, Callable[[Plot, Run], Picture]] = {
    "cache_by_length": _cache_by_length,
    "cache_history": _cache_history,
    "memory_by_batch": _memory_by_batch,
    "pareto": _pareto,
    "chunk_time": _chunk_time,
    "quality_by_cache": _quality_by_cache,
    "quality_by_option": _quality_by_option,
    "quality_over_time": _quality_over_time,
    "complexity": _complexity,
}
"""Builders by the kind that a suite names."""


# ------------------------------------------------------------------------------ quality, as tables have it


def _table(plot: Plot, run: Run) -> Table:
    columns = [Column(value=value, metric=plot.metric) for value in plot.values]
    return tables.made(TableSpec(name=plot.name, columns=columns, models=plot.models), run)


def _cell(table: Table, arm: str, column: int) -> Cell:
    return next((row.cells[column] for row in table.rows if row.label == arm), Cell(""))


def _heading(table: Table) -> str:
    column = table.columns[0]
    return f"{column.label} ({column.unit})" if column.unit else column.label


def _best_at_zero(column: Heading) -> tuple[Rule, ...]:
    """A line at 0, for values that are better the nearer to 0 they are."""
    return (Rule("0", y=0.0),) if column.direction == "zero" else ()


def _ends(cells: Sequence[Cell]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if not any(cell.spread for cell in cells):
        return (), ()
    return tuple(_end(cell, cell.low) for cell in cells), tuple(_end(cell, cell.high) for cell in cells)


def _end(cell: Cell, end: float | None) -> float:
    """The end of an interval; of a value without one, the value itself."""
    value = NAN if cell.value is None else cell.value
    return value if end is None else end


def _table_remarks(table: Table) -> tuple[str, ...]:
    whiskers = ("Whiskers: 95 % interval, clustered by prompt.",) if table.legend().startswith("mean") else ()
    return (*whiskers, *(f"{mark} {text}." for mark, text in table.footnotes()), *table.remarks)
