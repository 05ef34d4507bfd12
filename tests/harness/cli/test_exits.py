"""Exit codes where nothing fails but the reader, and where a plug-in does what it should not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

BAD = """\
from harness.contracts import VideoModel, registry

class Base(VideoModel):
    def stream(self, request, spans=None):
        raise AssertionError

@registry.models.register("bad/raises")
class Raises(Base):
    def describe(self):
        raise ValueError("no way")

@registry.models.register("bad/none")
class Gives(Base):
    def describe(self):
        return None

@registry.models.register("bad/exits")
class Exits(Base):
    def describe(self):
        raise SystemExit(0)
"""


def harness(*arguments: str, **streams: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "harness", *arguments]
    return subprocess.run(command, text=True, stderr=subprocess.PIPE, check=False, timeout=120, **streams)  # type: ignore[call-overload, no-any-return]


COMMANDS = [["--version"], ["-h"], ["run", "-h"], ["list", "models"]]


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_a_reader_that_has_left_is_no_failure(arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    ended = harness(*arguments, stdout=writing)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_a_full_disk_is_one_line_and_exit_code_1(arguments: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        ended = harness(*arguments, stdout=full)
    assert ended.returncode == 1
    assert ended.stderr.strip() == "error: standard output cannot be written: No space left on device"


def test_a_command_whose_reader_has_left_keeps_its_exit_code(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    ended = harness("gate", str(tmp_path), "--baseline", str(tmp_path), stdout=writing, cwd=str(tmp_path))
    os.close(writing)
    assert ended.returncode == 2
    assert "is no run folder" in ended.stderr


@pytest.mark.parametrize(
    ("model", "code", "message"),
    [
        ("bad/raises", 2, "model 'bad/raises' cannot describe itself: ValueError: no way"),
        ("bad/none", 2, "model 'bad/none': describe() gave a NoneType, not a ModelCard"),
        ("bad/exits", 1, "a plug-in tried to end the program (SystemExit: 0)"),
    ],
)
@pytest.mark.parametrize("command", ["describe", "plan"])
def test_a_model_that_cannot_describe_itself_is_one_line(
    tmp_path: Path, command: str, model: str, code: int, message: str
) -> None:
    (tmp_path / "bad.py").write_text(BAD)
    (tmp_path / "s.yaml").write_text(
        f"suite: s\nmodels: [{{name: {model}}}]\nprompts: {{p: [one]}}\n"
        "generate: [{name: short, prompts: p, frames: 4}]\n"
    )
    what = model if command == "describe" else "s.yaml"
    ended = harness(command, what, "--plugin", "bad.py", cwd=str(tmp_path), stdout=subprocess.PIPE)
    assert ended.returncode == code
    assert ended.stderr.strip() == f"error: {message}"
