"""The cells of a column set against each other: the best of them marked, or each over its run's reference."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from harness.contracts import Direction, Value
from harness.report import layout
from harness.report.layout import Cell
from harness.report.leads import Place, Standing

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

    Not one that a mark casts doubt on, that rests on one round, or that lies within the floor of the next; one that is
    not told from the next is marked so.

    Args:
        standing: how a best cell stands against the next, as `harness.report.leads` says it.
    """
    found = {place: cells[place].value for place in comparable if place in cells}
    numbers = {place: number for place, number in found.items() if number is not None and math.isfinite(number)}
    if direction == "none" or len(numbers) < 2:
        return cells
    merits = {place: MERIT[direction](number) for place, number in numbers.items()}
    best = max(merits.values())
    others = {place: merit for place, merit in merits.items() if merit != best}
    if not others:
        return cells
    behind = max(others, key=lambda place: (others[place], -place[0]))
    leading = {}
    for place, cell in cells.items():
        if merits.get(place) != best or set(cell.marks) & layout.DOUBTS or cell.rounds == 1:
            continue
        stands = standing(behind, place)
        if stands != "equal":
            leading[place] = replace(cell, best=True, marks=(*cell.marks, *(layout.NOT_TOLD,) * (stands == "unclear")))
    return {**cells, **leading}


def over_reference(
    cells: Cells, references: Sequence[str], spec: str, kind: Literal[True, "inverse"]
) -> dict[tuple[int, str], Cell]:
    """Each cell over that of its run's reference arm, or for `inverse` the reference's over it.

    Undefined where either has no number, or the divisor is 0.

    Args:
        references: label of each run's reference arm.
    """
    found = {}
    for (number, arm), cell in cells.items():
        base = cells.get((number, references[number]))
        pair = (cell.value, base.value if base else None)
        above, below = pair[::-1] if kind == "inverse" else pair
        if cell.value is None:
            found[number, arm] = cell
        elif above is None or not below:
            found[number, arm] = replace(cell, text="undefined", value=None, low=None, high=None, spread="")
        else:
            text = format(above / below, spec or ".3g")
            found[number, arm] = replace(cell, text=text, value=above / below, low=None, high=None, spread="")
    return found


def heading(label: str, value: Value, kind: Literal[True, "inverse"]) -> layout.Column:
    """The heading of a column of ratios; what was the lower the better is inversely the higher the better.

    How far from 0 a ratio to what lies near 0 should be is not said.
    """
    if kind == "inverse":
        return layout.Column(label, "reference over this", OPPOSITE[value.direction])
    return layout.Column(label, "over reference", "none" if value.direction == "zero" else value.direction)
