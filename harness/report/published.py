"""Figures that others published, as rows of a table: beside what was measured here, and never mixed with it.

`published.csv` holds them as their sources print them; `published_faults.csv` what is known to be wrong with some.
"""

from __future__ import annotations

import csv
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from harness.report.layout import Cell, Row
from harness.schema import Column, PublishedRows, TableSpec

HERE = Path(__file__).parent
FIGURES, FAULTS = HERE / "published.csv", HERE / "published_faults.csv"
SHA256 = "99406d17f900a38cbd788b9ccd96bd3a14bfde3aa51833c2e03f07b47f4f9737"
"""Of `published.csv`, so that no published figure changes unseen."""

SCALES = {"%": 0.01, "GB/request": 1e9}
"""What a printed figure is multiplied by to stand in the unit of the measured ones."""
RATIO = "x"
"""The unit of a figure that is set against another model, and so belongs into relative columns alone."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One published figure.

    Attributes:
        source: as in `arXiv:2506.08009`. table: of it. setting: as in `30 s` or `d_c=64`.
        value: as printed, perhaps no number. unit: of the print. hardware: empty where the source names none.
        notes: what a reader must know to use it.
    """

    source: str
    table: str
    model: str
    setting: str
    metric: str
    value: str
    unit: str
    hardware: str
    notes: tuple[str, ...]


@cache
def figures() -> tuple[Figure, ...]:
    """Every published figure, in the order of the file, with the faults known of it."""
    with FAULTS.open(encoding="utf-8", newline="") as file:
        faults = list(csv.DictReader(file))
    with FIGURES.open(encoding="utf-8", newline="") as file:
        return tuple(_figure(line, faults) for line in csv.DictReader(file))


def _figure(line: Mapping[str, str], faults: Iterable[Mapping[str, str]]) -> Figure:
    keys = ("source", "table", "model", "setting", "metric")
    known = [fault["note"] for fault in faults if all(fault[key] in ("", line[key]) for key in keys)]
    own = [note.strip() for note in line["note"].split(";") if note.strip()]
    given = {name: line[name] for name in (*keys, "value", "unit", "hardware")}
    return Figure(**given, notes=tuple(dict.fromkeys([*own, *known])))


def chosen(wanted: PublishedRows) -> list[Figure]:
    """The figures that `wanted` asks for."""
    return [
        figure
        for figure in figures()
        if figure.table == wanted.table
        and wanted.source in ("", figure.source)
        and (not wanted.models or figure.model in wanted.models)
        and (not wanted.settings or figure.setting in wanted.settings)
    ]


def rows(spec: TableSpec) -> tuple[list[Row], tuple[tuple[str, str], ...]]:
    """The published rows of a table, and what their footnote marks say."""
    marks: dict[str, str] = {}
    made = []
    by_setting = any(column.published and not column.published.setting for column in spec.columns)
    for wanted in spec.published:
        groups: dict[tuple[str, str, str], list[Figure]] = {}
        for figure in chosen(wanted):
            setting = figure.setting if by_setting else ""
            groups.setdefault((figure.source, figure.model, setting), []).append(figure)
        settings = {(source, setting) for source, _, setting in groups}
        for (source, model, setting), found in groups.items():
            cells, used = _cells(spec.columns, found, marks)
            if not used:
                continue
            several = by_setting and len({s for of, s in settings if of == source}) > 1
            made.append(
                Row(f"{model}, {setting}" if several else model, cells, published=_origin(source, wanted.table, used))
            )
    return made, tuple((mark, note) for note, mark in marks.items())


def _cells(
    columns: Sequence[Column], found: Sequence[Figure], marks: dict[str, str]
) -> tuple[tuple[Cell, ...], list[Figure]]:
    """A cell for each column, and the figures that stand in them. New notes are given their mark in `marks`."""
    cells, used = [], []
    for column in columns:
        place = column.published
        figure = next(
            (f for f in found if place and f.metric == place.metric and place.setting in ("", f.setting)), None
        )
        if figure is None or (figure.unit == RATIO) != bool(column.relative):
            cells.append(Cell("-"))
            continue
        used.append(figure)
        noted = tuple(marks.setdefault(note, f"[{_letters(len(marks))}]") for note in figure.notes)
        text, value = _read(figure, column.format)
        cells.append(Cell(text, value, marks=noted))
    return tuple(cells), used


def _read(figure: Figure, spec: str) -> tuple[str, float | None]:
    """What is shown, with the digits of the print, and the number in the unit of the column."""
    try:
        number = float(figure.value)
    except ValueError:
        return figure.value, None
    if figure.unit not in SCALES:
        return figure.value, number
    number *= SCALES[figure.unit]
    return (format(number, spec), number) if spec else (f"{figure.value} {figure.unit}", number)


def _origin(source: str, table: str, used: Sequence[Figure]) -> str:
    hardware = dict.fromkeys(figure.hardware for figure in used if figure.hardware)
    return f"{source}, {table}, " + (" and ".join(hardware) or "hardware not given")


def _letters(number: int) -> str:
    """The `number`-th mark: a to z, then aa, ab and so on."""
    first, last = divmod(number, 26)
    return (string.ascii_lowercase[first - 1] if first else "") + string.ascii_lowercase[last]
