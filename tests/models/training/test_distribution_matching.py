"""Self-rollout against the sampler's own, its gradient against finite differences, and the loss by hand."""

from __future__ import annotations

from typing import Any

import pytest
import small_world
import torch

from videomla_models.network.transformer import VideoTransformer
from videomla_models.rollout.rollout import Rollout, SeededNoise
from videomla_models.training.distribution_matching import CRITIC, DistributionMatching, score_levels
from videomla_models.training.loop import Learner, Loop, Rate
from videomla_models.training.optimisers import adamw
from videomla_models.training.options import MatchingOptions

SHAPE = torch.Size((2, 6, 48, 8, 8))


def options_of(**options: Any) -> MatchingOptions:
    return MatchingOptions(stage="distribution_matching", steps=30, **options)


def stage(generator: VideoTransformer, critic: VideoTransformer, teacher: VideoTransformer) -> DistributionMatching:
    learners = Learner(generator, adamw(generator, 1e-3), 0.9), Learner(critic, adamw(critic, 1e-2, (0.9, 0.99)))
    data, clips = small_world.data(2), small_world.clips()
    return DistributionMatching(
        *learners,
        teacher,
        data,
        clips,
        options_of(guidance=1.0, updates=2),
        0,
    )


def test_a_self_rollout_is_the_samplers_rollout() -> None:
    network = small_world.network(silent=False)
    made = stage(network, network, network)
    text = made.data.batch(0).text
    rollout = Rollout(network, made.clips.policy, 2, made.sampler, made.clips.grid)
    noise = SeededNoise([3, 4], (48, 8, 8), torch.device("cpu"), torch.float32)
    with torch.no_grad():
        prompt = network.prompt(text)
    expected = torch.cat(list(rollout.run(noise, prompt, 6)), dim=1)
    for learning in (False, True):
        own = made.rollout(text, [3, 4], last=3, shape=SHAPE, learning=learning)
        assert own.requires_grad is learning
        assert (own - expected).abs().max() < 1e-5


def test_the_gradient_is_that_of_the_last_step_given_the_cache() -> None:
    """Against a difference quotient in float64, along a direction in a weight that the cached past does not use.

    The output layer writes no cache entries within a chunk; past chunks are held as they were made.
    """
    network = small_world.network(silent=False).double()
    made = stage(network, network, network)
    text = made.data.batch(0).text.double()
    weight = network.head.head.weight
    direction = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)).double()
    first = torch.Size((2, 2, 48, 8, 8))

    def energy() -> torch.Tensor:
        return made.rollout(text, [3, 4], last=0, shape=first, learning=True).square().sum()

    (gradient,) = torch.autograd.grad(energy(), weight)
    step, values = 1e-5, []
    for sign in (1, -1):
        with torch.no_grad():
            weight += sign * step * direction
        values.append(energy().item())
        with torch.no_grad():
            weight -= sign * step * direction
    quotient = (values[0] - values[1]) / (2 * step)
    assert abs(float((gradient * direction).sum()) - quotient) < 1e-5 * abs(quotient)


def test_gradients_reach_the_generator_from_every_chunk_and_no_earlier_step() -> None:
    network = small_world.network(silent=False)
    made = stage(network, network, network)
    clip = made.rollout(made.data.batch(0).text, [3, 4], last=2, shape=SHAPE, learning=True)
    for chunk in range(3):
        total = clip[:, 2 * chunk : 2 * chunk + 2].sum()
        (gradient,) = torch.autograd.grad(total, network.head.head.weight, retain_graph=True)
        assert gradient.abs().max() > 0


def test_noise_levels_are_shifted_and_then_clamped() -> None:
    """At shift 5 a uniform .5 is 5/6; .001 and .999 would be .005 and .9998, and stand at the ends."""
    uniform = torch.tensor([[0.001, 0.5, 0.999]])
    assert torch.allclose(score_levels(uniform, 5.0, 3), torch.tensor([[0.02, 5 / 6, 0.98]]))
    assert torch.allclose(score_levels(uniform[:, 1:2], 5.0, 2), torch.tensor([[5 / 6, 5 / 6]]))


@pytest.mark.parametrize("per_clip", [False, True])
def test_a_clip_is_scored_at_one_level_where_asked(per_clip: bool) -> None:
    network = small_world.network()
    learners = Learner(network, adamw(network, 1e-3), 0.9), Learner(network, adamw(network, 1e-3))
    options = MatchingOptions(
        stage="distribution_matching", steps=30, guidance=1.0, levels_per="clip" if per_clip else "chunk"
    )
    made = DistributionMatching(*learners, network, small_world.data(2), small_world.clips(), options, 0)
    seen: list[torch.Tensor] = []

    def noting(latents: torch.Tensor, text: torch.Tensor, sigmas: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        seen.append(sigmas)
        return latents.sum()

    made._match = made._follow = noting  # type: ignore[method-assign]
    assert len(list(made.losses(0))) == len(seen) == 2
    for sigmas in seen:
        assert sigmas.shape == (2, 3)
        assert torch.equal(sigmas, sigmas[:, :1].expand(2, 3)) is per_clip


def test_the_loss_by_hand() -> None:
    """Critic and teacher predict 1 and 3: each value has the gradient (1 - 3) / mean |clip - 3| / their number."""
    teacher, critic = small_world.network(), small_world.network()
    with torch.no_grad():
        teacher.head.head.bias.fill_(3.0)
        critic.head.head.bias.fill_(1.0)
    made = stage(small_world.network(), critic, teacher)
    clip = torch.full(SHAPE, 0.5, requires_grad=True)
    text = made.data.batch(0).text
    loss = made._match(clip, text, torch.full((2, 3), 0.5), torch.zeros(SHAPE))
    (gradient,) = torch.autograd.grad(loss, clip)
    assert torch.allclose(gradient, torch.full(SHAPE, (1 - 3) / 2.5 / clip.numel()))


def test_the_generator_nears_the_teacher_and_the_critic_follows_it() -> None:
    """The teacher predicts -0.5 everywhere; generator and critic start at 0."""
    teacher, generator, critic = (small_world.network() for _ in range(3))
    with torch.no_grad():
        teacher.head.head.bias.fill_(-0.5)
    learners = (
        Learner(generator, adamw(generator, 4e-3, (0.0, 0.99))),
        Learner(critic, adamw(critic, 1e-2, (0.5, 0.99))),
    )
    options = options_of(guidance=1.0, updates=2)
    made = DistributionMatching(*learners, teacher, small_world.data(1, 2), small_world.clips(2), options, 0)
    loop = Loop(made, Rate(30), {})
    losses = [loop.advance()[CRITIC] for _ in range(30)]
    text, short = made.data.batch(0).text, torch.Size((1, 4, 48, 8, 8))
    clip = made.rollout(text, [3], last=3, shape=short, learning=False)
    assert -0.8 < float(clip.mean()) < -0.2
    assert losses[-1] < max(losses)
