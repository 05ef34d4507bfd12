"""Signals that batch systems, containers and terminals send end a run in order, with exit code 3."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import pytest
from fault_cases import ALL
from road import FAKES, base, outcome_of, run, write
from tiny_recipe import TINY

from harness.runs.folder import Store
from harness.runs.records import RecordFile

WAITS = FAKES.with_name("process_models.py")


def start(suite: Path, out: Path, *before: str) -> subprocess.Popen[str]:
    return launch("run", suite, "--out", out, "--plugin", FAKES, "--plugin", WAITS, before=before)


def launch(*arguments: str | Path, before: Sequence[str] = ()) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*before, sys.executable, "-m", "harness", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background jobs ignore some, and so would what they start.
        preexec_fn=lambda: [signal.signal(n, signal.SIG_DFL) for n in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)],
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_run_in_order(tmp_path: Path, number: signal.Signals) -> None:
    sound = base(prompts={"p": [f"prompt {n}" for n in range(300)]})
    out = tmp_path / "run"
    process = start(write(tmp_path, sound), out)
    records = out / "records.jsonl"
    while not (records.exists() and records.stat().st_size > 4000):
        assert process.poll() is None
    process.send_signal(number)
    says, errors = process.communicate(timeout=600)
    assert process.returncode == 3
    assert "Traceback" not in errors
    by = "" if number == signal.SIGINT else f" by {number.name}"
    assert f"stopped: interrupted{by}; run again to go on" in says
    assert records.read_bytes().endswith(b"\n")
    with Store(out):
        assert outcome_of(out)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_modules_are_imported_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    # In place of the first package that the command line imports.
    (tmp_path / "typer.py").write_text(f"import os, time\nos.kill(os.getpid(), {int(number)})\ntime.sleep(300)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    process = start(write(tmp_path, base()), tmp_path / "run")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 3
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("interrupted")


def ended_in_order(
    process: subprocess.Popen[str], number: signal.Signals, at_work: Callable[[], bool]
) -> tuple[str, str]:
    """What a command says that a signal ends once it is at work; all that it has started must be gone."""
    while not at_work():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    says, errors = process.communicate(timeout=600)
    assert process.returncode == 3
    assert "Traceback" not in errors
    psutil.wait_procs(children, timeout=60)
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    return says, errors


BOTH = [signal.SIGTERM, signal.SIGHUP]


@pytest.mark.parametrize("number", BOTH if ALL else [signal.SIGTERM])
def test_a_signal_ends_trainings_in_order(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "recipe.yaml").write_text(TINY.replace("steps: 3", "steps: 1000000"))
    process = launch("train", tmp_path / "recipe.yaml", "--out", tmp_path / "out", "--jobs", "2")
    two = lambda: len(psutil.Process(process.pid).children()) == 2  # noqa: E731
    says, _ = ended_in_order(process, number, two)
    assert f"stopped: interrupted by {number.name}; run again to go on" in says
    with Store(tmp_path / "out"):
        assert not (tmp_path / "out" / "records.jsonl").exists()


@pytest.mark.parametrize("number", BOTH if ALL else [signal.SIGHUP])
def test_a_signal_ends_a_rehearsal_in_order(tmp_path: Path, number: signal.Signals) -> None:
    models = [{"name": "process/model", "label": "a", "options": {"log": str(tmp_path / "a.log")}}]
    # Its clips wait for a file that never comes.
    suite = write(tmp_path, base(models=models, prompts={"p": ["it waits"]}))
    process = launch("rehearse", suite, "--out", tmp_path / "out", "--plugin", FAKES, "--plugin", WAITS)
    says, _ = ended_in_order(process, number, (tmp_path / "a.log").exists)
    assert "not tried metric fake/brightness: it was not reached" in says
    assert says.endswith(f"stopped: interrupted by {number.name}; run again to begin anew\n")


STARTS = """
import subprocess, sys, time
from pathlib import Path
from harness.contracts import ModelCard, VideoModel
from harness.contracts.registry import models

