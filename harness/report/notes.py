"""Read footnotes on rows of a run from `notes.yaml` in its folder. They are written by hand, after the run.

    notes:
      - rows: [videomla]
        note: trained with a gradient that was wrong

Each note is a footnote on its rows, labels of arms or, where rows are sections, of sections, in every table and plot of
the run. It belongs to these records: a run that is made again elsewhere starts without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Annotated

from pydantic import Field

from harness.errors import RecordError, nearest
from harness.report.table import Table
from harness.runs.records import Run
from harness.suite import positions
from harness.suite.schema import Part
from harness.suite.validate import validate

FILE = "notes.yaml"


class Note(Part):
    """One note and the rows it stands at."""

    rows: Annotated[list[str], Field(min_length=1)]
    note: Annotated[str, Field(min_length=1)]


class Notes(Part):
    """The file."""

    notes: list[Note]


def read_notes(run: Run) -> dict[str, tuple[str, ...]]:
    """The notes of `run` by row. Raises `SuiteError` for a file that says something else, `RecordError` for a row."""
    path = run.folder / FILE
    if not path.is_file():
        return {}
    found: dict[str, tuple[str, ...]] = {}
    known = [*(arm.label for arm in run.arms), *(section.name for section in run.suite.measure)]
    for entry in validate(positions.read(path), Notes).notes:
        for row in entry.rows:
            if row not in known:
                raise RecordError(f"{path}: the run has no row {row!r}", nearest(row, known))
            found[row] = (*found.get(row, ()), entry.note)
    return found


def note_marks(runs: Iterable[Mapping[str, tuple[str, ...]]]) -> dict[str, str]:
    """The mark of each note of the runs of one table, in order."""
    texts = dict.fromkeys(text for notes in runs for given in notes.values() for text in given)
    return {text: f"[{number}]" for number, text in enumerate(texts, 1)}


def annotate(table: Table, notes: Mapping[str, tuple[str, ...]], row: str) -> Table:
    """`table` with the notes of `row` at its only row."""
    said = note_marks([notes])
    (only,) = table.rows
    marked = replace(only, marks=(*only.marks, *(said[text] for text in notes.get(row, ()))))
    return replace(table, rows=(marked,), notes=(*table.notes, *((mark, text) for text, mark in said.items())))
