"""The cells of a column set against each other: the best of them marked, or each over its run's reference."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from harness.contracts import Direction, Value
from harness.report import layout
from harness.report.layout import Cell

Cells = Mapping[tuple[int, str], Cell]
"""Cells of a column by (number of the run, label of the arm); a pair without one was never planned."""
OPPOSITE: Mapping[Direction, Direction] = {"higher": "lower", "lower": "higher", "none": "none"}


def ranked(cells: Cells, direction: Direction, comparable: Collection[tuple[int, str]]) -> Cells:
    """The same cells with the best of the comparable ones marked, where there are two that differ."""
    found = {place: cells[place].value for place in comparable if place in cells}
    numbers = {place: number for place, number in found.items() if number is not None and math.isfinite(number)}
    if direction == "none" or len(numbers) < 2:
        return cells
    best, worst = max(numbers.values()), min(numbers.values())
    if best == worst:
        return cells
    if direction == "lower":
        best = worst
    return {place: replace(cell, best=numbers.get(place) == best) for place, cell in cells.items()}


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
    """The heading of a column of ratios; what was the lower the better is inversely the higher the better."""
    if kind == "inverse":
        return layout.Column(label, "reference over this", OPPOSITE[value.direction])
    return layout.Column(label, "over reference", value.direction)