@models.register("faults/starts")
class Starts(VideoModel):
    def describe(self):
        return ModelCard("fake", 16, 16, 16.0, 4)

    def load(self, device):
        self.child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], stdout=subprocess.DEVNULL,
                                      stderr=subprocess.DEVNULL)

    def stream(self, request, spans=None):
        (Path(__file__).parent / "streams").touch()
        time.sleep(3600)

    def unload(self):
        self.child.kill()
        self.child.wait()
"""


@pytest.mark.parametrize("number", BOTH if ALL else [signal.SIGTERM])
def test_a_signal_ends_a_check_and_what_the_model_has_started(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "starts.py").write_text(STARTS)
    process = launch("check", "faults/starts", "--plugin", tmp_path / "starts.py")
    assert ended_in_order(process, number, (tmp_path / "streams").exists) == ("", f"interrupted by {number.name}\n")


def test_a_signal_that_is_ignored_stays_so(tmp_path: Path) -> None:
    """As `nohup` has it."""
    out = tmp_path / "run"
    process = start(write(tmp_path, base()), out, "nohup")
    records = out / "records.jsonl"
    while not records.exists():
        assert process.poll() is None
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=600)
    assert process.returncode == 0


def test_a_probe_that_never_returns_fails_its_unit_and_the_run_goes_on(tmp_path: Path) -> None:
    hangs = {"name": "hangs", "probe": "fake/hangs", "timeout_s": 1.0}
    sound = {"name": "speed", "probe": "fake/count", "prompts": "p", "frames": 10}
    outcome = run(tmp_path, base(generate=[], measure=[hangs, sound]))
    assert (outcome.failed, outcome.done_now) == (1, 1)
    records = RecordFile(tmp_path / "run" / "records.jsonl").records()
    (failed,) = (record for record in records if record.status == "failed")
    assert str(failed.error["message"]).startswith("the measurement took more than 1 s and was ended")


def test_a_child_that_a_model_forks_keeps_no_lock(tmp_path: Path) -> None:
    with Store(tmp_path / "run"):
        mine, its = os.pipe(), os.pipe()
        child = os.fork()
        if not child:
            os.write(its[1], b"x")
            os.read(mine[0], 1)
            os._exit(0)
        os.read(its[0], 1)
    try:
        with Store(tmp_path / "run"):
            assert os.waitpid(child, os.WNOHANG) == (0, 0)
    finally:
        os.write(mine[1], b"x")
        os.waitpid(child, 0)
        for end in (*mine, *its):
            os.close(end)


QUIET = {signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH}
"""Signals that end nothing."""
STOPPING = {signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
IGNORED = {signal.SIGPIPE, signal.SIGXFSZ}
"""Python ignores them."""
ORDERLY = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
EVERY = set(signal.Signals) if ALL else {signal.SIGQUIT, signal.SIGUSR1, signal.SIGCHLD, signal.SIGTSTP}


@pytest.mark.parametrize("number", sorted(EVERY - ORDERLY), ids=lambda number: number.name)
def test_any_signal_leaves_a_folder_that_the_next_run_goes_on_with(tmp_path: Path, number: signal.Signals) -> None:
    models = [{"name": "process/model", "label": "a", "options": {"log": str(tmp_path / "a.log")}}]
    # The last prompt's clips wait for the file `go`, so that the signal finds the run at work.
    suite, out = write(tmp_path, base(models=models, prompts={"p": ["one", "two", "it waits"]})), tmp_path / "run"
    process = start(suite, out)
    records = out / "records.jsonl"
    while not (records.exists() and records.read_bytes().count(b"\n") == 8):
        assert process.poll() is None
        time.sleep(0.01)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    if number in STOPPING:
        process.send_signal(signal.SIGCONT)
    (tmp_path / "go").touch()
    _, errors = process.communicate(timeout=600)
    assert process.returncode == (0 if number in QUIET | STOPPING | IGNORED else -number), errors
    psutil.wait_procs(workers, timeout=60)
    # A process that has ended may wait for its new parent to notice.
    assert not [worker for worker in workers if worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE]
    again = start(suite, out)
    again.communicate(timeout=600)
    assert again.returncode == 0
    assert len(outcome_of(out)) == 12
    keys = [json.loads(line)["key"] for line in records.read_bytes().splitlines()]
    assert len(keys) == len(set(keys)), "a unit was done twice"
