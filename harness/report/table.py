"""A table as data: the text of each cell and the number behind it. Renderers only draw it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from harness.contracts import Direction

RANDOM_WEIGHTS = "†"
UNDEFINED = "‡"
INCOMPLETE = "*"
CONTENDED = "§"
UNCONVERGED = "¶"
UNCLEARED = "‖"
UNHELD = "#"
NOT_TOLD = "≈"
FAULT = "!"
UNLIKE = "≠"
APART = "∘"
AT_LEAST = "◇"
ELSEWHERE = "□"
UNBOUNDED = "?"

NOTES = {
    RANDOM_WEIGHTS: "random weights: only speed and memory mean anything, and quality is never ranked",
    UNDEFINED: "not defined for every clip; the clips where it is not are left out of the mean",
    INCOMPLETE: "fewer clips than planned; never ranked",
    CONTENDED: "other work ran on the device meanwhile, so speed is a lower bound at best",
    UNCONVERGED: "the ceiling of seconds came before the stop rule was met",
    UNCLEARED: "no audit has cleared the model of serving repeated requests from a cache: it was left out or unclear",
    UNHELD: "no slow reference stands behind the model's fast path in this record, so a wrong result may be a fast one",
    UNLIKE: "of another kind than others of its column, as said below the table; never ranked",
    APART: "not timed in turns with the others (A B B A), so that drift of the device falls on it alone; never ranked",
    AT_LEAST: "a bound: the search ended before it met a limit, so that the column is not ranked",
    ELSEWHERE: "clips made elsewhere that differ, or are not all scored as they were, as said below the table",
    UNBOUNDED: "without an interval: that takes two raters and two prompts, and votes that differ",
    FAULT: "a plug-in failed over these results, as the cell says; no other cell rests on that",
    NOT_TOLD: "best, but not told from the next: harness compare says UNCLEAR or has no verdict",
}
"""The footnote of each mark."""
DOUBTS = frozenset({INCOMPLETE, CONTENDED, UNCONVERGED, UNCLEARED, UNHELD, UNLIKE, APART, AT_LEAST})
"""Marks that cast doubt on a value, so that it is never the best of its column."""


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading. `unit` may be empty; `direction` says which way is better and draws the arrow."""

    label: str
    unit: str = ""
    direction: Direction = "none"


@dataclass(frozen=True, slots=True)
class Cell:
    """One entry.

    Attributes:
        text: as shown, as in `0.912` or `not measured`.
        value: the number behind `text`; None where there is none.
        low, high: ends of its 95 % interval; None where it has none. `spread` is their text.
        scored, planned: how many results the value rests on, and how many were planned; None where it is no mean.
        rounds: how many rounds a measured value is the median of; None where it is no median, or ranks nothing.
        is_text: whether `text` is the content, as a verdict is, and does not stand in place of a number.
        best: whether the value leads its column among comparable rows.
        marks: symbols of footnotes.
    """

    text: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    spread: str = ""
    scored: int | None = None
    planned: int | None = None
    rounds: int | None = None
    is_text: bool = False
    best: bool = False
    marks: tuple[str, ...] = ()

    @property
    def count(self) -> str:
        """`scored/planned`, or the rounds, or nothing."""
        if self.rounds is not None:
            return f"{self.rounds} round" + "s" * (self.rounds != 1)
        return "" if self.planned is None else f"{self.scored}/{self.planned}"


@dataclass(frozen=True, slots=True)
class Row:
    """One arm, with a cell for each column.

    Attributes:
        reference: whether it is the arm that others are compared with.
        published: source and hardware of a row that was not measured here; empty for measured ones.
    """

    label: str
    cells: tuple[Cell, ...]
    reference: bool = False
    marks: tuple[str, ...] = ()
    published: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under columns.

    Attributes:
        name: of its files. title: above it. corner: heading of the row labels.
        remarks: sentences below it that belong to no mark.
        notes: footnotes by mark, where a table has marks of its own.
        interval: the legend of a cell with a spread.
    """

    name: str
    title: str
    columns: tuple[Heading, ...]
    rows: tuple[Row, ...]
    corner: str = "model"
    remarks: tuple[str, ...] = ()
    notes: tuple[tuple[str, str], ...] = ()
    interval: str = "mean [95 % interval, clustered by prompt]"

    def footnotes(self) -> list[tuple[str, str]]:
        """Every mark of the table with its footnote, in the order of first use."""
        text_by_mark = {**NOTES, **dict(self.notes)}
        in_order = [mark for row in self.rows for marks in (row.marks, *(c.marks for c in row.cells)) for mark in marks]
        return [(mark, text_by_mark[mark]) for mark in dict.fromkeys(in_order)]

    def legend(self) -> str:
        """The parts of a cell in words; empty where no cell has any."""
        cells = [cell for row in self.rows for cell in row.cells]
        parts = []
        if any(cell.spread for cell in cells):
            parts.append(self.interval)
        if any(cell.planned is not None for cell in cells):
            parts.append("scored/planned")
        if any(cell.rounds is not None for cell in cells):
            parts.append("the median of so many rounds")
        if any(cell.best for cell in cells):
            parts.append("best in bold")
        if any(row.published for row in self.rows):
            parts.append("published rows in italics, as their sources print them: not measured here and never ranked")
        return ", ".join(parts)


REHEARSAL = "Rehearsal with tiny models of random weights: no number here is a result."


def rehearsed(table: Table) -> Table:
    """`table` with title, every row and the first remark saying that it is of a rehearsal, and nothing ranked."""
    rows = tuple(
        replace(row, label=f"rehearsal: {row.label}", cells=tuple(replace(cell, best=False) for cell in row.cells))
        for row in table.rows
    )
    title = f"REHEARSAL, no result: {table.title}"
    return replace(table, title=title, rows=rows, remarks=(REHEARSAL, *table.remarks))


def stacked(tables: Mapping[str, Table]) -> Table:
    """Tables of one row and the same columns as one table, its rows named by `tables`. Equal remarks stand once."""
    first = next(iter(tables.values()))
    remarks = [remark.removeprefix(f"{name}: ") for name, table in tables.items() for remark in table.remarks]
    if len(set(remarks)) > 1:
        remarks = [remark for table in tables.values() for remark in table.remarks]
    rows = tuple(replace(table.rows[0], label=name) for name, table in tables.items())
    sentences = tuple(dict.fromkeys(remark[:1].upper() + remark[1:] for remark in remarks))
    return replace(first, rows=rows, corner="section", remarks=sentences)


def numeral(number: float, scale: float, spec: str) -> str:
    """`number` in the format `spec`, or with as many digits as suit a number of the size of `scale`."""
    if spec:
        # Python takes no precision with a whole number, nor `d` with another.
        return format(round(number) if spec.endswith("d") else float(number) if "." in spec else number, spec)
    if isinstance(number, int):
        return f"{number:,}"
    size = abs(scale)
    if size and (size < 1e-3 or size >= 1e7):
        return f"{number:.3g}"
    return f"{number:.3f}" if size < 10 else f"{number:.1f}" if size < 1000 else f"{number:,.0f}"
