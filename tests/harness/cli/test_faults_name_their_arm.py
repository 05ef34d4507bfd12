"""Options that fit their schema and not each other: the line says of which arm they are."""

from __future__ import annotations

from pathlib import Path

import pytest
from typed_commands import Harness

SUITE = """\
suite: arms
device: cpu
models:
  - {{name: toy/dense, label: plain}}
  - {{name: toy/videomla, label: the wrong one, options: {{{options}}}}}
prompts: {{few: [a red circle moves left]}}
generate: [{{name: clips, prompts: few, frames: 9}}]
"""


@pytest.mark.parametrize("command", ["plan", "run"])
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("cache: {content: int8, group: 64}", "cache.group 64 does not divide the 32 channels of its content"),
        ("cache: {content: int8, sink: exact, recent_chunks: 1}", "cache leaves nothing to read in codes"),
        ("policy: {frames: 2}", "window of 2 frames cannot hold its sink"),
        ("policy: {frmes: 9}", "policy has no field 'frmes'"),
        ("policy: {bank: 2}", "a bank by prompt"),
    ],
)
def test_the_arm_is_named_once(harness: Harness, tmp_path: Path, command: str, options: str, said: str) -> None:
    (tmp_path / "suite.yaml").write_text(SUITE.format(options=options))
    found = harness(command, "suite.yaml")
    line, fix = found.err.rstrip("\n").split("\n")
    assert found.code == 2
    assert said in line
    assert line.count("model 'the wrong one': ") == 1
    assert fix.strip()
