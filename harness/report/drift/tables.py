"""A table a curve with every definition of drift, and one that says whose rankings of the arms differ."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from harness.contracts import Curve, Value
from harness.errors import Incomplete
from harness.report.cells import MERIT, estimate_cell, gap_marks
from harness.report.drift.curves import Tracks, chosen_curves, chosen_definitions, file_of, read_tracks, title_of
from harness.report.drift.definitions import Definition
from harness.report.samples import effect
from harness.report.table import RANDOM_WEIGHTS, UNDEFINED, Cell, Heading, Row, Table
from harness.report.view import View
from harness.stats.estimates import clustered_mean
from harness.suite.sampled import AT_SWITCHES, Drift, DriftDefinition
from harness.suite.schema import GenerateSection
from harness.suite.scripts import scripts_of, words

NOT_RECORDED = Cell("not recorded")
UNBOUNDED = "∞"


def tables(views: Sequence[View]) -> Iterator[Table]:
    """Every table of drift that the suites of `views` ask for; of several runs each starts with its folder's name.

    Raises `Incomplete` where clips are missing and the suite refuses such means.
    """
    for view in views:
        prefix = f"{view.run.folder.name}-" if len(views) > 1 else ""
        for drift in view.run.suite.drift:
            yield from _tables(view, drift, prefix)


@dataclass(frozen=True, slots=True)
class Numbers:
    """One definition of a curve on the clips of every arm.

    Attributes:
        name: of the definition. value: how to read it.
        by_arm: [clips] by label. tracks: the curve behind it, by label.
        ranked: labels of the arms that count.
    """

    name: DriftDefinition
    value: Value
    definition: Definition
    by_arm: Mapping[str, NDArray[np.float64]]
    tracks: Mapping[str, Tracks]
    ranked: Sequence[str]

    def merits(self) -> dict[str, float]:
        """How good the mean of each arm is, the more the better; without arms that have none."""
        means = {label: _mean(self.by_arm[label]) for label in self.ranked}
        return {label: MERIT[self.value.direction](mean) for label, mean in means.items() if not math.isnan(mean)}

    def shown(self, first: str, second: str) -> bool:
        """Whether the 95 % interval of the paired difference of two arms leaves out 0."""
        places, others = (self.tracks[label].samples.places for label in (first, second))
        _, *at = np.intersect1d(places, others, return_indices=True)
        left, right = (self.by_arm[label][rows] for label, rows in zip((first, second), at, strict=True))
        defined = np.isfinite(left) & np.isfinite(right)
        if not defined.any():
            return False
        prompts = self.tracks[first].samples.prompts[at[0]][defined]
        try:
            estimate = effect(self.value, left[defined], right[defined], prompts).estimate
        except ValueError:
            return False
        return estimate.bounded and (estimate.low > 0 or estimate.high < 0)


def _mean(numbers: NDArray[np.float64]) -> float:
    defined = numbers[~np.isnan(numbers)]
    return float(defined.mean()) if defined.size else math.nan


def _tables(view: View, drift: Drift, prefix: str) -> Iterator[Table]:
    section = next(each for each in view.run.suite.generate if each.name == drift.section)
    labels = [label for label in view.arms if drift.models is None or label in drift.models]
    title = drift.title or drift.name
    rankings: list[Row] = []
    sentences: list[str] = []
    read: dict[tuple[str, str], dict[str, Tracks]] = {}
    for metric, curve in chosen_curves(drift, section):
        definitions = chosen_definitions(drift, curve, bool(section.switches))
        groups = {label: group for label in labels if (group := view.groups.get((section.name, metric, label)))}
        for label, group in groups.items():
            if (metric, label) not in read:
                read[metric, label] = read_tracks(view, section, group, drift.seconds)
        tracks = {label: read[metric, label][curve.value.name] for label in groups}
        columns = [_numbers(view, name, each, curve, tracks) for name, each in definitions]
        if not columns:
            continue
        name = title_of(metric, curve, section)
        yield Table(
            f"{prefix}{drift.name}-{file_of(metric, curve, section)}",
            f"{title}: {name}",
            tuple(Heading(c.value.label, c.value.unit, c.value.direction) for c in columns),
            tuple(_row(view, section, metric, label, columns) for label in labels if label in groups),
            remarks=(f"Along the clips of {section.name}, in pieces of {drift.seconds:g} s.", _sources(columns)),
        )
        if len(section.switches) > 1 and any(column.name in AT_SWITCHES for column in columns):
            yield _each_switch(view, section, metric, curve, f"{prefix}{drift.name}", title, columns)
        # What happens at a switch is no drift.
        rows, reversals = _ranking(name, [column for column in columns if column.name not in AT_SWITCHES])
        rankings += rows
        sentences += reversals
    if rankings:
        headings = (*(Heading(label) for label in labels), Heading("against the first"))
        cells = [replace(row, cells=_by_label(row, labels)) for row in rankings]
        closing = "Ranks by means. A difference is shown where its 95 % interval, paired and by prompt, leaves out 0."
        yield Table(
            f"{prefix}{drift.name}-rankings",
            f"{title}: which ranking changes with the definition",
            headings,
            tuple(cells),
            corner="curve and definition",
            remarks=(*(sentences or ["No two definitions rank the arms differently."]), closing),
        )


def _numbers(
    view: View, name: DriftDefinition, definition: Definition, curve: Curve, tracks: Mapping[str, Tracks]
) -> Numbers:
    counted = [
        label
        for label, each in tracks.items()
        if view.arms[label].card.weights != "random" and not each.samples.incomplete and each.recorded
    ]
    by_arm = {label: each.numbers(definition) for label, each in tracks.items()}
    return Numbers(name, definition.value(name, curve.value), definition, by_arm, tracks, counted)


def _each_switch(
    view: View,
    section: GenerateSection,
    metric: str,
    curve: Curve,
    file: str,
    title: str,
    columns: Sequence[Numbers],
) -> Table:
    """The definitions of a switch for each of several by itself, a row an arm and switch."""
    scripts = scripts_of(view.run.suite, section)
    at_switches = [column for column in columns if column.name in AT_SWITCHES]
    rows = []
    for label, tracks in at_switches[0].tracks.items():
        for number, switch in enumerate(section.switches):
            own = [_own_number(scripts[place // len(section.seeds)].later, number) for place in tracks.samples.places]
            alone = [t if t is None else replace(t, which=at) for t, at in zip(tracks.tracks, own, strict=True)]
            one = {label: Tracks(tracks.samples, alone)}
            numbers = [_numbers(view, column.name, column.definition, curve, one) for column in at_switches]
            row = _row(view, section, metric, label, numbers)
            rows.append(replace(row, label=f"{label}, switch {number + 1} (asked for at {words(switch)})"))
    return Table(
        f"{file}-{file_of(metric, curve, section)}-switches",
        f"{title}: {title_of(metric, curve, section)} at each prompt switch",
        tuple(Heading(c.value.label, c.value.unit, c.value.direction) for c in at_switches),
        tuple(rows),
        corner="model and switch",
    )


def _own_number(later: Sequence[str], number: int) -> int:
    """The number among its own of the switch `number` of a section, of a clip with the prompts `later`; -1 without."""
    return sum(map(bool, later[:number])) if later[number] else -1


def _sources(columns: Sequence[Numbers]) -> str:
    parts = (f"{column.value.label} ({column.definition.source})" for column in columns)
    return f"Definitions: {'; '.join(parts)}."


# --------------------------------------------------------------------------------------- one curve's table


def _row(view: View, section: GenerateSection, metric: str, label: str, columns: Sequence[Numbers]) -> Row:
    cells = [_cell(view, section, metric, label, column) for column in columns]
    random = view.arms[label].card.weights == "random"
    return Row(label, tuple(cells), label == view.run.suite.reference, (RANDOM_WEIGHTS,) * random)


def _cell(view: View, section: GenerateSection, metric: str, label: str, column: Numbers) -> Cell:
    group, tracks = view.groups[section.name, metric, label], column.tracks[label]
    samples, shortfalls = tracks.samples, list[str]()
    if samples.skip is not None and samples.skipped == samples.planned:
        return Cell(f"not available: {view.reason(samples.skip)}")
    marks = gap_marks(view, group, samples, shortfalls)
    if shortfalls:
        raise Incomplete(
            f"drift of {section.name!r} is refused: " + "; ".join(shortfalls),
            "run the suite again to fill what is missing, or say `incomplete: mark` in it",
        )
    if not samples.scored:
        return Cell("failed" if samples.failed else "not measured", scored=0, planned=samples.planned, marks=marks)
    if not tracks.recorded:
        return replace(NOT_RECORDED, marks=marks)
    numbers = column.by_arm[label]
    defined = ~np.isnan(numbers)
    unbounded = int(np.isinf(numbers).sum())
    if not defined.all():
        marks = (*marks, UNDEFINED)
    if unbounded:
        return Cell(f"{UNBOUNDED} in {unbounded}", scored=samples.scored, planned=samples.planned, marks=marks)
    share = column.value.share
    cell = estimate_cell(clustered_mean(numbers[defined], samples.prompts[defined], share=share), "")
    return replace(cell, scored=samples.scored, planned=samples.planned, marks=marks)


# ------------------------------------------------------------------------------------------- the rankings


def _by_label(row: Row, labels: Sequence[str]) -> tuple[Cell, ...]:
    ranks = dict(zip(labels, row.cells[:-1], strict=False))
    return (*(ranks.get(label, Cell("-")) for label in labels), row.cells[-1])


def _ranking(name: str, columns: Sequence[Numbers]) -> tuple[list[Row], list[str]]:
    """A row for each definition that has a better direction, and a sentence for each pair that some reverse."""
    directed = [column for column in columns if column.value.direction != "none" and len(column.merits()) > 1]
    rows = []
    reversals: dict[tuple[str, str], list[Numbers]] = {}
    for number, column in enumerate(directed):
        merits = column.merits()
        ranks = {label: 1 + sum(other > merit for other in merits.values()) for label, merit in merits.items()}
        pairs = [pair for pair in _ahead(directed[0]) if pair[::-1] in _ahead(column)]
        for pair in pairs:
            reversals.setdefault(pair, []).append(column)
        # Ahead by the first definition is behind by this one.
        texts = [f"{behind} before {ahead} ({_evidence(column, (ahead, behind))})" for ahead, behind in pairs]
        against = "first" if number == 0 else "; ".join(texts) or "same order"
        cells = [
            Cell(str(ranks[label]), float(ranks[label])) if label in ranks else Cell("-") for label in column.by_arm
        ]
        rows.append(Row(f"{name}: {column.value.label}", (*cells, Cell(against, is_text=True))))
    sentences = []
    for pair, by in reversals.items():
        others = ", ".join(f"{column.value.label} ({_evidence(column, pair)})" for column in by)
        first = f"{directed[0].value.label} ({_evidence(directed[0], pair)})"
        sentences.append(f"{name}: {pair[0]} is ahead of {pair[1]} by {first}, and behind it by {others}.")
    return rows, sentences


def _ahead(column: Numbers) -> list[tuple[str, str]]:
    """Every (better, worse) pair of arms; of two infinities neither is ahead."""
    merits = column.merits()
    return [pair for pair in permutations(merits, 2) if merits[pair[0]] > merits[pair[1]]]


def _evidence(column: Numbers, pair: tuple[str, str]) -> str:
    return "shown" if column.shown(*pair) else "unclear"
