"""Files of latents that a model cannot be run behind, refused by a plan, a run and `harness rank` alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from typed_commands import Harness

from harness.contracts import registry
from videomla_models.probes import true_latents

SUITE = """\
suite: behind
device: cpu
models: [{{name: {model}, label: arm, options: {{{options}}}}}]
prompts: {{few: [a red circle moves left]}}
measure: [{{name: held, probe: {probe}, prompts: few, frames: 9, options: {{latents: {file}}}}}]
"""
PROBES = ["activation-rank", "cache"]
WRONG: list[tuple[Any, str]] = [
    (torch.zeros(1, 16, 6, 8, 8), "latents are [1, 16, 6, 8, 8]"),
    (torch.zeros(1, 48, 6, 7, 8), "latents are [1, 48, 6, 7, 8]"),
    (torch.zeros(1, 48, 2, 8, 8), "2 latent frames"),
    (torch.zeros(1, 48, 3, 2, 4096), "1024 positions"),
    (torch.zeros(48, 6, 8, 8), "F32 [48, 6, 8, 8]"),
    (torch.zeros(1, 48, 6, 8, 8, dtype=torch.int32), "I32 [1, 48, 6, 8, 8]"),
    ({"a": torch.zeros(1, 48, 6, 8, 8), "b": torch.zeros(1)}, "holds 2 entries"),
]


def suite(folder: Path, file: str, probe: str = PROBES[0], model: str = "toy/dense", options: str = "steps: 1") -> None:
    text = SUITE.format(model=model, options=options, probe=probe, file=file)
    (folder / "suite.yaml").write_text(text)


def refused(found: Any, folder: Path, said: str) -> None:
    assert found.code == 2
    line, fix = found.err.rstrip("\n").split("\n")
    assert "model '" in line
    assert "latents.safetensors: " in line or "latents.safetensors holds" in line
    assert said in line
    assert fix.strip()
    assert not list(folder.rglob("records.jsonl"))


@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize(("content", "said"), WRONG)
def test_latents_of_another_shape_are_refused_before_anything_runs(
    harness: Harness, tmp_path: Path, probe: str, content: Any, said: str
) -> None:
    save_file(content if isinstance(content, dict) else {"latents": content}, tmp_path / "latents.safetensors")
    suite(tmp_path, "latents.safetensors", probe)
    for command in (["plan", "suite.yaml"], ["run", "suite.yaml"]):
        found = harness(*command)
        assert "section 'held'" in found.err
        refused(found, tmp_path, said)


def test_rank_refuses_them_as_well(harness: Harness, tmp_path: Path) -> None:
    save_file({"latents": WRONG[0][0]}, tmp_path / "latents.safetensors")
    arguments = ("--activations", "--latents", "latents.safetensors", "--set", "steps=1", "--out", "rank")
    refused(harness("rank", "toy/dense", *arguments), tmp_path, WRONG[0][1])


def test_a_pickle_is_refused_by_its_shape_too(harness: Harness, tmp_path: Path) -> None:
    torch.save(torch.zeros(1, 16, 6, 8, 8), tmp_path / "latents.pt")
    suite(tmp_path, "latents.pt")
    found = harness("plan", "suite.yaml")
    assert found.code == 2
    assert "latents.pt: latents are [1, 16, 6, 8, 8]" in found.err


@pytest.mark.parametrize(
    ("model", "options", "said"),
    [
        ("rolling-forcing", "weights: random, network: tiny, codec: preview", "rolling schedule"),
        ("toy/dense", "steps: 1, policy: {frames: 7, rotation: write, positions: absolute, head_current: 0.25, "
         "head_from: 2}", "one clip at a time"),
        ("toy/dense", "steps: 1, policy: {rotation: write, positions: absolute, select: 1, select_by: patch, "
         "select_patches: 2}", "2 patches do not divide a frame of 9 tokens"),
    ],
)  # fmt: skip
def test_a_model_that_takes_none_is_refused(
    harness: Harness, tmp_path: Path, model: str, options: str, said: str
) -> None:
    channels = registry.models.create(model, {}).network_config().in_channels  # type: ignore[attr-defined]
    save_file({"latents": torch.zeros(2, channels, 6, 6, 6)}, tmp_path / "latents.safetensors")
    suite(tmp_path, "latents.safetensors", model=model, options=options)
    refused(harness("plan", "suite.yaml"), tmp_path, said)


def test_a_model_of_another_kind_is_refused() -> None:
    with pytest.raises(true_latents.OptionError, match="none of them"):
        true_latents.check_file("latents.safetensors", object())  # type: ignore[arg-type]


@pytest.mark.parametrize("probe", PROBES)
def test_latents_that_fit_are_planned_by_their_header_alone(harness: Harness, tmp_path: Path, probe: str) -> None:
    """Any sides that the patch divides, and numbers that only a run looks at."""
    save_file({"x": torch.full((1, 48, 7, 4, 6), float("nan"))}, tmp_path / "latents.safetensors")
    suite(tmp_path, "latents.safetensors", probe)
    assert harness("plan", "suite.yaml").code == 0
