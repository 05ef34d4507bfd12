"""A model that ends its process fails its own units, is named with its last words, and the run goes on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from road import FAKES, base, outcome_of, write

from harness.contracts import registry
from harness.execute.outcome import Outcome
from harness.execute.printed import LARGEST, MOST_OF_ONE, Log
from harness.execute.run import run_plan
from harness.runs.line import Record
from harness.runs.plan import Plan, make
from harness.runs.records import RecordFile
from harness.suite.load import load_suite

PLUGIN = FAKES.with_name("lost_models.py")
SIGNS = {
    "segfault": ("by signal SIGSEGV", "Segmentation fault"),
    "exit": ("with exit status 7", "last words"),
    "abort": ("by signal SIGABRT", "Aborted"),
    "kill": ("by signal SIGKILL", "last words"),
    "fork": ("with exit status 8", "last words"),
    "close": ("by closing its pipe", "last words"),
}


def suite(prompts: list[str], *arms: dict[str, Any], metric: str = "fake/brightness", batch: int = 1) -> dict[str, Any]:
    models = [
        {"name": "lost/model", "label": "abc"[number], "options": arm} for number, arm in enumerate(arms or ({},))
    ]
    section = {**base()["generate"][0], "seeds": [1], "metrics": [metric], "batch": batch}
    return base(models=models, prompts={"p": prompts}, generate=[section])


def planned(folder: Path, data: dict[str, Any]) -> Plan:
    registry.load_plugin(FAKES)
    registry.load_plugin(PLUGIN)
    return make(load_suite(write(folder, data)), "cpu")


def run(folder: Path, data: dict[str, Any], **more: Any) -> Outcome:
    return run_plan(planned(folder, data), folder / "run", **more)


def records(folder: Path, status: str = "failed") -> list[Record]:
    every = RecordFile(folder / "run" / "records.jsonl").records()
    return [record for record in every if record.kind == "generate" and record.status == status]


@pytest.mark.parametrize("how", SIGNS)
def test_a_model_that_ends_its_process_fails_its_own_unit_alone(tmp_path: Path, how: str) -> None:
    outcome = run(tmp_path, suite(["one", f"ends {how}", "two", "three"]))
    assert (outcome.done_now, outcome.failed, outcome.skipped, outcome.pending) == (6, 1, 1, 0)
    assert outcome.remarks == ()
    (failed,) = records(tmp_path)
    ended, says = SIGNS[how]
    assert failed.context["prompt"] == f"ends {how}"
    assert failed.error["message"].startswith(f"it ended 3 workers, the last {ended}")  # type: ignore[union-attr]
    assert says in str(failed.error["traceback"])
    assert "last words" in str(failed.error["traceback"])


def test_one_of_a_batch_fails_alone_on_several_processes(tmp_path: Path) -> None:
    data = suite([*(f"prompt {number}" for number in range(15)), "ends segfault"], batch=4)
    outcome = run(tmp_path, data, processes=2)
    assert (outcome.done_now, outcome.failed, outcome.skipped) == (30, 1, 1)
    assert [record.context["prompt"] for record in records(tmp_path)] == ["ends segfault"]


def test_a_load_that_ends_its_process_is_tried_three_times_for_all_clips(tmp_path: Path) -> None:
    loads = tmp_path / "loads"
    dying = {"load_ends": "segfault", "loads": str(loads)}
    outcome = run(tmp_path, suite([f"prompt {number}" for number in range(6)], dying, {}))
    assert len(loads.read_text().splitlines()) == 3
    assert (outcome.done_now, outcome.failed, outcome.skipped) == (12, 6, 6)
    assert all(
        "ended 3 workers, the last by signal SIGSEGV" in str(record.error["message"]) for record in records(tmp_path)
    )
    assert all("loading it" in str(record.error["traceback"]) for record in records(tmp_path))


def test_a_clip_that_never_ends_fails_when_its_section_says(tmp_path: Path) -> None:
    data = suite(["one", "ends never", "two", "three"])
    data["generate"][0]["timeout_s"] = 15.0
    outcome = run(tmp_path, data)
    assert (outcome.done_now, outcome.failed, outcome.skipped) == (6, 1, 1)
    (failed,) = records(tmp_path)
    assert failed.error["message"].startswith("the clip was ended after more than 15 s")  # type: ignore[union-attr]
    assert "last words" in str(failed.error["traceback"])


def test_the_command_names_what_died_in_one_line_and_keeps_the_prints_away(tmp_path: Path) -> None:
    path = write(tmp_path, suite(["one", "ends segfault", "two"]))
    command = [sys.executable, "-m", "harness", "run", str(path), "--out", str(tmp_path / "run")]
    plugins = ["--plugin", str(FAKES), "--plugin", str(PLUGIN)]
    process = subprocess.run([*command, *plugins], capture_output=True, text=True, timeout=600, check=False)
    assert process.returncode == 1
    assert "Traceback" not in process.stderr
    assert "on standard" not in process.stderr + process.stdout
    (line,) = [line for line in process.stderr.splitlines() if line.startswith("failed")]
    assert "(generate short a, prompt 'ends segfault'): WorkerLost: it ended 3 workers" in line
    assert f"printed: {tmp_path / 'run' / 'printed.log'}" in process.stdout
    keys = {str(record.context["prompt"]): record.key[:12] for record in records(tmp_path, "ok")}
    lines = (tmp_path / "run" / "printed.log").read_text().splitlines()
    for prompt, key in keys.items():
        for says in ("on standard output", "on standard error", "by a program"):
            assert f"short a {key} | {says}: {prompt}" in lines


def test_a_model_that_prints_without_end_is_kept_within_bounds(tmp_path: Path) -> None:
    outcome = run(tmp_path, suite(["one", "floods", "two"]))
    assert outcome.exit_code == 0
    log = (tmp_path / "run" / "printed.log").read_text()
    assert MOST_OF_ONE < len(log) < 20 * MOST_OF_ONE
    assert " | … and more\n" in log
    assert "on standard output: two" in log


def test_the_file_of_prints_is_begun_anew_when_it_is_long(tmp_path: Path) -> None:
    log = Log(tmp_path)
    for number in range(40):
        log.add(f"{number} {'x' * (LARGEST // 10)}\n")
    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    assert len(sizes) == 2
    assert max(sizes) < 1.2 * LARGEST
    assert log.path.read_text().splitlines()[-1].startswith("39 ")


@pytest.mark.parametrize("processes", [None, 0])
def test_a_model_and_a_metric_that_leave_their_folder_take_no_path_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: int | None
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("elsewhere", "cache"):
        (tmp_path / name).mkdir()
    (tmp_path / "weights.bin").write_bytes(b"weights")
    monkeypatch.setenv("VIDEOMLA_CACHE", "cache")
    goes, reads = {"goes": str(tmp_path / "elsewhere")}, {"reads": "weights.bin"}
    plan = planned(tmp_path, suite(["one", "two"], goes, reads, metric="lost/brightness"))
    outcome = run_plan(plan, Path("run"), processes=processes)
    assert (outcome.done_now, outcome.exit_code, outcome.folder) == (8, 0, Path("run"))
    assert Path.cwd() == tmp_path
    assert not list((tmp_path / "elsewhere").iterdir())
    assert len(list((tmp_path / "run").rglob("*.mp4"))) == 4
    assert outcome_of(tmp_path / "run")
    assert os.environ["VIDEOMLA_CACHE"] == str(tmp_path / "cache")
