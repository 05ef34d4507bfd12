"""The README shows committed results, and names commands and files that exist."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from harness.cli import main
from harness.contracts import Clip, registry

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("table", sorted((ROOT / "results").glob("*/tables/comparison.md")), ids=lambda p: p.parts[-3])
def test_the_readmes_table_is_the_committed_one(table: Path) -> None:
    rows = [line for line in table.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    assert rows
    assert "\n".join(rows) in README


def test_the_readmes_metric_scores(tmp_path: Path) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (tmp_path / "lab_brightness.py").write_text(block, encoding="utf-8")
    registry.load_plugin(tmp_path / "lab_brightness.py")
    frames = np.full((5, 8, 8, 3), 100, np.uint8)
    clip = Clip(tmp_path / "c.mp4", "a cat", 0, 0, 5, 8, 8, 8.0, "", lambda: frames)
    assert registry.metrics.create("lab/brightness", {}).score(clip) == {"brightness": 100.0}


def test_linked_files_exist() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.parametrize("command", sorted(set(re.findall(r"^    harness ([a-z-]+)", README, re.MULTILINE))))
def test_commands_exist(command: str) -> None:
    assert CliRunner().invoke(main.app, [command, "--help"]).exit_code == 0
