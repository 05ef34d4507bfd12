"""The training of the shipped models: what it may show, and that it is the one that they had."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harness.suite.recipe import load_recipe
from videomla_models.small_world.world import held_out
from videomla_models.training import data as toy_data
from videomla_models.training.chain import train
from videomla_models.training.data import FIRST_TRAINING_SEED, ToyData
from videomla_models.training.loop import GENERATOR

RECIPE = Path(__file__).parents[3] / "suites/training/small_models.yaml"


@pytest.mark.parametrize("crosses", [0.0, 0.4])
def test_held_out_captions_and_seeds_are_never_shown(monkeypatch: pytest.MonkeyPatch, crosses: float) -> None:
    shown: list[str] = []
    seeds: list[int] = []
    render = toy_data.render_batch

    def watch(captions: list[object], given: list[int], frames: int) -> object:
        shown.extend(str(caption) for caption in captions)
        seeds.extend(given)
        return render(captions, given, frames)  # type: ignore[arg-type]

    monkeypatch.setattr(toy_data, "render_batch", watch)
    for step in range(400):
        ToyData(crosses=crosses).drawn(step, 0.08)
    assert len(set(shown)) > 1000
    share = sum(" cross " in caption for caption in shown) / len(shown)
    assert share == pytest.approx(0.25 + 0.75 * 0.9 * crosses, abs=0.03)
    assert not set(shown) & {str(caption) for caption in held_out()}
    assert min(seeds) >= FIRST_TRAINING_SEED


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    first, again, other = (ToyData(clips=2, chunks=3).drawn(step, 0.5) for step in (3, 3, 4))
    assert torch.equal(first[0], again[0])
    assert first[1] == again[1]
    assert not torch.equal(first[0], other[0])
    latents, texts, weight = first
    assert latents.shape == weight.shape == (2, 9, 48, 8, 8)
    assert len(texts) == 2
    assert set(weight.unique().tolist()) == {1.0, 3.0}


def small(tmp_path: Path, label: str, steps: int = 12, warmup: int = 3, **data: object) -> list[float]:
    """The losses of a short training by the recipe of the shipped models, one a step."""
    overrides = [f"base.data.{name}={value}" for name, value in data.items()]
    overrides += [f"base.stages.0.steps={steps}", f"base.stages.0.warmup={warmup}"]
    _, trainings = load_recipe(RECIPE, overrides)
    (chain,) = [training.options for training in trainings if training.label == label]
    return train(chain, tmp_path)[-1].losses[GENERATOR]


def test_losses_are_those_of_the_shipped_models_program(tmp_path: Path) -> None:
    """Three losses as the program that trained the shipped models gave them."""
    losses = small(tmp_path, "videomla", clips=1, chunks=2, crosses=0.4)
    assert losses[:3] == pytest.approx([1.41204929, 1.28831077, 0.70015061], rel=1e-4)


@pytest.mark.slow
def test_the_loss_falls(tmp_path: Path) -> None:
    losses = small(tmp_path, "dense", steps=60, warmup=10, clips=4, chunks=2)
    assert sum(losses[-10:]) < 0.5 * sum(losses[10:20])
