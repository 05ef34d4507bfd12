"""The disk fills up, and the process is killed at any moment: nothing that was recorded is lost."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from fault_cases import ALL, Tried
from road import FAKES, base, outcome_of, run, write

from harness.runs.records import RecordFile

PROGRAM = """
import resource, sys
from pathlib import Path
from harness.contracts import registry
from harness.runs import plan
from harness.suite.load import load_suite
from harness.errors import HarnessError
from harness.execute.run import run_plan
fakes, path, out, limit, processes = sys.argv[1:]
registry.load_plugin(Path(fakes))
units = plan.make(load_suite(Path(path)), "cpu")
if int(limit):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
try:
    outcome = run_plan(
        units,
        Path(out),
        processes=int(processes),
        progress=lambda tick: tick.record and print(tick.finished, flush=True),
    )
except HarnessError as error:
    sys.exit(f"{error.exit_code} {error}")
sys.exit(outcome.exit_code)
"""


def start(suite: Path, out: Path, limit: int = 0, processes: int = 1) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, str(FAKES), str(suite), str(out), str(limit), str(processes)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background jobs ignore the signal, and so would what they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def many(prompts: int = 4, batch: int = 1) -> dict[str, Any]:
    arms = [
        {"name": "fake/moving", "label": "a"},
        {"name": "fake/raises", "label": "b", "options": {"when": "prompt 1", "chunk": 3}},
    ]
    measure = [{"name": "speed", "probe": "fake/count", "prompts": "p", "frames": 10}]
    generate = [{**base()["generate"][0], "batch": batch}]
    prompts_by_name = {"p": [f"prompt {n}" for n in range(prompts)]}
    return base(models=arms, prompts=prompts_by_name, generate=generate, measure=measure)


def test_a_file_that_may_not_grow_ends_the_run_with_a_clear_line_and_nothing_torn(tmp_path: Path) -> None:
    run(tmp_path, many())
    whole = outcome_of(tmp_path / "run")
    suite, out = write(tmp_path, many()), tmp_path / "full"
    process = start(suite, out, limit=16_000)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 1
    assert errors.startswith("1 ")
    assert "cannot be written: File too large" in errors
    assert "run again" in errors
    lines = (out / "records.jsonl").read_bytes()
    assert lines.endswith(b"\n")
    assert 0 < len(outcome_of(out)) < len(whole)
    assert not list(out.rglob("*.part"))
    process = start(suite, out)
    process.communicate(timeout=600)
    assert outcome_of(out) == whole


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Any:
    """A file system of 96 KiB; skips where this user may not mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("may not mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_ends_the_run_with_a_clear_line_and_it_goes_on_elsewhere(tmp_path: Path, tiny_disk: Path) -> None:
    run(tmp_path, many(5))
    whole = outcome_of(tmp_path / "run")
    suite = write(tmp_path, many(5))
    process = start(suite, tiny_disk / "run")
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 1, errors
    assert "No space left on device" in errors
    left = outcome_of(tiny_disk / "run")
    assert 0 < len(left) < len(whole)
    assert not list(tiny_disk.rglob("*.part"))
    shutil.copytree(tiny_disk / "run", tmp_path / "moved")
    process = start(suite, tmp_path / "moved")
    lines, _ = process.communicate(timeout=600)
    assert outcome_of(tmp_path / "moved") == whole
    assert len(lines.split()) == len(whole) - sum(status == "ok" for _, status, *_ in left.values())


def test_an_interrupt_signal_ends_in_order_with_exit_code_3(tmp_path: Path) -> None:
    sound = base(prompts={"p": [f"prompt {n}" for n in range(100)]})
    process = start(write(tmp_path, sound), tmp_path / "run")
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=600)
    assert process.returncode == 3
    assert (tmp_path / "run" / "records.jsonl").read_bytes().endswith(b"\n")


KILLS = 34 if ALL else 6
"""For each seed."""
WORKERS_KILLED = 20 if ALL else 4
"""Runs whose workers are killed."""
MAKER = "harness.execute.making"


def _kill_at(suite: Path, out: Path, processes: int, moment: float, after_lines: int) -> bool:
    """Start a run, kill it `moment` seconds after its `after_lines`-th unit; whether it was still going.

    After none, that is a moment of its start or of its whole life.
    """
    process = start(suite, out, processes=processes)
    assert process.stdout is not None
    for _ in range(after_lines):
        process.stdout.readline()
    time.sleep(moment)
    alive = process.poll() is None
    process.kill()
    process.communicate()
    return alive


