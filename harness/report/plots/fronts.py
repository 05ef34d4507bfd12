"""Draw quality against what it costs: all arms of a suite, the dominated ones grey, and the front of the others."""

from __future__ import annotations

import math
from collections.abc import Sequence

from harness.report import pareto
from harness.report.plots.chart import Axis, Line, Panel
from harness.report.table import Heading, Row, Table
from harness.runs.records import Run
from harness.suite.schema import Plot

FRONT = 6
"""Number of the look of the line through the front: black."""


def panels(plot: Plot, run: Run, table: Table) -> list[Panel]:
    """A panel a cost, from the table of `pareto.spec`."""
    return [_panel(plot, run, table, cost) for cost in range(1, len(table.columns))]


def _panel(plot: Plot, run: Run, table: Table, cost: int) -> Panel:
    merits = pareto.points(table, cost)
    dominated = {label for label, by in pareto.dominators(merits).items() if by}
    looks = {arm.label: number for number, arm in enumerate(run.arms)}
    lines = []
    for row in table.rows:
        place, quality = row.cells[cost], row.cells[0]
        if place.value is None or quality.value is None:
            continue
        low = () if quality.low is None else (quality.low,)
        high = () if quality.high is None else (quality.high,)
        left, right = _range(run, plot.costs[cost - 1], row)
        grey = row.label in dominated or row.label not in merits
        label = _name(row, cost)
        look = looks[row.label]
        lines.append(
            Line(
                label,
                look,
                (place.value,),
                (quality.value,),
                low,
                high,
                joined=False,
                left=left,
                right=right,
                grey=grey,
            )
        )
    front = [row.label for row in table.rows if row.label in merits and row.label not in dominated]
    points = {row.label: (row.cells[cost].value or 0.0, row.cells[0].value or 0.0) for row in table.rows}
    corners = pareto.staircase([points[label] for label in front], [merits[label] for label in front])
    if len(corners) > 1:
        x, y = zip(*corners, strict=True)
        lines.insert(0, Line("", FRONT, x, y, marked=False, thin=True))
    up = Axis(plot.axis or _heading(table.columns[0]))
    return Panel(_across(table.columns[cost], [line.x[0] for line in lines]), up, tuple(lines), named=True, apart=True)


def _name(row: Row, cost: int) -> str:
    marks = dict.fromkeys((*row.marks, *row.cells[0].marks, *row.cells[cost].marks))
    return row.label + "".join(marks)


def _across(cost: Heading, places: Sequence[float]) -> Axis:
    """In bytes or seconds with prefixes; by powers where the costs lie far apart."""
    unit = {"bytes": "B"}.get(cost.unit, cost.unit)
    log = bool(places) and min(places) > 0 and max(places) > 4 * min(places)
    return Axis(cost.label, unit, log=log)


def _heading(column: Heading) -> str:
    return f"{column.label} ({column.unit})" if column.unit else column.label


def _range(run: Run, cost: str, row: Row) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The least and the greatest of the rounds that measured a cost; nothing where there are not two."""
    section, _, name = cost.partition(":")
    for group in run.groups:
        if (group.section, group.arm, group.kind) == (section, row.label, "measure"):
            numbers = [entry.values.get(name, math.nan) for entry in run.done(group)]
            finite = [number for number in numbers if math.isfinite(number)]
            if len(finite) > 1:
                return (min(finite),), (max(finite),)
    return (), ()


def remarks(plot: Plot, run: Run) -> tuple[str, ...]:
    """What grey, line and level whiskers mean."""
    measured = any(cost.partition(":")[0] != "card" for cost in plot.costs)
    several = any(section.rounds > 1 for section in run.suite.measure)
    return (
        f"Grey: dominated, or not compared as a value is in doubt. {pareto.RULE} The line runs through the other arms.",
        *("Level whiskers: least and greatest of the rounds.",) * (measured and several),
    )
