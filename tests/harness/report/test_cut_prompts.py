"""Prompts that differ only after the tokens that a metric reads score alike: a sentence below the table says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from road import base, run

from harness.contracts import Clip, Metric, Value, registry
from harness.report.tables import build
from harness.runs.records import load_run


@registry.metrics.register("fake/tokens")
class Tokens(Metric):
    """As many words of the prompt as it reads."""

    values = (Value("words"),)
    reads_tokens = 5

    def score(self, clip: Clip) -> Mapping[str, float]:
        self.prompt = clip.prompt.split()
        return {"words": float(len(self.prompt[: self.reads_tokens - 2]))}

    def samples(self) -> Mapping[str, Sequence[float]]:
        return {"prompt_tokens": [len(self.prompt) + 2.0]}


def remarks(folder: Path, texts: list[str]) -> tuple[str, ...]:
    folder.mkdir()
    section = {"name": "short", "prompts": "p", "seeds": [0, 1], "frames": 6, "metrics": ["fake/tokens"]}
    assert run(folder, base(prompts={"p": texts}, generate=[section])).exit_code == 0
    return build([load_run(folder / "run")])[0].remarks


def test_prompts_that_are_read_in_part_are_counted_below_the_table(tmp_path: Path) -> None:
    cut = remarks(tmp_path / "long", ["a red fox", "a red fox runs left", "a red fox runs right"])
    assert cut == (
        "short: 2 of 3 clips' prompts are longer than the 5 tokens that fake/tokens reads; what differs only after "
        "those changes no score.",
    )
    assert remarks(tmp_path / "short", ["a red fox", "one two three"]) == ()
