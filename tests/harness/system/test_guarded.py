"""A program that is guarded ends with the process that started it, and with all that it has started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from harness.system.guarded import Guarded

LEAVES = """
import os, subprocess, sys, time
hidden = subprocess.Popen(["sleep", "600"], start_new_session=True)
plain = subprocess.Popen(["sleep", "600"])
open(sys.argv[1], "w").write(f"{os.getpid()} {hidden.pid} {plain.pid}\\n")
time.sleep(float(sys.argv[2]))
"""
STARTER = """
import sys, time
from harness.system.guarded import Guarded
program = Guarded([sys.executable, "-c", sys.argv[1], sys.argv[2], "600"])
print("started", flush=True)
time.sleep(600)
"""


def pids(file: Path) -> list[int]:
    """Of the program and its children, once it has told them."""
    until = time.monotonic() + 60
    while not (file.exists() and file.read_text().endswith("\n")):
        assert time.monotonic() < until
        time.sleep(0.01)
    return [int(word) for word in file.read_text().split()]


def runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def gone(numbers: list[int]) -> bool:
    """Whether all of them end, within a bound."""
    until = time.monotonic() + 60
    while any(map(runs, numbers)):
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def test_status_output_and_input_are_the_programs(tmp_path: Path) -> None:
    code = "import sys; print(sys.stdin.read().upper()); sys.exit(7)"
    out = tmp_path / "out"
    with out.open("wb") as file, Guarded([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=file) as program:
        program.popen.communicate(b"text", timeout=60)
        assert program.wait(60) == 7
    assert out.read_bytes() == b"TEXT\n"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_a_program_that_ends_by_a_signal_does_so_for_its_starter(number: int) -> None:
    code = f"import os; os.kill(os.getpid(), {int(number)})"
    with Guarded([sys.executable, "-c", code]) as program:
        assert program.wait(60) == -number


@pytest.mark.parametrize("argv", [["no-such-program"], ["/"], ["a\0b"]])
def test_a_program_that_cannot_be_started_is_an_error(argv: list[str]) -> None:
    with pytest.raises((OSError, ValueError)):
        Guarded(argv)


def test_what_it_leaves_behind_ends_with_it(tmp_path: Path) -> None:
    with Guarded([sys.executable, "-c", LEAVES, str(tmp_path / "pids"), "0"]) as program:
        assert program.wait(60) == 0
        assert gone(pids(tmp_path / "pids"))


def test_letting_go_ends_it_with_all_that_it_has_started(tmp_path: Path) -> None:
    with Guarded([sys.executable, "-c", LEAVES, str(tmp_path / "pids"), "600"]):
        numbers = pids(tmp_path / "pids")
    assert gone(numbers)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_it_ends_with_the_process_that_started_it(tmp_path: Path, number: int) -> None:
    command = [sys.executable, "-c", STARTER, LEAVES, str(tmp_path / "pids")]
    starter = subprocess.Popen(command, stdout=subprocess.PIPE)
    numbers = pids(tmp_path / "pids")
    os.kill(starter.pid, number)
    starter.communicate(timeout=60)
    assert gone(numbers)
