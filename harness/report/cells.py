"""Make the cells of a table; mark the best cell of a column, or express each as a ratio to the reference model."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from harness.contracts import Direction, ModelCard, Value, enforce
from harness.errors import PluginFault
from harness.report.samples import Samples, aggregates, doubts, estimate
from harness.report.table import AT_LEAST, DOUBTS, FAULT, INCOMPLETE, NOT_TOLD, UNDEFINED, Cell, Heading, numeral
from harness.report.verdicts import Standing
from harness.report.view import AnySection, Place, View
from harness.runs.plan import Arm, Group
from harness.stats.estimates import Estimate
from harness.suite.schema import GenerateSection, MeasureSection

Cells = Mapping[Place, Cell]
"""Cells of a column by (number of the run, label of the arm); a pair without one was never planned."""

Standings = Callable[[Place, Place], Standing]

OPPOSITE: Mapping[Direction, Direction] = {"higher": "lower", "lower": "higher", "zero": "none", "none": "none"}

MERIT: Mapping[Direction, Callable[[float], float]] = {
    "higher": lambda number: number,
    "lower": lambda number: -number,
    "zero": lambda number: -abs(number),
}
"""The more the better, by direction."""


def ranked(cells: Cells, direction: Direction, comparable: Collection[Place], standing: Standings) -> Cells:
    """The same cells with the best of the comparable ones marked, where there are two that differ.

    A cell is not best where a mark casts doubt on it, where it rests on one round, or within the floor of the next. A
    best cell that cannot be told from the next has a mark for that.

    Args:
        standing: the standing of a best cell against the next, from `harness.report.leads`.
    """
    numbers_or_none = {place: cells[place].value for place in comparable if place in cells}
    numbers = {
        place: number for place, number in numbers_or_none.items() if number is not None and math.isfinite(number)
    }
    if direction == "none" or len(numbers) < 2 or any(AT_LEAST in cells[place].marks for place in numbers):
        return cells
    merits = {place: MERIT[direction](number) for place, number in numbers.items()}
    best = max(merits.values())
    others = {place: merit for place, merit in merits.items() if merit != best}
    if not others:
        return cells
    # Of equal ones that of the first run.
    behind = max(others, key=lambda place: (others[place], -place[0]))
    leading = {}
    for place, cell in cells.items():
        if merits.get(place) != best or set(cell.marks) & DOUBTS or cell.rounds == 1:
            continue
        stands = standing(behind, place)
        if stands != "equal":
            leading[place] = replace(cell, best=True, marks=(*cell.marks, *(NOT_TOLD,) * (stands == "unclear")))
    return {**cells, **leading}


def over_reference(
    cells: Cells, references: Sequence[str], spec: str, kind: Literal[True, "inverse"]
) -> dict[tuple[int, str], Cell]:
    """Each cell over that of its run's reference arm, or for `inverse` the reference's over it.

    Undefined where either has no number, or the divisor is 0.

    Args:
        references: label of each run's reference arm.
    """
    ratios = {}
    for (number, arm), cell in cells.items():
        base = cells.get((number, references[number]))
        pair = (cell.value, base.value if base else None)
        above, below = pair[::-1] if kind == "inverse" else pair
        bound = _bound_of_ratio(cell, base, kind)
        ratio = math.nan if above is None or not below else above / below
        if cell.value is None:
            ratios[number, arm] = cell
        elif bound is None or not math.isfinite(ratio):
            ratios[number, arm] = replace(cell, text=UNDEFINED_TEXT, value=None, low=None, high=None, spread="")
        else:
            text = bound + numeral(ratio, ratio, spec or ".3g")
            ratios[number, arm] = replace(cell, text=text, value=ratio, low=None, high=None, spread="")
    return ratios


def _bound_of_ratio(cell: Cell, base: Cell | None, kind: Literal[True, "inverse"]) -> str | None:
    """What stands before a ratio of values that may be lower bounds; None where nothing can be said of it."""
    bounds = [base is not None and AT_LEAST in base.marks, AT_LEAST in cell.marks]
    if cell is base:
        return ""
    above, below = bounds if kind == "inverse" else bounds[::-1]
    return None if above and below else ">= " * above or "<= " * below


def heading(label: str, value: Value, kind: Literal[True, "inverse"]) -> Heading:
    """The heading of a column of ratios. `inverse` turns the better direction round.

    A ratio to a value near 0 has no better direction.
    """
    if kind == "inverse":
        return Heading(label, "reference over this", OPPOSITE[value.direction])
    return Heading(label, "over reference", "none" if value.direction == "zero" else value.direction)


CARD = {
    "cached_scalars": Value("cached_scalars", "per token and layer", "lower", "cached scalars"),
    "cache_bytes": Value("cache_bytes", "bytes", "lower", "cache"),
    "transient_bytes": Value("transient_bytes", "bytes", "lower", "transient keys and values"),
    "forwards_per_chunk": Value("forwards_per_chunk", "", "lower", "forward passes per chunk"),
    "parameters": Value("parameters", "", "none", "parameters"),
    "frames_per_chunk": Value("frames_per_chunk", "pixel frames", "none", "chunk"),
    "temporal_ratio": Value("temporal_ratio", "pixel per latent frame", "none", "temporal ratio"),
    "window_frames": Value("window_frames", "latent frames", "none", "window"),
    "sink_frames": Value("sink_frames", "latent frames", "none", "sink"),
}
"""Units, directions and labels of the fields of a model's card. Any other field has its own name and is not ranked."""


def number(card: ModelCard, name: str) -> int | float | None:
    """The field `name` of `card`, or of its details, where it is a finite number."""
    content = getattr(card, name, card.details.get(name))
    if not isinstance(content, int | float) or isinstance(content, bool) or not abs(content) < sys.float_info.max:
        return None
    return content


