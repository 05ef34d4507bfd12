"""Notes that were written into a run folder afterwards: a footnote on their rows, be those arms or sections."""

from __future__ import annotations

from pathlib import Path

import pytest
from road import base, run
from run_folders import Arm, write_run

from harness.errors import HarnessError
from harness.report.render import markdown
from harness.report.table import Table
from harness.report.tables import build
from harness.runs.records import load_run

NOTES = "notes:\n  - {rows: [latent], note: trained with a wrong gradient}\n"
TABLES = [{"name": "main", "columns": [{"value": "short:sharpness"}]}]


def built(folder: Path, notes: str) -> list[Table]:
    write_run(folder, [Arm("dense", [0.5] * 4), Arm("latent", [0.7] * 4)], tables=TABLES)
    (folder / "notes.yaml").write_text(notes)
    return build([load_run(folder)])


def test_a_note_is_a_footnote_on_its_rows_alone(tmp_path: Path) -> None:
    (table,) = built(tmp_path, NOTES)
    assert [(row.label, row.marks) for row in table.rows] == [("dense", ()), ("latent", ("[1]",))]
    assert table.footnotes()[0] == ("[1]", "trained with a wrong gradient")
    assert "trained with a wrong gradient." in markdown(table)


def test_notes_of_joined_runs_have_marks_of_their_own(tmp_path: Path) -> None:
    built(tmp_path / "one", NOTES)
    built(tmp_path / "two", NOTES.replace("latent", "dense").replace("wrong", "lost"))
    (table,) = build([load_run(tmp_path / name) for name in ("one", "two")])
    assert [row.marks for row in table.rows] == [(), ("[1]",), ("[2]",), ()]
    assert [said.split()[-2] for mark, said in table.footnotes() if mark.startswith("[")] == ["wrong", "lost"]


@pytest.mark.parametrize(
    ("notes", "message"),
    [
        (NOTES.replace("latent", "latant"), "the run has no row 'latant'; did you mean latent"),
        (NOTES.replace("note:", "remark:"), "unknown key 'remark'"),
        ("notes: [", "notes.yaml"),
    ],
)
def test_a_note_that_fits_nothing_is_refused(tmp_path: Path, notes: str, message: str) -> None:
    with pytest.raises(HarnessError) as error:
        built(tmp_path, notes)
    assert message in f"{error.value.message}; {error.value.fix}"


def test_sections_that_are_rows_take_notes(tmp_path: Path) -> None:
    measure = [{"name": name, "probe": "fake/device", "prompts": "p"} for name in ("first", "second")]
    run(tmp_path, base(models=[], generate=[], measure=measure))
    (tmp_path / "run" / "notes.yaml").write_text(NOTES.replace("latent", "second"))
    (table,) = build([load_run(tmp_path / "run")])
    assert [(row.label, row.marks) for row in table.rows] == [("first", ()), ("second", ("[1]",))]
    assert table.footnotes()[0] == ("[1]", "trained with a wrong gradient")
