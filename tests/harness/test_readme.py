"""The README shows a committed result, and pages name commands that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from harness.cli import main

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [README, *(page.read_text(encoding="utf-8") for page in sorted((ROOT / "docs").glob("*.md")))]
COMMANDS = {name for page in PAGES for name in re.findall(r"(?:^    |`)harness ([a-z][a-z-]+)", page, re.MULTILINE)}


def test_the_readmes_table_is_the_committed_one() -> None:
    table = (ROOT / "results" / "quickstart" / "tables" / "comparison.md").read_text(encoding="utf-8")
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert rows
    assert "\n".join(rows) in README


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_commands_exist(command: str) -> None:
    assert CliRunner().invoke(main.app, [command, "--help"]).exit_code == 0
