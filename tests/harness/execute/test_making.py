"""Clips in processes: who makes what, and what becomes of a process that ends, is stopped or outlives its run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from road import base, outcome_of, write

from harness.contracts import registry
from harness.errors import StorageError
from harness.execute.making import ClipWorker
from harness.execute.outcome import Outcome
from harness.execute.run import INTERRUPTED, run_plan
from harness.execute.units import Setting
from harness.runs.line import Record
from harness.runs.plan import Plan, make
from harness.runs.records import RecordFile
from harness.suite.load import load_suite
from harness.system import video

PLUGIN = Path(__file__).parents[2] / "data" / "process_models.py"
FAKES = PLUGIN.with_name("fake_models.py")


def planned(folder: Path, texts: list[str] | None = None, batch: int = 4, arms: str = "a", **more: Any) -> Plan:
    """Sixteen clips an arm, and their scores."""
    registry.load_plugin(FAKES)
    registry.load_plugin(PLUGIN)
    models = [{"name": "process/model", "label": arm, "options": {"log": str(folder / f"{arm}.log")}} for arm in arms]
    section = {**base()["generate"][0], "batch": batch, "seeds": [1, 2], **more}
    prompts = {"p": texts or [f"prompt {number}" for number in range(8)]}
    data = base(models=models, prompts=prompts, generate=[section])
    return make(load_suite(write(folder, data)), "cpu")


def run(folder: Path, plan: Plan, **more: Any) -> Outcome:
    return run_plan(plan, folder / "run", **{"processes": 2, **more})


def lines(folder: Path, arm: str = "a") -> list[tuple[int, str]]:
    text = (folder / f"{arm}.log").read_text(encoding="utf-8") if (folder / f"{arm}.log").exists() else ""
    return [(int(pid), event) for pid, event in (line.split(" ", 1) for line in text.splitlines())]


def clips(folder: Path) -> list[Record]:
    return [record for record in RecordFile(folder / "run" / "records.jsonl").records() if record.kind == "generate"]


def wait_for(condition: Any) -> None:
    until = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def gone(pids: set[int]) -> bool:
    def alive(pid: int) -> bool:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        return (
            Path(f"/proc/{pid}/stat").read_text().split(")")[-1].split()[0] != "Z" if Path("/proc").exists() else True
        )

    wait_for(lambda: not any(alive(pid) for pid in pids))
    return True


def test_processes_share_the_batches_and_give_what_one_gives(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    assert run(tmp_path / "one", planned(tmp_path / "one"), processes=0).exit_code == 0
    assert {pid for pid, _ in lines(tmp_path / "one")} == {os.getpid()}
    outcome = run(tmp_path, planned(tmp_path, arms="ab"))
    assert (outcome.done_now, outcome.exit_code) == (64 // 2, 0), "both arms have the same keys"
    assert outcome_of(tmp_path / "run") == outcome_of(tmp_path / "one" / "run")
    pids = {pid for pid, _ in lines(tmp_path)}
    assert os.getpid() not in pids
    assert [event for _, event in lines(tmp_path) if event.startswith("batch")] == ["batch 4"] * 4
    threads = {event for _, event in lines(tmp_path) if event.startswith("load")}
    assert threads == {f"load {max(1, len(os.sched_getaffinity(0)) // 2)}"}
    assert gone(pids)


def test_few_clips_and_single_ones_are_made_in_one_process_with_the_users_threads(tmp_path: Path) -> None:
    for number, plan in enumerate([planned(tmp_path, texts=["one", "two"]), planned(tmp_path, batch=1)], 1):
        assert run(tmp_path, plan, replace_plan=True).exit_code == 0
        pids = {pid for pid, _ in lines(tmp_path)}
        assert len(pids - {os.getpid()}) == number
        assert gone(pids)
    loads = [event for _, event in lines(tmp_path) if event.startswith("load")]
    assert loads == [f"load {os.environ.get('OMP_NUM_THREADS')}"] * 2


def test_a_model_that_this_process_alone_knows_is_run_in_it_and_that_is_said(tmp_path: Path) -> None:
    registry.load_plugin(FAKES)
    cls = type("Here", (registry.models.get("fake/moving"),), {})
    registry.models.register("here/model")(cls)
    plan = make(load_suite(write(tmp_path, base(models=[{"name": "here/model", "label": "a"}]))), "cpu")
    outcome = run_plan(plan, tmp_path / "run")
    assert (outcome.done_now, outcome.exit_code) == (8, 0)
    assert outcome.remarks[0].startswith("no other process finds the models of a, so this one made their clips")
    assert run_plan(plan, tmp_path / "run").remarks == ()


def test_a_time_limit_that_this_process_cannot_keep_is_said(tmp_path: Path) -> None:
    plan = planned(tmp_path, ["one"], timeout_s=600.0)
    assert run(tmp_path, plan).remarks == ()
    outcome = run_plan(plan, tmp_path / "here", processes=0)
    assert outcome.exit_code == 0
    (remark,) = outcome.remarks
    assert remark.startswith("`timeout_s` of short did not hold")
    assert run_plan(planned(tmp_path, ["two"]), tmp_path / "more", processes=0).remarks == ()


def test_a_clip_that_is_made_and_never_written_fails_as_its_section_says(tmp_path: Path) -> None:
    plan = planned(tmp_path, ["it keeps"], seeds=[1])
    video.write(tmp_path / "a.mp4", [np.zeros((6, 16, 16, 3), np.uint8)], 16.0, 20, "ultrafast")
    limits = {"short": 600.0}
    worker = ClipWorker("cpu", Setting({}, {}, {}), print, tmp_path / "run", limits=limits)
    given: list[Record] = []
    worker.do((plan.arms[0], plan.units[:1]), given.append)
    assert not given
    limits["short"] = 0.5
    worker.finish(given.append)
    (failed,) = given
    assert failed.status == "failed"
    assert str(failed.error["message"]).startswith("the clip was ended after more than 0.5 s")


def test_a_clip_that_ends_its_process_fails_alone(tmp_path: Path) -> None:
    texts = [*(f"prompt {number}" for number in range(7)), "it dies"]
    outcome = run(tmp_path, planned(tmp_path, texts))
    assert (outcome.done_now, outcome.failed, outcome.skipped, outcome.pending) == (28, 2, 2, 0)
    failed = [record for record in clips(tmp_path) if record.status == "failed"]
    assert {record.context["prompt"] for record in failed} == {"it dies"}
    assert "it ended 3 workers, the last by signal SIGKILL" in str(failed[0].error["message"])
    assert str(failed[0].error["traceback"]) == "last words"
    assert not [key for key in {record.key for record in clips(tmp_path)} if not key]
    assert len({record.key for record in clips(tmp_path)}) == len(clips(tmp_path)) == 16


def test_a_clip_that_raises_fails_alone(tmp_path: Path) -> None:
    texts = [*(f"prompt {number}" for number in range(7)), "it raises"]
    outcome = run(tmp_path, planned(tmp_path, texts))
    assert (outcome.done_now, outcome.failed) == (28, 2)
    failed = next(record for record in clips(tmp_path) if record.status == "failed")
    assert "by design" in str(failed.error["message"])


@pytest.mark.parametrize("limit", [1, 5, 31])
def test_a_limit_is_kept_and_the_rest_follows(tmp_path: Path, limit: int) -> None:
    outcome = run(tmp_path, planned(tmp_path), limit=limit)
    assert (outcome.done_now, outcome.pending) == (limit, 32 - limit)
    assert run(tmp_path, planned(tmp_path)).done_now == 32 - limit


def test_an_interrupt_ends_the_processes_and_the_next_run_goes_on(tmp_path: Path) -> None:
    texts = [*(f"prompt {number}" for number in range(7)), "it hangs"]
    main = threading.main_thread().ident
    assert main is not None
    plan = planned(tmp_path, texts, batch=2)

    def interrupt() -> None:
        try:
            wait_for(lambda: len(clips(tmp_path)) == 14 if (tmp_path / "run" / "records.jsonl").exists() else False)
        finally:
            signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    outcome = run(tmp_path, plan)
    thread.join()
    assert outcome.stopped == INTERRUPTED.format("", "go on")
    assert (outcome.failed, outcome.skipped) == (0, 0)
    assert outcome.done_now >= 14
    assert gone({pid for pid, _ in lines(tmp_path)})
    assert run(tmp_path, planned(tmp_path)).exit_code == 0


def test_a_disk_that_refuses_ends_the_run(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "clips").write_text("in the way")
    with pytest.raises(StorageError):
        run(tmp_path, plan)
    assert gone({pid for pid, _ in lines(tmp_path)})


PROGRAM = """
import sys
from pathlib import Path
from harness.contracts import registry
from harness.runs import plan
from harness.suite.load import load_suite
from harness.execute.run import run_plan
for name in sys.argv[3:]:
    registry.load_plugin(Path(name))
