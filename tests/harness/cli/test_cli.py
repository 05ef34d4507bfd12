"""The command line through `main`: what it prints, where, and its exit codes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from road import FAKES
from typed_commands import Harness


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "absent.yaml"], "absent.yaml"),
        (["table", "absent"], "no run folder"),
        (["list", "modells"], "did you mean models?"),
        (["describe", "fake/movin", "--plugin", str(FAKES)], "did you mean"),
        (["describe", "fake/moving", "--plugin", str(FAKES), "--set", "chunk"], "expected key=value"),
        (["table", "absent", "--check"], "--check needs --all"),
        (["run", "suite.yaml", "--plugin", "absent.py"], "absent.py does not exist"),
        (["nonsense"], "No such command"),
        (["run"], "Missing argument"),
        (["run", "suite.yaml", "--out", ""], "an empty text names no folder"),
        (["describe", "fake/moving", "--plugin", str(FAKES), "--set", 'chunk=!!float ""'], "is no float"),
        (["describe", "fake/moving", "--plugin", str(FAKES), "--set", f"chunk=0x{'f' * 6000}"], "no finite number"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(harness: Harness, arguments: list[str], message: str) -> None:
    found = harness(*arguments)
    assert found.code == 2
    assert message in found.err
    assert "Traceback" not in found.err
    assert found.out == ""


def test_messages_cannot_drive_the_terminal(harness: Harness) -> None:
    found = harness("table", "a\x1b[31mb\nc")
    assert "\x1b" not in found.err
    assert "a [31mb c" in found.err


@pytest.mark.parametrize(
    ("content", "says"), [(b"\xff\xfe\x00", "is no text in UTF-8"), (b"title: s\n", "key 'suite' is missing")]
)
def test_a_suite_that_is_no_suite_is_one_line(harness: Harness, tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "other.yaml").write_bytes(content)
    found = harness("plan", "other.yaml")
    assert (found.code, says in found.err) == (2, True)
    assert found.err.startswith("error: other.yaml:1: ")
    folder = harness("plan", str(tmp_path))
    assert (folder.code, "it is no regular file" in folder.err) == (2, True)


def test_the_help_is_in_groups_in_the_order_of_use_and_whole_without_a_terminal(harness: Harness) -> None:
    listed = harness("--help")
    assert listed.code == 0
    assert harness("-h").out == listed.out
    headings = re.findall(r"^(\w.*):$", listed.out, re.MULTILINE)
    assert headings[0] == "Options"
    assert headings[-1] == "From installed packages"
    names = re.findall(r"^  ([a-z][a-z-]+)  ", listed.out, re.MULTILINE)
    assert [name for name in names if name in {"table", "doctor", "run", "plan", "gate"}] == [
        "doctor",
        "plan",
        "run",
        "table",
        "gate",
    ]
    assert {"convert", "kernels", "verify-trace"} <= set(names[-5:])
    assert "..." not in listed.out.partition("Look around")[2], "every command fits its line"
    assert "-h, --help" in harness("gate", "-h").out
    assert "--install-completion" in listed.out
    assert "--install-completion" not in harness("env", "--help").out


def test_version(harness: Harness) -> None:
    assert harness("--version").out == f"harness {version('videomla-bench')}\n"


def test_a_misspelt_command_names_the_nearest_one(harness: Harness) -> None:
    for written, meant in (("pln", "plan"), ("kernel", "kernels")):
        refused = harness(written)
        assert (refused.code, f"did you mean {meant}" in refused.err) == (2, True)


def test_completion_knows_the_commands(tmp_path: Path) -> None:
    environment = {**os.environ, "_HARNESS_COMPLETE": "complete_bash", "COMP_WORDS": "harness ga", "COMP_CWORD": "1"}
    command = [sys.executable, "-m", "harness"]
    offered = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert offered.stdout.split() == ["gate"], offered.stderr
