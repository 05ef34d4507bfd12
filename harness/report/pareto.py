"""Say which arms another one dominates: at least its quality at no more cost, and better in one of the two."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from harness.contracts import Direction
from harness.report.cells import MERIT
from harness.report.table import DOUBTS, RANDOM_WEIGHTS, Cell, Heading, Row, Table
from harness.suite.schema import Column, Plot, TableSpec

MOST_NAMED = 3
"""Arms that a cell names; of more it says how many."""

RULE = (
    "An arm is dominated where another has at least its quality at no more cost, and is better in one of them; by the "
    "values shown, whether or not their intervals tell the arms apart."
)


def spec(plot: Plot) -> TableSpec:
    """The quality of a plot of kind `pareto`, and behind it its costs, as columns of a table."""
    columns = [Column(value=plot.values[0], metric=plot.metric), *(Column(value=cost) for cost in plot.costs)]
    return TableSpec(name=plot.name, title=plot.title or plot.name, columns=columns, models=plot.models)


def merit(direction: Direction, number: float, otherwise: Direction) -> float:
    """How good a number is, the more the better; of a value without a better direction as if it had `otherwise`."""
    return MERIT[otherwise if direction == "none" else direction](number)


def points(table: Table, cost: int) -> dict[str, tuple[float, float]]:
    """By label the merits in quality and in the cost of column `cost`, of the rows that can be compared.

    Random weights have no quality, and a value in doubt is never ranked.
    """
    result = {}
    for row in table.rows:
        cells = [row.cells[0], row.cells[cost]]
        doubtful = RANDOM_WEIGHTS in row.marks or any(set(cell.marks) & DOUBTS for cell in cells)
        numbers = [math.nan if cell.value is None else cell.value for cell in cells]
        if not doubtful and all(map(math.isfinite, numbers)):
            result[row.label] = (
                merit(table.columns[0].direction, numbers[0], "higher"),
                merit(table.columns[cost].direction, numbers[1], "lower"),
            )
    return result


def dominators(merits: Mapping[str, tuple[float, float]]) -> dict[str, list[str]]:
    """For each arm the arms that dominate it; none on the front."""
    return {
        label: [
            other for other, theirs in merits.items() if theirs != own and theirs[0] >= own[0] and theirs[1] >= own[1]
        ]
        for label, own in merits.items()
    }


def with_dominators(table: Table) -> Table:
    """The table of `spec` with a column for each cost that says by which arms a row is dominated."""
    headings, by_cost = [], []
    for cost in range(1, len(table.columns)):
        headings.append(Heading(f"dominated, by {table.columns[cost].label}"))
        by_cost.append(dominators(points(table, cost)))
    rows = tuple(replace(row, cells=(*row.cells, *(_cell(row, arms) for arms in by_cost))) for row in table.rows)
    return replace(table, columns=(*table.columns, *headings), rows=rows, remarks=(*table.remarks, RULE))


def _cell(row: Row, arms: Mapping[str, Sequence[str]]) -> Cell:
    if row.label not in arms:
        return Cell("not compared")
    by = arms[row.label]
    more = f" and {len(by) - MOST_NAMED} more" if len(by) > MOST_NAMED else ""
    return Cell(f"by {'; '.join(by[:MOST_NAMED])}{more}" if by else "no", is_text=True)


def staircase(
    places: Sequence[tuple[float, float]], merits: Sequence[tuple[float, float]]
) -> list[tuple[float, float]]:
    """The corners of the line through the points of a front, from the best cost to the best quality.

    Args:
        places: (cost, quality) of each point. merits: (merit in quality, merit in cost) of each.
    """
    corners: list[tuple[float, float]] = []
    for _, place in sorted(zip(merits, places, strict=True), key=lambda pair: (-pair[0][1], pair[0][0])):
        if corners:
            corners.append((place[0], corners[-1][1]))
        corners.append(place)
    return corners
