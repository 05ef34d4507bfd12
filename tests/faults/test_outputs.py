"""Where a command's output goes may be full, closed, or left by its reader: no command ends in a traceback for that."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import page_runs
import pytest
import studies
from fault_cases import ALL, Tried
from road import FAKES, base, write

ROOT = Path(__file__).parents[2]
TRACE = ROOT / "tests" / "data" / "traces" / "infinity_rope_la6_sink1.safetensors"

IN_FORKS = """
import json, os, sys, tempfile, time
from harness.cli.main import main
for case in json.loads(sys.argv[1]):
    told = tempfile.TemporaryFile()
    child = os.fork()
    if not child:
        kind, arguments = case
        reading, broken = os.pipe()
        os.close(reading)
        full, null = os.open("/dev/full", os.O_WRONLY), os.open(os.devnull, os.O_WRONLY)
        out, err = {"plain": (null, told.fileno()), "left": (broken, told.fileno()), "full": (full, told.fileno()),
                    "errors full": (null, full), "errors left": (null, broken), "no errors": (null, None),
                    "no output": (None, told.fileno())}[kind]
        for place, stream in ((1, out), (2, err)):
            os.dup2(stream, place) if stream is not None else os.close(place)
        sys.stdout = None if out is None else open(1, "w", closefd=False)
        sys.stderr = None if err is None else open(2, "w", closefd=False, errors="backslashreplace")
        main(arguments)
    until, status = time.monotonic() + 120, 0
    while not (ended := os.waitpid(child, os.WNOHANG))[0] and time.monotonic() < until:
        time.sleep(0.005)
    if not ended[0]:
        os.kill(child, 9)
        os.waitpid(child, 0)
    told.seek(0)
    code = os.waitstatus_to_exitcode(ended[1]) if ended[0] else "late"
    print(json.dumps([*case, code, told.read().decode("utf-8", "replace")]), flush=True)
"""
PLUGINS = ["--plugin", str(FAKES)]
RECIPE = "training/distilled.yaml"
COMMANDS = [
    ["--version"], ["-h"], ["list", "models"], ["describe", "suite"], ["describe", "toy/dense"],
    ["plan", "s.yaml", *PLUGINS], ["run", "s.yaml", "--dry-run", *PLUGINS], ["train", RECIPE, "--dry-run"],
    ["run", "s.yaml", "--out", "made", "--processes", "0", *PLUGINS], ["merge", "out", "run"], ["table", "run"],
    ["table", "run", "--json"], ["table", "run", "--long"], ["table", "run", "--out", "tables"],
    ["compare", "run", "a", "b"], ["gate", "run", "--baseline", "run"], ["show", "0", "--run", "run"],
    ["page", "run", "--out", "page"], ["sheet", "run", "--out", "sheet.png"], ["by-prompt", "run"],
    ["vbench", "totals", "results.json"], ["study", "new", "run", "--out", "other", "--raters", "2"],
    ["study", "export", "study", "--out", "static"], ["study", "tally", "study"], ["fetch"], ["doctor"],
    ["check", "toy/dense", "--no-live"], ["new", "suite", "x", "--out", "x"], ["convert", "none.pt", "x.safetensors"],
    ["verify-trace", str(TRACE)], ["nonsense"], ["run"],
]  # fmt: skip
KINDS = ["full", "no errors", "left", "errors full", "errors left", "no output"]
WHOLE = KINDS[:3]
"""Kinds that every command meets; of the others each meets one in turn."""
MADE = ("made", "out", "tables", "page", "sheet.png", "run/by-prompt", "other", "static", "x")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, a study of it, a suite, a recipe and results of VBench."""
    folder = tmp_path_factory.mktemp("outputs")
    studies.make_study(folder, "overall", raters=2, each=2, obvious=0)
    write(folder, base())
    shutil.copytree(ROOT / "suites" / "training", folder / "training")
    (folder / "results.json").write_text(json.dumps({"color": [0.5, []]}))
    return folder


def tried_as(kind: str, folder: Path, which: slice) -> list[tuple[list[str], int | str, str]]:
    """These commands with their output as `kind` says: exit code, and what each said on standard error."""
    for name in MADE:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    named = [
        [*command, "--plugin", page_runs.__file__] if command[0] in ("table", "page", "compare", "gate") else command
        for command in COMMANDS[which]
    ]
    done = subprocess.run(
        [sys.executable, "-c", IN_FORKS, json.dumps([[kind, command] for command in named])],
        cwd=folder, capture_output=True, text=True, timeout=600, check=False,
        env={**os.environ, "COLUMNS": "100"},
    )  # fmt: skip
    ended = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(ended) == len(named), done.stderr
    return [(command, code, says) for _, command, code, says in ended]


@pytest.fixture(scope="module")
def plain(folder: Path) -> list[int | str]:
    """The exit code of each command whose output is taken."""
    ended = tried_as("plain", folder, slice(None))
    for command, code, says in ended:
        assert code in (0, 1, 2, 3), (command, says)
    assert sum(code == 0 for _, code, _ in ended) > len(ended) // 2, ended
    return [code for _, code, _ in ended]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("kind", KINDS if ALL else KINDS[:2])
def test_output_that_nobody_takes_ends_no_command_in_a_traceback(
    folder: Path, plain: list[int | str], tried: Tried, kind: str
) -> None:
    which = slice(None) if kind in WHOLE else slice(KINDS.index(kind) % 3, None, 3)
    ended = tried_as(kind, folder, which)
    for (command, code, says), usual in zip(ended, plain[which], strict=True):
        assert "Traceback" not in says, (command, says)
        assert "Exception ignored" not in says, (command, says)
        if kind == "full" and usual == 0:
            assert code == 1, (command, says)
            assert "standard output cannot be written: No space left on device" in says, command
        else:
            assert code == usual, (command, says)
    tried(len(ended))
