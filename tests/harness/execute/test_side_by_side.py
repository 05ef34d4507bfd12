"""Measurements that no other work disturbs run at the same time; files that they leave are named, and missed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from record_lines import drop_digests
from road import write

from harness.contracts import registry
from harness.errors import RecordError
from harness.execute.outcome import Outcome, Tick
from harness.execute.run import INTERRUPTED, run_plan
from harness.runs.line import Record
from harness.runs.plan import make
from harness.runs.records import RecordFile
from harness.suite.load import load_suite

PLUGIN = '''
import os
import time
from harness.contracts import Measurement, Options, Probe, Product, Value
from harness.contracts.registry import probes


class MeetingOptions(Options):
    name: str
    others: int = 0
    hang: bool = False
    fault: bool = False


@probes.register("side/meeting")
class Meeting(Probe):
    """Comes, waits for the others to be there too, and leaves a file."""

    schema = MeetingOptions
    values = (Value("met"),)
    needs_model = False
    side_by_side = True

    def measure(self, subject, workload, context):
        options, there = self.options, context.scratch / "there"
        there.mkdir(parents=True, exist_ok=True)
        (there / options.name).write_text(str(os.getpid()))
        context.report("came")
        until = time.monotonic() + 60
        while time.monotonic() < until and (options.hang or len(list(there.iterdir())) <= options.others):
            time.sleep(0.01)
        if options.fault:
            raise ZeroDivisionError("by design")
        met = len(list(there.iterdir()))
        return Measurement({"met": met}, products=[Product("files", "card.txt", f"there/{options.name}")])


@probes.register("side/alone")
class Alone(Meeting):
    side_by_side = False
'''


@pytest.fixture(autouse=True)
def _plugin(tmp_path_factory: pytest.TempPathFactory) -> None:
    if "side/meeting" not in registry.probes.names():
        path = tmp_path_factory.mktemp("plugin") / "side.py"
        path.write_text(PLUGIN)
        registry.load_plugin(path)


def run(folder: Path, sections: list[dict[str, Any]], probe: str = "side/meeting", **how: Any) -> Outcome:
    measure = [{"name": section["name"], "probe": probe, "options": section} for section in sections]
    suite = {"suite": "sides", "measure": measure, "errors": how.pop("errors", "continue")}
    return run_plan(make(load_suite(write(folder, suite)), "cpu"), folder / "run", **how)


def records(folder: Path) -> list[Record]:
    return list(RecordFile(folder / "run" / "records.jsonl").records())


def processes(folder: Path) -> set[int]:
    return {int(path.read_text()) for path in (folder / "run" / "scratch" / "there").iterdir()}


def test_measurements_meet_in_processes_of_their_own(tmp_path: Path) -> None:
    ticks: list[Tick] = []
    three = [{"name": name, "others": 2} for name in "abc"]
    outcome = run(tmp_path, three, jobs=3, progress=ticks.append)
    assert (outcome.done_now, outcome.failed) == (3, 0)
    assert [record.values["met"] for record in records(tmp_path)] == [3, 3, 3]
    assert len(processes(tmp_path)) == 3
    assert {tick.message for tick in ticks if tick.message} == {"a: came", "b: came", "c: came"}
    assert run(tmp_path, three, jobs=3).already_done == 3


def test_a_probe_that_wants_the_device_to_itself_gets_it(tmp_path: Path) -> None:
    assert run(tmp_path, [{"name": "a"}, {"name": "b"}], "side/alone", jobs=2).done_now == 2
    assert sorted(record.values["met"] for record in records(tmp_path)) == [1, 2]
    assert len(processes(tmp_path)) == 1


def test_a_limit_begins_no_more_than_it_allows(tmp_path: Path) -> None:
    outcome = run(tmp_path, [{"name": name} for name in "abc"], jobs=3, limit=2)
    assert (outcome.done_now, outcome.pending) == (2, 1)
    assert len(processes(tmp_path)) == 2


def test_a_failure_that_ends_the_run_ends_those_beside_it(tmp_path: Path) -> None:
    sections = [{"name": "a", "hang": True}, {"name": "b", "others": 1, "fault": True}]
    outcome = run(tmp_path, sections, jobs=2, errors="stop")
    assert outcome.stopped
    assert (outcome.failed, outcome.pending) == (1, 1)
    assert [record.context["section"] for record in records(tmp_path)] == ["b"]
    for process in processes(tmp_path):
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)


def test_an_interrupt_ends_them_all(tmp_path: Path) -> None:
    def progress(tick: Tick) -> None:
        if tick.message == "a: came":
            raise KeyboardInterrupt

    outcome = run(tmp_path, [{"name": "a", "hang": True}], jobs=2, progress=progress)
    assert (outcome.stopped, outcome.pending) == (INTERRUPTED.format("", "go on"), 1)
    (process,) = processes(tmp_path)
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_a_file_that_is_left_gets_a_name_and_is_made_again_when_gone(tmp_path: Path) -> None:
    sections = [{"name": "a"}]
    run(tmp_path, sections)
    named, kept = tmp_path / "run" / "files" / "a" / "card.txt", tmp_path / "run" / "scratch" / "there" / "a"
    assert named.samefile(kept)
    named.unlink()
    assert run(tmp_path, sections).already_done == 1
    assert named.samefile(kept)
    kept.unlink()
    assert run(tmp_path, sections).done_now == 1
    assert named.samefile(kept)


def test_a_record_names_no_file_outside_of_its_folders(tmp_path: Path) -> None:
    run(tmp_path, [{"name": "a"}])
    path = drop_digests(tmp_path / "run" / "records.jsonl")
    line = json.loads(path.read_text())
    line["notes"]["products"][0]["name"] = "../../stolen"
    path.write_text(json.dumps(line, separators=(",", ":")) + "\n")
    with pytest.raises(RecordError, match="outside of it"):
        run(tmp_path, [{"name": "a"}])
