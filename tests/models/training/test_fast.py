"""Fast training: the same function up to rounding, resumed exactly, under a key of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harness.errors import NotAvailable
from harness.suite.recipe import load_recipe
from videomla_models.network import compiled
from videomla_models.training.chain import train
from videomla_models.training.loop import GENERATOR
from videomla_models.training.optimisers import Muon, orthogonalise
from videomla_models.training.options import Chain

RECIPES = Path(__file__).parents[3] / "suites/training"
SMALL = ["base.data.clips=2", "base.data.chunks=2", "base.stages.0.steps=6", "base.stages.0.warmup=2"]


def chain(label: str, *overrides: str, recipe: str = "small_models") -> Chain:
    """A short training by the recipe of the shipped models."""
    _, trainings = load_recipe(RECIPES / f"{recipe}.yaml", [*SMALL, *overrides])
    (options,) = [training.options for training in trainings if training.label == label]
    assert isinstance(options, Chain)
    return options


@pytest.mark.slow
@pytest.mark.parametrize("label", ["dense", "videomla"])
def test_a_fast_training_has_the_losses_of_a_slow_one(label: str, tmp_path: Path) -> None:
    slow = train(chain(label), tmp_path)[-1].losses[GENERATOR]
    fast = train(chain(label, "base.fast=true"), tmp_path)[-1].losses[GENERATOR]
    half = train(chain(label, "base.fast=true", "base.precision=bfloat16"), tmp_path)[-1].losses[GENERATOR]
    assert fast == pytest.approx(slow, rel=1e-3)
    assert half == pytest.approx(slow, rel=0.05)
    assert fast != slow  # or it is not what was compiled


STAGES = [
    {"stage": "teacher_forcing", "steps": 3, "rate": 1e-3},
    {"stage": "consistency", "steps": 3, "rate": 1e-4, "denoising": [1000, 500]},
    {"stage": "distribution_matching", "steps": 4, "rate": 1e-5, "updates": 2, "denoising": [1000, 500]},
]


@pytest.mark.parametrize("attention", ["dense", "latent"])
def test_every_stage_trains_in_bfloat16_as_in_float32(attention: str, tmp_path: Path) -> None:
    sizes = {"attention": attention, "dim": 24, "heads": 2, "layers": 2, "ffn": 32}
    latent = {"d_c": 8, "d_q": 16, "d_nope": 6, "d_rope": 6, "pairs": [1, 1, 1]}
    data = {"clips": 2, "chunks": 2}
    ends = {}
    for precision in ("float32", "bfloat16"):
        options = {"network": {**sizes, "latent": latent}, "data": data, "precision": precision, "stages": STAGES}
        ends[precision] = train(Chain.model_validate(options), tmp_path)
    for whole, half in zip(ends["float32"], ends["bfloat16"], strict=True):
        assert whole.losses.keys() == half.losses.keys()
        for learner, losses in whole.losses.items():
            assert half.losses[learner] == pytest.approx(losses, rel=0.05)
            assert half.losses[learner] != losses


def test_fast_trainings_have_keys_of_their_own_and_others_keep_theirs() -> None:
    slow, fast = chain("dense"), chain("dense", "base.fast=true")
    assert slow.key(0) != fast.key(0)
    assert "fast" not in slow.model_dump()
    assert Chain.model_validate(slow.model_dump(mode="json")) == slow
    assert Chain.model_validate(fast.model_dump(mode="json")).key(0) == fast.key(0)
    assert load_recipe(RECIPES / "small_models.yaml")[1][0].options.key(0) == "6b189509298390050853485e"


def test_a_compiled_consistency_stage_with_latent_attention_has_a_version_of_its_own() -> None:
    def versions(attention: str, fast: bool) -> object:
        return Chain.model_validate(
            {"network": {"attention": attention}, "fast": fast, "stages": STAGES[1:2]}
        ).versions()

    assert versions("latent", fast=True) == {"stage_versions": {"consistency": 2}}
    assert versions("dense", fast=True) == versions("latent", fast=False) == versions("dense", fast=False) == {}


def test_the_marked_worlds_options_are_its_own() -> None:
    toy, marked = chain("dense"), chain("dense", recipe="marked")
    assert toy.data.model_dump().keys().isdisjoint({"kinds", "gap"})
    assert marked.config().text_width != toy.config().text_width
    assert Chain.model_validate(marked.model_dump(mode="json")).key(0) == marked.key(0)
    assert not list(marked.problems())
    foreign = marked.data.model_copy(update={"crosses": 0.2})
    assert [line for _, line in marked.model_copy(update={"data": foreign}).problems()] == [
        "the world 'marked' has no crosses: leave it out"
    ]
    foreign = toy.data.model_copy(update={"gap": 3})
    assert [line for _, line in toy.model_copy(update={"data": foreign}).problems()] == [
        "the world 'toy' has no gap: leave it out"
    ]


def test_muon_in_bfloat16_goes_where_it_goes_in_float32() -> None:
    start = torch.randn(8, 12, generator=torch.Generator().manual_seed(1))
    wide, narrow = (torch.nn.Parameter(start.clone()) for _ in range(2))
    for parameter, precision in ((wide, None), (narrow, torch.bfloat16)):
        parameter.grad = torch.randn(8, 12, generator=torch.Generator().manual_seed(2))
        Muon([parameter], lr=0.01, precision=precision).step()
    assert 0 < (wide - narrow).norm() < 0.05 * (wide - start).norm()
    assert orthogonalise(torch.randn(1, 4, 4)).dtype == torch.float32


def test_without_a_compiler_it_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(compiled.shutil, "which", lambda _: None)
    with pytest.raises(NotAvailable, match=r"needs a C\+\+ compiler"):
        train(chain("dense", "base.fast=true"), tmp_path)