def card_cell(arm: Arm, name: str, spec: str) -> Cell:
    """The field `name` of the card of `arm`, in the format `spec`."""
    content = number(arm.card, name)
    if content is None:
        text = getattr(arm.card, name, arm.card.details.get(name))
        return Cell("-" if text is None else str(text), is_text=text is not None)
    return Cell(numeral(content, content, spec), float(content))


NOT_MEASURED = Cell("not measured")
REFERENCE = Cell("reference")
"""Of an arm that the others of its column are held against."""
UNDEFINED_TEXT = "undefined"


# -------------------------------------------------------------------------------------------- one cell


def cell_of(
    view: View,
    section: AnySection,
    group: Group,
    value: Value,
    spec: str,
    shortfalls: list[str],
    other_groups: Sequence[Group] = (),
) -> Cell:
    """The cell of one arm. Missing results are named in `shortfalls` where the suite refuses incomplete means."""
    samples, name = view.samples(section, group), value.name
    scored, planned = samples.scored, samples.planned
    if samples.skip is not None and samples.skipped == planned:
        return Cell(f"not available: {view.reason(samples.skip)}")
    marks = gap_marks(view, group, samples, shortfalls)
    if not scored:
        text = f"failed: {view.failure(samples.failure)}" if samples.failure else "not measured"
        return Cell(text, scored=0, planned=planned, marks=marks)
    if isinstance(section, MeasureSection):
        marks = (*marks, *doubts(samples.judgements), *view.uncleared(section, group))
        unless = samples.values.get(value.at_least_unless)
        at_least = unless is not None and bool((unless == 0).any())
        cell = _measured_cell(samples.values[name], value, spec, (*marks, *(AT_LEAST,) * at_least))
        reason = view.lack(samples, name) if cell.value is None else ""
        return Cell(f"not available: {reason}", marks=marks) if reason else cell
    try:
        cell = _score_cell(view, section, group, value, spec, shortfalls, other_groups, marks)
    except PluginFault as fault:
        cell = Cell(f"failed: {fault.message}", marks=(*marks, FAULT))
    return _explained(replace(cell, scored=scored, planned=planned), view, section, group, name)


def _score_cell(
    view: View,
    section: GenerateSection,
    group: Group,
    value: Value,
    spec: str,
    shortfalls: list[str],
    other_groups: Sequence[Group],
    marks: tuple[str, ...],
) -> Cell:
    """The aggregate of a metric's value, or the value derived of such. Raises `PluginFault`."""
    samples, name, metric = view.samples(section, group), value.name, view.metric(section, group.plugin)
    if name not in samples.values:
        means = dict(aggregates(metric, samples))
        for other in other_groups:
            other_section = view.section(other.section)
            assert isinstance(other_section, GenerateSection)
            other_samples = view.samples(other_section, other)
            marks = marks or gap_marks(view, other, other_samples, shortfalls)
            means |= aggregates(view.metric(other_section, other.plugin), other_samples)
        derived = enforce.derive(metric, means).get(name, math.nan)
        return replace(estimate_cell(Estimate(derived, math.nan, math.nan, samples.scored, 0), spec), marks=marks)
    if any(np.isnan(samples.values[each.name]).any() for each in metric.values if each.name == name):
        marks = (*marks, UNDEFINED)
    return replace(estimate_cell(estimate(metric, name, samples), spec), marks=marks)


def _measured_cell(rounds: NDArray[np.float64], value: Value, spec: str, marks: tuple[str, ...]) -> Cell:
    """The median of the rounds that define the value. The number of rounds is shown where the column is ranked."""
    # A round of too few samples has no percentile, say; the others still count.
    defined = rounds[np.isfinite(rounds)]
    if not defined.size:
        return Cell(UNDEFINED_TEXT, marks=marks)
    middle = float(np.median(defined))
    exact = int(middle) if middle.is_integer() and not spec else middle
    rounds_shown = defined.size if value.direction != "none" else None
    text = ">= " * (AT_LEAST in marks) + numeral(exact, middle, spec)
    return Cell(text, middle, rounds=rounds_shown, marks=marks)


def _explained(cell: Cell, view: View, section: GenerateSection, group: Group, name: str) -> Cell:
    """The cell; where the value is undefined, the reason in a record, or that the metric's options leave it out."""
    if cell.text != UNDEFINED_TEXT:
        return cell
    if reason := view.lack(view.samples(section, group), name):
        return Cell(f"not available: {reason}")
    return cell if view.asked_for(section, group.plugin, [Value(name)]) else Cell("not asked for")


def gap_marks(view: View, group: Group, samples: Samples, shortfalls: list[str]) -> tuple[str, ...]:
    """The mark of a group that lacks results. They are named in `shortfalls` where the suite refuses such means."""
    if samples.scored == samples.planned:
        return ()
    if view.run.suite.incomplete == "refuse":
        arm = f" of {group.arm}" if group.arm else ""
        shortfalls.append(f"{group.section}: {group.plugin} has {samples.scored} of {samples.planned} results{arm}")
    return (INCOMPLETE,)


def estimate_cell(estimate: Estimate, spec: str) -> Cell:
    """A value with its interval, in the format `spec`; `undefined` where it is not finite."""
    if not math.isfinite(estimate.value):
        return Cell(UNDEFINED_TEXT)
    text = numeral(estimate.value, estimate.value, spec)
    if not estimate.bounded:
        return Cell(text, estimate.value)
    ends = [numeral(end, estimate.value, spec) for end in (estimate.low, estimate.high)]
    return Cell(text, estimate.value, estimate.low, estimate.high, f"[{', '.join(ends)}]")
