"""A number on the command line is finite, whichever command it is typed for."""

from __future__ import annotations

import pytest
from typed_commands import Harness

COMMANDS = [
    ("compare", "--percent", "run", "a", "b"),
    ("gate", "--percent", "run", "--baseline", "run"),
    ("plan", "--rate", "suite.yaml"),
    ("rank", "--lora-alpha", "m.safetensors"),
    ("convert", "--lora-alpha", "m.safetensors", "out.safetensors"),
    ("study serve", "--rate", "study"),
]


@pytest.mark.parametrize("number", ["nan", "inf", "1e999"])
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_a_number_that_is_not_finite_is_one_line(harness: Harness, command: tuple[str, ...], number: str) -> None:
    name, option, *others = command
    ended = harness(*name.split(), f"{option}={number}", *others)
    assert ended.code == 2
    # A bound may refuse it first: whether `nan` lies within one depends on the version of typer.
    refused = f"error: {option} is {float(number)}\n  give a finite number\n"
    assert ended.err == refused or f"Invalid value for '{option}'" in ended.err