@pytest.mark.parametrize(("seed", "processes"), [(0, 0), (1, 1), (2, 2)])
def test_a_run_killed_at_random_points_resumes_to_the_records_of_an_unbroken_one(
    tmp_path: Path, tried: Tried, seed: int, processes: int
) -> None:
    data = many(4, batch=4 if processes > 1 else 1)
    run(tmp_path, data)
    whole = outcome_of(tmp_path / "run")
    suite, dice = write(tmp_path, data), random.Random(seed)
    began = time.monotonic()
    start(suite, tmp_path / "timed", processes=processes).communicate(timeout=600)
    life = time.monotonic() - began
    killed, kept = 0, []
    folders: set[Path] = set()
    attempt = 0
    while killed < KILLS:
        out = tmp_path / f"broken{attempt // 4}"
        attempt += 1
        folders.add(out)
        before = _lines(out)
        lines = dice.randint(0, 3)
        moment = dice.uniform(0.0, dice.choice([0.06, life]) if not lines else 0.06)
        killed += _kill_at(suite, out, processes, moment, lines)
        after = _lines(out)
        assert after[: len(before)] == before, "a finished record was lost or changed"
        kept.append(len(after))
        assert attempt < 3 * KILLS
    assert max(kept) > 3
    tried(killed)
    for out in sorted(folders):
        process = start(suite, out)
        _, errors = process.communicate(timeout=600)
        assert process.returncode == 1, errors
        assert outcome_of(out) == whole
        ok = [json.loads(line)["key"] for line in _lines(out) if b'"status":"ok"' in line]
        assert len(ok) == len(set(ok)), "a finished unit was done twice"
        on_disk = {path.stem for path in out.rglob("*.mp4")}
        assert on_disk == {key for key, (kind, status, *_) in whole.items() if (kind, status) == ("generate", "ok")}
        assert not list(out.rglob("*.part"))


def _lines(out: Path) -> list[bytes]:
    path = out / "records.jsonl"
    data = path.read_bytes() if path.exists() else b""
    return data[: data.rfind(b"\n") + 1].splitlines(keepends=True)


def test_killed_between_clip_and_record_the_clip_is_made_again_and_agrees(tmp_path: Path) -> None:
    run(tmp_path, base())
    path = tmp_path / "run" / "records.jsonl"
    whole, lines = outcome_of(tmp_path / "run"), path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-2]) + lines[-2][: len(lines[-2]) // 2])
    run(tmp_path, base())
    assert outcome_of(tmp_path / "run") == whole
    assert len(list(RecordFile(path).records())) == len(lines)
    assert os.listdir(tmp_path / "run")


def _kill_workers(driver: int, dice: random.Random, life: float, most: int) -> int:
    """Kill at most so many processes that make clips for a run, each at a random moment; how many were killed."""
    killed = 0
    with suppress(psutil.Error):
        run_itself = psutil.Process(driver)
        while killed < most and run_itself.status() != psutil.STATUS_ZOMBIE:
            time.sleep(dice.uniform(0.0, life / most))
            makers = [child for child in run_itself.children() if MAKER in child.cmdline()]
            if makers:
                dice.choice(makers).kill()
                killed += 1
    return killed


@pytest.mark.parametrize("processes", [1, 2])
def test_processes_killed_at_random_points_of_a_run_lose_it_no_unit(
    tmp_path: Path, tried: Tried, processes: int
) -> None:
    data = many(8, batch=4 if processes > 1 else 1)
    run(tmp_path, data)
    whole = outcome_of(tmp_path / "run")
    suite, dice, killed = write(tmp_path, data), random.Random(processes), 0
    for number in range(WORKERS_KILLED):
        out = tmp_path / f"hit{number}"
        process = start(suite, out, processes=processes)
        # A unit that has ended three would have failed.
        killed += _kill_workers(process.pid, dice, 1.0, most=2)
        _, errors = process.communicate(timeout=600)
        assert process.returncode == 1, errors
        assert outcome_of(out) == whole
        keys = [json.loads(line)["key"] for line in _lines(out)]
        assert len(keys) == len(set(keys)), "a unit was done twice"
    tried(killed)
    assert killed
