"""Read footnotes on rows of a run from `notes.yaml` in its folder. They are written by hand, after the run.

    notes:
      - rows: [videomla]
        note: trained with a gradient that was wrong

Rows are labels of arms, or names of sections in a table whose rows are sections. Each note is a footnote on its rows in
every table and plot of the run. It belongs to these records: a run that is made again elsewhere starts without it.
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
from harness.suite.part import Part
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
    """The notes of `run` by row. Raises `SuiteError` for a malformed file, `RecordError` for an unknown row."""
    notes_by_row: dict[str, tuple[str, ...]] = {}
    rows = [*(arm.label for arm in run.arms), *(section.name for section in run.suite.measure)]
    for path in (folder / FILE for folder in (run.folder, *run.others)):
        for entry in validate(positions.read(path), Notes).notes if path.is_file() else ():
            for row in entry.rows:
                if row not in rows:
                    raise RecordError(f"{path}: the run has no row {row!r}", nearest(row, rows))
                notes_by_row[row] = (*notes_by_row.get(row, ()), entry.note)
    return notes_by_row


def note_marks(runs: Iterable[Mapping[str, tuple[str, ...]]]) -> dict[str, str]:
    """The mark of each note of the runs of one table, in order."""
    texts = dict.fromkeys(text for notes in runs for texts_of_row in notes.values() for text in texts_of_row)
    return {text: f"[{number}]" for number, text in enumerate(texts, 1)}


def annotate(table: Table, notes: Mapping[str, tuple[str, ...]], row: str) -> Table:
    """`table` with the notes of `row` at its only row."""
    mark_by_text = note_marks([notes])
    (only,) = table.rows
    row_with_marks = replace(only, marks=(*only.marks, *(mark_by_text[text] for text in notes.get(row, ()))))
    return replace(
        table, rows=(row_with_marks,), notes=(*table.notes, *((mark, text) for text, mark in mark_by_text.items()))
    )