sys.exit(run_plan(plan.make(load_suite(Path(sys.argv[1])), "cpu"), Path(sys.argv[2]), processes=2).exit_code)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a parent's death is told by Linux alone")
def test_the_processes_end_with_a_run_that_is_killed(tmp_path: Path) -> None:
    planned(tmp_path, ["it hangs", *(f"prompt {number}" for number in range(7))])
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "s.yaml"), str(tmp_path / "run"), str(FAKES), str(PLUGIN)]
    killed = subprocess.Popen(command)
    wait_for(lambda: "batch 4" in {event for _, event in lines(tmp_path)})
    killed.kill()
    killed.wait(60)
    assert gone({pid for pid, _ in lines(tmp_path)})


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a parent's death is told by Linux alone")
@pytest.mark.parametrize(("batch", "processes"), [(3, 2), (1, 1), (16, 2)])
def test_a_killed_run_goes_on_in_batches_of_another_size(tmp_path: Path, batch: int, processes: int) -> None:
    (tmp_path / "whole").mkdir()
    assert run(tmp_path / "whole", planned(tmp_path / "whole")).exit_code == 0
    texts = [f"prompt {number}" for number in range(8)]
    planned(tmp_path, [*texts, "it hangs"])
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "s.yaml"), str(tmp_path / "run"), str(FAKES), str(PLUGIN)]
    killed = subprocess.Popen(command)
    wait_for(lambda: (tmp_path / "run" / "records.jsonl").exists() and len(clips(tmp_path)) >= 4)
    killed.kill()
    killed.wait(60)
    assert gone({pid for pid, _ in lines(tmp_path)})
    before = {record.key for record in clips(tmp_path)}
    outcome = run(tmp_path, planned(tmp_path, batch=batch), processes=processes, replace_plan=True)
    assert outcome.exit_code == 0
    assert outcome_of(tmp_path / "run") == outcome_of(tmp_path / "whole" / "run")
    assert len({record.key for record in clips(tmp_path)}) == len(clips(tmp_path)) == 16, "no clip is made twice"
    assert before <= {record.key for record in clips(tmp_path)}
