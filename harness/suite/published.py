"""Figures that others published, as data: each with its source, hardware and known faults."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from harness.suite.schema import PublishedRows

HERE = Path(__file__).parent

FIGURES, FAULTS = HERE / "published.csv", HERE / "published_faults.csv"

SHA256 = "99406d17f900a38cbd788b9ccd96bd3a14bfde3aa51833c2e03f07b47f4f9737"
"""Of `published.csv`. A test compares it, so that no published figure changes unseen."""

SCALES = {"%": 0.01, "GB/request": 1e9}
"""Factors from printed units to those of the measured figures."""

RATIO = "x"
"""The unit of a figure that compares with another model. It belongs in relative columns alone."""


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
    """Every published figure, in the order of the file, with its known faults as notes."""
    with FAULTS.open(encoding="utf-8", newline="") as file:
        faults = list(csv.DictReader(file))
    with FIGURES.open(encoding="utf-8", newline="") as file:
        return tuple(_figure(line, faults) for line in csv.DictReader(file))


def _figure(line: Mapping[str, str], faults: Iterable[Mapping[str, str]]) -> Figure:
    keys = ("source", "table", "model", "setting", "metric")
    of_faults = [fault["note"] for fault in faults if all(fault[key] in ("", line[key]) for key in keys)]
    of_figure = [note.strip() for note in line["note"].split(";") if note.strip()]
    fields = {name: line[name] for name in (*keys, "value", "unit", "hardware")}
    return Figure(**fields, notes=tuple(dict.fromkeys([*of_figure, *of_faults])))


def select(rows: PublishedRows) -> list[Figure]:
    """The figures that `wanted` asks for."""
    return [
        figure
        for figure in figures()
        if figure.table == rows.table
        and rows.source in ("", figure.source)
        and (not rows.models or figure.model in rows.models)
        and (not rows.settings or figure.setting in rows.settings)
    ]
