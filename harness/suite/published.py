"""Figures that others published, as data: each with its source, hardware and known faults."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from harness.suite.schema import PublishedRows

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
