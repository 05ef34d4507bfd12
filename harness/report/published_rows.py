"""Published figures as rows of a table. They stand below the measured rows and are never ranked with them."""

from __future__ import annotations

import string
from collections.abc import Sequence

from harness.report.table import Cell, Row, numeral
from harness.suite.published import RATIO, SCALES, Figure, select
from harness.suite.schema import Column, TableSpec


def rows(spec: TableSpec) -> tuple[list[Row], tuple[tuple[str, str], ...]]:
    """The published rows of a table, and their footnotes by mark."""
    marks: dict[str, str] = {}
    table_rows = []
    by_setting = any(column.published and not column.published.setting for column in spec.columns)
    for selection in spec.published:
        groups: dict[tuple[str, str, str], list[Figure]] = {}
        for figure in select(selection):
            setting = figure.setting if by_setting else ""
            groups.setdefault((figure.source, figure.model, setting), []).append(figure)
        settings = {(source, setting) for source, _, setting in groups}
        for (source, model, setting), figures in groups.items():
            cells, shown_figures = _cells(spec.columns, figures, marks)
            if not shown_figures:
                continue
            name_setting = by_setting and len({s for of, s in settings if of == source}) > 1
            table_rows.append(
                Row(
                    f"{model}, {setting}" if name_setting else model,
                    cells,
                    published=_origin(source, selection.table, shown_figures),
                )
            )
    return table_rows, tuple((mark, note) for note, mark in marks.items())


def _cells(
    columns: Sequence[Column], figures: Sequence[Figure], marks: dict[str, str]
) -> tuple[tuple[Cell, ...], list[Figure]]:
    """A cell for each column, and the figures in them. New notes get a mark in `marks`."""
    cells, shown_figures = [], []
    for column in columns:
        place = column.published
        figure = next(
            (f for f in figures if place and f.metric == place.metric and place.setting in ("", f.setting)), None
        )
        if figure is None or (figure.unit == RATIO) != bool(column.relative):
            cells.append(Cell("-"))
            continue
        shown_figures.append(figure)
        note_marks = tuple(marks.setdefault(note, f"[{_letters(len(marks))}]") for note in figure.notes)
        text, value = _text_and_number(figure, column.format)
        cells.append(Cell(text, value, marks=note_marks))
    return tuple(cells), shown_figures


def _letters(number: int) -> str:
    """The `number`-th mark: a to z, then aa, ab and so on."""
    first, last = divmod(number, 26)
    return (string.ascii_lowercase[first - 1] if first else "") + string.ascii_lowercase[last]


def _text_and_number(figure: Figure, spec: str) -> tuple[str, float | None]:
    """The text to show, with the digits of the print, and the number in the unit of the column."""
    try:
        number = float(figure.value)
    except ValueError:
        return figure.value, None
    if figure.unit not in SCALES:
        return figure.value, number
    number *= SCALES[figure.unit]
    return (numeral(number, number, spec), number) if spec else (f"{figure.value} {figure.unit}", number)


def _origin(source: str, table: str, figures: Sequence[Figure]) -> str:
    hardware = dict.fromkeys(figure.hardware for figure in figures if figure.hardware)
    return f"{source}, {table}, " + (" and ".join(hardware) or "hardware not given")
