"""Prompts that differ only after the tokens that a metric reads score alike: a sentence below the table says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from road import base, run

from harness.contracts import Clip, Metric, Options, Value, registry
from harness.report.tables import build
from harness.runs.records import load_run


class Length(Options):
    limit: int = 0


@registry.metrics.register("fake/tokens")
class Tokens(Metric):
    """As many words of the prompt as it reads; `limit` stands for a network that reads more or fewer than usual."""

    schema = Length
    values = (Value("words"),)
    reads_tokens = 5

    def score(self, clip: Clip) -> Mapping[str, float]:
        self.prompt = clip.prompt.split()
        return {"words": float(len(self.prompt[: self.reads_tokens - 2]))}

    def samples(self) -> Mapping[str, Sequence[float]]:
        limit = {"prompt_limit": [float(self.options.limit)]} if self.options.limit else {}
        return {"prompt_tokens": [len(self.prompt) + 2.0], **limit}


def made(folder: Path, texts: list[str], limit: int = 0) -> Path:
    folder.mkdir()
    metric = {"name": "fake/tokens", "options": {"limit": limit}}
    section = {"name": "short", "prompts": "p", "seeds": [0, 1], "frames": 6, "metrics": [metric]}
    assert run(folder, base(prompts={"p": texts}, generate=[section])).exit_code == 0
    return folder / "run"


def remarks(*folders: Path) -> tuple[str, ...]:
    return build([load_run(folder) for folder in folders])[0].remarks


TEXTS = ["a red fox", "a red fox runs left", "a red fox runs right"]
SAYS = (
    "short: {} of 3 clips' prompts are longer than the {} tokens that fake/tokens reads; what differs only after "
    "those changes no score."
)


def test_prompts_that_are_read_in_part_are_counted_below_the_table(tmp_path: Path) -> None:
    assert remarks(made(tmp_path / "long", TEXTS)) == (SAYS.format(2, 5),)
    assert remarks(made(tmp_path / "short", ["a red fox", "one two three"])) == ()


def test_the_length_is_that_of_the_network_that_scored(tmp_path: Path) -> None:
    """As the record says it: 4 tokens cut all three prompts, 7 none, whatever the metric reads as a rule."""
    assert remarks(made(tmp_path / "fewer", TEXTS, limit=4)) == (SAYS.format(3, 4),)
    assert remarks(made(tmp_path / "more", TEXTS, limit=7)) == ()


def test_lengths_of_two_networks_are_both_told(tmp_path: Path) -> None:
    folders = [made(tmp_path / name, TEXTS, limit) for name, limit in (("four", 4), ("five", 5), ("seven", 7))]
    assert SAYS.format(3, "4 or 5") in remarks(*folders)
