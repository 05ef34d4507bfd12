"""The schedule against the numbers that the public code prints, and conversions by hand."""

from __future__ import annotations

import pytest
import torch

from harness.errors import OptionError
from videomla_models.rollout.sampler import Schedule, guided
from videomla_models.spec.config import SamplerConfig, evenly_spaced


def test_self_forcing_steps() -> None:
    schedule = Schedule(SamplerConfig())
    assert schedule.timesteps == pytest.approx([1000, 937.5, 833.3333, 625])
    assert schedule.sigmas == pytest.approx([1, 0.9375, 0.8333333, 0.625])


def test_causvid_steps_are_not_warped() -> None:
    schedule = Schedule(SamplerConfig(steps=(1000, 757, 522), shift=8.0, warp=False))
    assert schedule.timesteps == [1000, 757, 522]
    assert schedule.sigmas == pytest.approx([1, 0.756757, 0.521739], abs=1e-6)


def test_clean_latent_from_flow() -> None:
    schedule = Schedule(SamplerConfig())
    clean, noise = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)).double().unbind(0)
    noisy = schedule.noisy(clean, noise, 0.8)
    assert torch.allclose(noisy, 0.2 * clean + 0.8 * noise)
    assert torch.allclose(schedule.clean(noisy, noise - clean, 0.8), clean)


def test_a_network_that_predicts_the_clean_latent() -> None:
    schedule = Schedule(SamplerConfig(prediction="clean"))
    output = torch.ones(2)
    assert torch.equal(schedule.clean(torch.zeros(2), output, 0.5), output)


@pytest.mark.parametrize("prediction", ["clean", "flow"])
def test_products_in_bfloat16_leave_the_latents_dtype(prediction: str) -> None:
    schedule = Schedule(SamplerConfig(prediction=prediction))
    clean = schedule.clean(torch.zeros(2), torch.ones(2, dtype=torch.bfloat16), 0.5)
    assert schedule.noisy(clean, torch.zeros(2), 0.25).dtype == torch.float32


def test_guidance() -> None:
    with_prompt, without = torch.tensor([3.0]), torch.tensor([1.0])
    assert guided(with_prompt, without, 1.0).item() == 3.0
    assert guided(with_prompt, without, 2.0).item() == 5.0


def test_even_steps() -> None:
    assert evenly_spaced(4) == (1000, 750, 500, 250)
    assert evenly_spaced(1) == (1000,)


@pytest.mark.parametrize(
    "config",
    [
        SamplerConfig(steps=()),
        SamplerConfig(steps=(250, 500)),
        SamplerConfig(steps=(1001,)),
        SamplerConfig(steps=(1000, 0)),
        SamplerConfig(prediction="noise"),
        SamplerConfig(shift=0),
    ],
)
def test_bad_samplers_name_the_option(config: SamplerConfig) -> None:
    with pytest.raises(OptionError, match="sampler"):
        Schedule(config)
