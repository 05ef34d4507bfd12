"""Measurements have a process of their own: what it is asked, how it ends, and what becomes of its faults."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from road import write

from harness.contracts import registry
from harness.errors import StorageError
from harness.execute.outcome import Tick
from harness.execute.run import run_plan
from harness.runs.line import Record
from harness.runs.plan import Plan, make
from harness.runs.records import RecordFile
from harness.suite.load import load_suite

LOGGED = Path(__file__).parents[2] / "data" / "logged_models.py"
MODELS = [{"name": "logged/model", "label": name, "options": {"name": name}} for name in "ab"]
SPEED = {"name": "speed", "probe": "logged/probe", "prompts": "p", "frames": 10}
CLIPS = [{"name": "short", "prompts": "p", "seeds": [0, 1], "frames": 6, "metrics": ["logged/metric"]}]


@pytest.fixture
def events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[tuple[int, str]]]:
    """What happened so far: process and event."""
    path = tmp_path / "events"
    path.touch()
    monkeypatch.setenv("EVENTS", str(path))
    registry.load_plugin(LOGGED)

    def read() -> list[tuple[int, str]]:
        lines = (line.split(" ", 1) for line in path.read_text(encoding="utf-8").splitlines())
        return [(int(pid), event) for pid, event in lines]

    return read


def data(**changes: Any) -> dict[str, Any]:
    return {"suite": "small", "models": MODELS, "prompts": {"p": ["one"]}, "measure": [SPEED], **changes}


def planned(folder: Path, **changes: Any) -> Plan:
    return make(load_suite(write(folder, data(**changes))), "cpu")


def records(folder: Path) -> list[Record]:
    return [record for record in RecordFile(folder / "run" / "records.jsonl").records() if record.kind == "measure"]


@pytest.mark.parametrize("processes", [None, 0])
def test_clips_come_first_and_another_process_measures_with_models_of_its_own(
    tmp_path: Path, events: Callable[[], list[tuple[int, str]]], processes: int | None
) -> None:
    said: list[str] = []

    def note(tick: Tick) -> None:
        said.append(tick.message or str(tick.record and tick.record.kind))

    outcome = run_plan(planned(tmp_path, generate=CLIPS), tmp_path / "run", progress=note, processes=processes)
    assert (outcome.done_now, outcome.failed) == (2 * (2 + 2 + 1), 0)
    happened = events()
    measurer = happened[-1][0]
    before = [event for pid, event in happened if pid != measurer]
    assert [event for event in before if "load" in event] == ["load a", "unload a", "load b", "unload b"]
    assert [event for pid, event in happened if pid == os.getpid() and "load" not in event] == ["setup", "close"]
    assert (happened[0][0] == os.getpid()) == (processes == 0)
    there = [(pid, event) for pid, event in happened if pid == measurer]
    assert len({pid for pid, _ in there}) == 1
    # A first load brings the modules, which are no weights; the second is the one that is measured.
    first = [["load " + name, "unload " + name, "measure " + name, "load " + name, "unload " + name] for name in "ab"]
    assert [event for _, event in there] == [*first[0], *first[1]]
    assert happened.index(there[0]) == len(before)
    assert said[-2:] == ["measure", "measure"] or said.count("measure") == 2
    assert said.count("loading a") >= 2
    with pytest.raises(ProcessLookupError):
        os.kill(there[0][0], 0)


def test_a_record_crosses_whole(tmp_path: Path, events: Callable[[], list[tuple[int, str]]]) -> None:
    run_plan(planned(tmp_path), tmp_path / "run")
    made = records(tmp_path)[0]
    assert made.values["frames"] == 10
    assert math.isnan(made.values["nothing"])
    assert made.samples == {"frames": [4.0, 4.0, 2.0]}
    assert made.notes["path"] == sys.path
    assert made.device["kind"] == "cpu"
    assert made.context["arm"] == "a"
    assert made.started <= made.ended


@pytest.mark.parametrize(
    ("fault", "kind", "says"),
    [
        ("raises", "ZeroDivisionError", "by design"),
        ("leaves", "SystemExit", "7"),
        ("dies", "ProcessEnded", "ended by signal SIGKILL"),
        ("vanishes", "ProcessEnded", "ended with exit status 7"),
        ("notes", "RecordError", "is no JSON"),
    ],
)
def test_a_fault_fails_its_unit_alone(
    tmp_path: Path, events: Callable[[], list[tuple[int, str]]], fault: str, kind: str, says: str
) -> None:
    bad = {**SPEED, "name": "bad", "options": {"fault": fault}}
    outcome = run_plan(planned(tmp_path, measure=[bad, SPEED], models=MODELS[:1]), tmp_path / "run")
    assert (outcome.done_now, outcome.failed) == (1, 1)
    failed, sound = records(tmp_path)
    assert failed.error["type"] == kind
    assert says in str(failed.error["message"])
    assert kind in str(failed.error["traceback"])
    assert sound.status == "ok"
    assert sound.values["frames"] == 10


def test_what_is_not_available_is_skipped_with_its_reason(
    tmp_path: Path, events: Callable[[], list[tuple[int, str]]]
) -> None:
    bad = {**SPEED, "options": {"fault": "absent"}}
    assert run_plan(planned(tmp_path, measure=[bad]), tmp_path / "run").skipped == 2
    assert records(tmp_path)[0].notes == {"reason": "no such device", "fix": "buy one"}


def test_a_disk_that_refuses_ends_the_run(tmp_path: Path, events: Callable[[], list[tuple[int, str]]]) -> None:
    bad = {**SPEED, "options": {"fault": "refused"}}
    with pytest.raises(StorageError, match=r"no room for the tuning file\n  free some"):
        run_plan(planned(tmp_path, measure=[bad]), tmp_path / "run")
    assert [event for _, event in events()].count("measure a") == 1
    assert gone({pid for pid, _ in events()})


def gone(pids: set[int]) -> bool:
    """Whether none of `pids` is left, within five minutes."""
    for _ in range(6000):
        if not [pid for pid in pids if pid != os.getpid() and Path(f"/proc/{pid}").exists()]:
            return True
        time.sleep(0.05)
    return False


PROGRAM = """
import sys
from pathlib import Path
from harness.contracts import registry
from harness.runs import plan
from harness.suite.load import load_suite
from harness.execute.run import run_plan
registry.load_plugin(Path(sys.argv[1]))
sys.exit(run_plan(plan.make(load_suite(Path(sys.argv[2])), "cpu"), Path(sys.argv[3])).exit_code)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a parent's death is told by Linux alone")
@pytest.mark.parametrize(("end", "status"), [(signal.SIGINT, 3), (signal.SIGKILL, -9)])
def test_the_process_ends_with_its_run(
    tmp_path: Path, events: Callable[[], list[tuple[int, str]]], end: signal.Signals, status: int
) -> None:
    path = write(tmp_path, data(measure=[{**SPEED, "options": {"fault": "hangs"}}]))
    run = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(LOGGED), str(path), str(tmp_path / "run")],
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    for _ in range(6000):
        if any(event == "measure a" for _, event in events()):
            break
        time.sleep(0.05)
    run.send_signal(end)
    assert run.wait(300) == status
    assert gone({pid for pid, _ in events()})
    assert not records(tmp_path) if (tmp_path / "run" / "records.jsonl").exists() else True
