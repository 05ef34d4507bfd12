"""Signals that batch systems, containers and terminals send end a run in order, with exit code 3."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from road import FAKES, base, outcome_of, run, write

from harness.runs.folder import Store
from harness.runs.records import RecordFile


def start(suite: Path, out: Path, *before: str) -> subprocess.Popen[str]:
    command = [*before, sys.executable, "-m", "harness", "run", str(suite), "--out", str(out), "--plugin", str(FAKES)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background jobs ignore the first, and so would what they start.
        preexec_fn=lambda: [signal.signal(n, signal.SIG_DFL) for n in (signal.SIGINT, signal.SIGHUP)],
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
