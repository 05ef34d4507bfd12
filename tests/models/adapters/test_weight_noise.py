"""Noise on the weights: an arm that is worse on purpose."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from harness.contracts import Json, Request, VideoModel, registry
from harness.errors import OptionError
from videomla_models.network.build import disturb
from videomla_models.network.transformer import VideoTransformer

REQUEST = Request(("a red circle moves slowly to the left on a navy background",), (0,), 6)


def loaded(**options: Json) -> VideoModel:
    model = registry.models.create("toy/videomla", {"weights": "random", "steps": 1, **options})
    model.load("cpu")
    return model


def weights(model: VideoModel) -> dict[str, Tensor]:
    (network,) = model.networks()  # type: ignore[attr-defined]
    assert isinstance(network, VideoTransformer)
    return dict(network.named_parameters())


def test_every_weight_is_off_by_a_share_of_itself() -> None:
    exact, off = weights(loaded()), weights(loaded(weight_noise=0.1))
    ratios = torch.cat([(off[name] / weight)[weight != 0] for name, weight in exact.items()])
    assert ratios.mean().item() == pytest.approx(1.0, abs=1e-3)
    assert ratios.std().item() == pytest.approx(0.1, rel=1e-2)
    assert all((off[name] == 0).logical_or(weight != 0).all() for name, weight in exact.items())
    assert all(not torch.equal(off[name], weight) for name, weight in exact.items() if weight.any())


def test_equal_seeds_give_equal_noise() -> None:
    def pixels(**options: Json) -> np.ndarray:
        return np.concatenate(list(loaded(**options).stream(REQUEST)), 1)

    first = pixels(weight_noise=0.1)
    assert np.array_equal(first, pixels(weight_noise=0.1))
    assert not np.array_equal(first, pixels(weight_noise=0.1, noise_seed=1))
    assert not np.array_equal(first, pixels())


def test_the_noise_of_half_precision_is_that_of_float32() -> None:
    model = loaded(dtype="bfloat16")
    (network,) = model.networks()  # type: ignore[attr-defined]
    exact = {name: weight.clone() for name, weight in network.named_parameters()}
    disturb(network, 0.1)
    off = weights(loaded(weight_noise=0.1, dtype="bfloat16"))
    full = weights(loaded(weight_noise=0.1))
    name = "patch_embedding.weight"
    assert torch.equal(network.patch_embedding.weight, off[name])
    assert off[name].dtype == torch.bfloat16
    assert torch.allclose(off[name].float(), full[name], rtol=0.02)
    assert not torch.equal(off[name], exact[name])


def test_the_card_and_the_key_say_so_and_no_noise_says_nothing() -> None:
    exact, off = (registry.models.create("toy/dense", options) for options in ({}, {"weight_noise": 0.1}))
    assert off.describe().details["weight_noise"] == 0.1
    assert "weight_noise" not in exact.describe().details
    assert off.options.model_dump()["weight_noise"] == 0.1
    assert not {"weight_noise", "noise_seed"} & exact.options.model_dump().keys()


@pytest.mark.parametrize("noise", [-0.1, float("nan"), float("inf"), 11])
def test_noise_that_is_no_share_is_refused(noise: float) -> None:
    with pytest.raises(OptionError, match="weight_noise"):
        registry.models.create("toy/dense", {"weight_noise": noise})
