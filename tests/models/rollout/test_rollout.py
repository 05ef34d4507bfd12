"""Rollouts: what a clip may and may not depend on, prompt switches, prefixes, and memory that is never read."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from harness.errors import OptionError
from videomla_models.network.build import random_embeddings, randomise
from videomla_models.network.cache import Grid
from videomla_models.network.transformer import VideoTransformer
from videomla_models.rollout.rolling import RollingRollout
from videomla_models.rollout.rollout import Prompt, PromptSwitch, Rollout, SeededNoise
from videomla_models.spec.config import LatentSizes, SamplerConfig, TransformerConfig
from videomla_models.spec.window import WindowPolicy

CPU = torch.device("cpu")
DENSE = TransformerConfig(dim=36, heads=3, layers=2, ffn=40, in_channels=4, text_width=6, text_tokens=5)
LATENT = replace(DENSE, attention="latent", latent=LatentSizes(d_c=10, d_q=14, d_nope=8, d_rope=6, pairs=(1, 1, 1)))
LINEAR = replace(DENSE, attention="linear")
GRID = Grid(3, 1)
TWO_STEPS = SamplerConfig(steps=(1000, 500))
AT_READ = WindowPolicy(6, 1, rotation="read", positions="relative")
POLICIES = {
    "absolute": WindowPolicy(6, 1),
    "relative": AT_READ,
    "wraps": WindowPolicy(7, 2),
    "average": WindowPolicy(9, 3, sink_kind="average", rotation="read", positions="relative"),
    "rebuild": WindowPolicy(6, 1, switch="rebuild"),
    "rebuild behind sink": WindowPolicy(6, 1, switch="rebuild", keep_sink_on_rebuild=True),
    "flush": replace(AT_READ, frames=9, switch="flush"),
}


def network(config: TransformerConfig) -> VideoTransformer:
    made = VideoTransformer(config).requires_grad_(False)
    randomise(made, seed=5)
    return made.double()


def prompt(net: VideoTransformer, *texts: str) -> Prompt:
    config = net.config
    return net.prompt(random_embeddings(config.text_tokens, config.text_width)(texts).double())


def roll(
    net: VideoTransformer,
    policy: WindowPolicy,
    seeds: tuple[int, ...] = (1,),
    frames: int = 15,
    sampler: SamplerConfig = TWO_STEPS,
    switches: tuple[tuple[int, str], ...] = (),
    **rest: Tensor,
) -> Tensor:
    texts = ("one",) * len(seeds) * (2 if sampler.guidance != 1 else 1)
    rollout = Rollout(net, policy, 3, sampler, GRID)
    noise = SeededNoise(seeds, (4, 6, 2), CPU, torch.float64)
    later = [PromptSwitch(frame, prompt(net, *[text] * len(texts))) for frame, text in switches]
    return torch.cat(list(rollout.run(noise, prompt(net, *texts), frames, later, **rest)), 1)


@pytest.mark.parametrize("config", [DENSE, LATENT, LINEAR], ids=["dense", "latent", "linear"])
def test_a_clip_does_not_depend_on_its_batch(config: TransformerConfig) -> None:
    net = network(config)
    both = roll(net, AT_READ, (1, 2))
    assert torch.allclose(both[:1], roll(net, AT_READ, (1,)), atol=1e-10)
    assert torch.allclose(both[1:], roll(net, AT_READ, (2,)), atol=1e-10)
    assert not torch.allclose(both[:1], both[1:], atol=1e-2)


@pytest.mark.parametrize(
    ("dtype", "apart"), [(torch.float64, 1e-10), (torch.float32, 1e-4), (torch.bfloat16, 0.3)], ids=str
)
@pytest.mark.parametrize("policy", [WindowPolicy(6, 1), AT_READ], ids=["at write", "at read"])
@pytest.mark.parametrize("config", [DENSE, LATENT, LINEAR], ids=["dense", "latent", "linear"])
def test_memory_used_twice_changes_nothing(
    config: TransformerConfig, policy: WindowPolicy, dtype: torch.dtype, apart: float
) -> None:
    """Where gradients may flow nothing is overwritten, so that rollout is the plain one."""
    net = network(config).to(dtype)
    text = [(key.to(dtype), value.to(dtype)) for key, value in prompt(network(config), "one")]

    def noise() -> SeededNoise:
        return SeededNoise((1,), (4, 6, 2), CPU, dtype)

    fast = torch.cat(list(Rollout(net, policy, 3, TWO_STEPS, GRID).run(noise(), text, 12)), 1)
    plain = torch.cat(list(Rollout(net, policy, 3, TWO_STEPS, GRID).chunks(noise(), text, 12)), 1)
    assert torch.isfinite(plain).all()
    assert (fast - plain).abs().max() < apart


def test_what_depends_on_the_timestep_alone_is_made_once_a_clip() -> None:
    net = network(DENSE)
    passes: list[int] = []
    embeddings: list[int] = []
    net.register_forward_hook(lambda *_: passes.append(1))
    net.time_embedding.register_forward_hook(lambda *_: embeddings.append(1))
    roll(net, AT_READ, frames=15)
    assert (len(passes), len(embeddings)) == (5 * 3, 3)
    net.time_embedding[0].weight.mul_(2)  # another clip sees other weights
    before = len(embeddings)
    roll(net, AT_READ, frames=3)
    assert len(embeddings) == before + 3


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES.keys())
def test_a_longer_clip_begins_as_a_shorter_one(policy: WindowPolicy) -> None:
    net = network(DENSE)
    assert torch.equal(roll(net, policy, frames=21)[:, :12], roll(net, policy, frames=12))


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES.keys())
def test_unwritten_slots_are_never_read(policy: WindowPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    net = network(LATENT if policy.rotation == "read" else DENSE)
    clean = roll(net, policy, switches=((9, "two"),))
    make = Tensor.new_empty

    def poisoned(self: Tensor, *size: int) -> Tensor:
        return make(self, *size).fill_(float("nan"))

    monkeypatch.setattr(Tensor, "new_empty", poisoned)
    assert torch.equal(roll(net, policy, switches=((9, "two"),)), clean)


def test_relative_and_absolute_positions_agree_until_frames_leave() -> None:
    net = network(DENSE)
    relative, absolute = roll(net, AT_READ), roll(net, POLICIES["absolute"])
    assert torch.allclose(relative[:, :6], absolute[:, :6], atol=1e-10)
    assert not torch.allclose(relative[:, 9:], absolute[:, 9:], atol=1e-4)


def test_rotation_at_read_and_at_write_agree_at_absolute_positions() -> None:
    net = network(DENSE)
    at_read = replace(POLICIES["absolute"], rotation="read")
    assert torch.allclose(roll(net, at_read), roll(net, POLICIES["absolute"]), atol=1e-6)


@pytest.mark.parametrize("name", ["absolute", "rebuild", "rebuild behind sink", "flush"])
def test_a_switch_changes_what_follows_and_nothing_before(name: str) -> None:
    net = network(DENSE)
    plain, switched = roll(net, POLICIES[name]), roll(net, POLICIES[name], switches=((7, "two"),))
    assert torch.equal(plain[:, :9], switched[:, :9])
    assert not torch.allclose(plain[:, 9:], switched[:, 9:], atol=1e-4)


def test_a_rebuild_forgets_the_old_prompt() -> None:
    # With the cache rebuilt, only the finished latents link the parts; keeping it, the old prompt's keys remain.
    net = network(DENSE)
    kept, rebuilt = (roll(net, POLICIES[n], switches=((9, "two"),))[:, 9:12] for n in ("absolute", "rebuild"))
    assert not torch.allclose(kept, rebuilt, atol=1e-6)


def test_a_prefix_is_what_the_clip_goes_on_from() -> None:
    net = network(DENSE)
    whole = roll(net, AT_READ, frames=9)
    noise = SeededNoise((1,), (4, 6, 2), CPU, torch.float64)
    for _ in range(2):  # the numbers that the first chunk used
        noise.renoise(3)
    rollout = Rollout(net, AT_READ, 3, SamplerConfig(steps=(1000, 500)), GRID)
    rest = torch.cat(list(rollout.run(noise, prompt(net, "one"), 6, prefix=whole[:, :3])), 1)
    assert torch.allclose(rest, whole[:, 3:], atol=1e-10)


def test_an_image_can_be_the_prefix() -> None:
    net = network(LATENT)
    image = torch.zeros(1, 1, 4, 6, 2, dtype=torch.float64)
    assert torch.isfinite(roll(net, AT_READ, frames=9, prefix=image)).all()


def test_guidance_of_one_is_no_guidance_and_more_changes_the_clip() -> None:
    net = network(DENSE)
    plain = roll(net, AT_READ)
    guided = roll(net, AT_READ, sampler=SamplerConfig(steps=(1000, 500), guidance=2.0))
    # Both halves follow the same text here, so guidance between them has nothing to amplify.
    assert torch.allclose(plain, guided, atol=1e-10)


def test_relative_positions_run_beyond_the_rope_table_and_absolute_ones_say_so() -> None:
    short = replace(DENSE, rope_positions=8)
    assert roll(network(short), AT_READ, frames=30).shape[1] == 30
    with pytest.raises(OptionError, match="rope table of 8"):
        roll(network(short), POLICIES["absolute"], frames=30)


@pytest.mark.parametrize("frames", [0, 4, -3])
def test_frames_that_are_not_whole_chunks(frames: int) -> None:
    with pytest.raises(OptionError, match="multiple of 3"):
        roll(network(DENSE), AT_READ, frames=frames)


def rolling(frames: int, policy: WindowPolicy, **rest: Tensor) -> Tensor:
    net = network(DENSE)
    rollout = RollingRollout(net, policy, 3, SamplerConfig(steps=(1000, 500)), GRID)
    noise = SeededNoise((1,), (4, 6, 2), CPU, torch.float64)
    return torch.cat(list(rollout.run(noise, prompt(net, "one"), frames, **rest)), 1)


def test_rolling_yields_every_frame_once() -> None:
    assert rolling(36, WindowPolicy(24, 3, schedule="rolling")).shape == (1, 36, 4, 6, 2)


def test_rolling_refuses_what_it_cannot_do() -> None:
    policy = WindowPolicy(24, 3, schedule="rolling")
    with pytest.raises(OptionError, match="at least 6"):
        rolling(3, policy)
    with pytest.raises(OptionError, match="prefix"):
        rolling(6, policy, prefix=torch.zeros(1, 3, 4, 6, 2))
    with pytest.raises(OptionError, match=r"window\.sink to 3"):
        rolling(6, replace(policy, sink=1))


def test_patches_must_divide_the_latents() -> None:
    net = network(DENSE)
    rollout = Rollout(net, AT_READ, 3, SamplerConfig(), Grid(2, 1))
    noise = SeededNoise((1,), (4, 5, 2), CPU, torch.float64)
    with pytest.raises(OptionError, match="multiple of 2"):
        next(rollout.run(noise, prompt(net, "one"), 3))
