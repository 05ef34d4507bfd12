"""Runs of one plan on several machines: one row an arm, and two where both machines did the same units."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from road import FAKES, base, planned, run_here

from harness.cli.main import main
from harness.execute import merging
from harness.execute.shares import only
from harness.report.table import Table
from harness.report.tables import build
from harness.runs.line import encode
from harness.runs.records import RecordFile, load_run
from harness.runs.united import united


def suite(**changes: Any) -> dict[str, Any]:
    models = [{"name": "fake/moving", "label": "a"}, {"name": "fake/alone", "label": "b"}]
    measure = [{"name": "count", "probe": "fake/count", "prompts": "p", "frames": 4}]
    return base(**{"models": models, "measure": measure, **changes})


def tables(*folders: Path) -> list[Table]:
    return build(united([load_run(folder) for folder in folders]))


def two_machines(folder: Path) -> list[Path]:
    """A run of each arm."""
    plan = planned(folder, suite())
    for arm in ("a", "b"):
        run_here(only(plan, [arm]), folder / f"machine_{arm}")
    return [folder / "machine_a", folder / "machine_b"]


def other_device(folder: Path, name: str) -> None:
    """Give the records of a run another machine."""
    every = list(RecordFile(folder / "records.jsonl").records())
    lines = [encode(replace(record, device={**record.device, "name": name})) for record in every]
    (folder / "records.jsonl").write_bytes(b"".join(lines))


def test_arms_that_were_done_on_two_machines_are_one_row_each(tmp_path: Path) -> None:
    folders = two_machines(tmp_path)
    run_here(planned(tmp_path, suite()), tmp_path / "whole")
    assert tables(*folders) == tables(tmp_path / "whole")
    merging.merge(tmp_path / "merged", folders)
    assert tables(tmp_path / "merged") == tables(tmp_path / "whole")


def test_devices_are_told_apart(tmp_path: Path) -> None:
    folders = two_machines(tmp_path)
    other_device(folders[1], "another processor")
    merging.merge(tmp_path / "merged", folders)
    for shown in (tables(*folders), tables(tmp_path / "merged")):
        assert [row.label for row in shown[0].rows] == ["a", "b"]
        assert "another processor" in " ".join([*shown[0].remarks, *(text for _, text in shown[0].notes)])


def test_a_section_that_went_on_elsewhere_is_whole(tmp_path: Path) -> None:
    plan = planned(tmp_path, suite())
    run_here(plan, tmp_path / "one", limit=7)
    run_here(plan, tmp_path / "two", limit=7)
    # Both did the same seven units: each is to be seen.
    assert len(united([load_run(tmp_path / "one"), load_run(tmp_path / "two")])) == 2
    shutil.copytree(tmp_path / "one", tmp_path / "copy")
    run_here(plan, tmp_path / "copy")
    (both,) = united([load_run(tmp_path / "one"), load_run(tmp_path / "copy")])
    assert build([both]) == tables(tmp_path / "copy")
    assert len(list(both.records.records())) == 7 + len(load_run(tmp_path / "copy").index)


def test_a_result_counts_before_a_failure(tmp_path: Path) -> None:
    folders = two_machines(tmp_path)
    path = folders[0] / "records.jsonl"
    every = list(RecordFile(path).records())
    path.write_bytes(b"".join(encode(replace(record, status="failed", error={"type": "x"})) for record in every))
    run_here(only(planned(tmp_path, suite()), ["a"]), tmp_path / "again")
    for order in ([folders[0], tmp_path / "again"], [tmp_path / "again", folders[0]]):
        (both,) = united(list(map(load_run, order)))
        assert {entry.status for entry in both.index.values()} == {"ok"}


def test_notes_of_every_machine_are_shown(tmp_path: Path) -> None:
    folders = two_machines(tmp_path)
    (folders[1] / "notes.yaml").write_text("notes:\n  - {rows: [b], note: a loud fan}\n")
    assert ("[1]", "a loud fan") in tables(*folders)[0].notes


@pytest.mark.parametrize("change", [{"prompts": {"p": ["one", "three"]}}, {"reference": "b"}])
def test_runs_of_other_plans_keep_their_rows(tmp_path: Path, change: dict[str, Any]) -> None:
    run_here(planned(tmp_path, suite()), tmp_path / "one", limit=1)
    run_here(planned(tmp_path, suite(**change)), tmp_path / "two", limit=1)
    assert len(united([load_run(tmp_path / "one"), load_run(tmp_path / "two")])) == 2


def test_the_command_unites(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = list(map(str, two_machines(tmp_path)))
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["table", *folders, "--plugin", str(FAKES)])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("| a", "| b"))]
    assert (ended.value.code, len(rows)) == (0, 2)
    assert all("4/4" in row for row in rows)
