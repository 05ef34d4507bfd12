"""Training sees what the streaming cache shows: the parallel pass against chunk-by-chunk passes, in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from videomla_models.network.build import random_embeddings, randomise
from videomla_models.network.cache import Grid, StreamCache
from videomla_models.network.transformer import VideoTransformer
from videomla_models.spec.config import LatentSizes, TransformerConfig
from videomla_models.spec.window import WindowPolicy
from videomla_models.training.parallel_pass import TeacherForcingContext
from videomla_models.training.teacher_forcing import flow_matching_loss, shifted

CPU = torch.device("cpu")
DENSE = TransformerConfig(dim=36, heads=3, layers=2, ffn=40, in_channels=4, text_width=6, text_tokens=5)
LATENT = replace(DENSE, attention="latent", latent=LatentSizes(d_c=10, d_q=14, d_nope=8, d_rope=6, pairs=(1, 1, 1)))
LINEAR = replace(DENSE, attention="linear")
POLICIES = {
    "one sink, relative": WindowPolicy(6, 1, rotation="read", positions="relative"),
    "no sink, absolute": WindowPolicy(5, 0),
    "all, absolute": WindowPolicy(21, 0),
    "two sinks, read, absolute": WindowPolicy(7, 2, rotation="read"),
}


CASES = {
    **{f"{kind}, {name}": (config, policy) for name, policy in POLICIES.items() for kind, config in
       (("dense", DENSE), ("latent", LATENT))},
    # A state remembers all chunks, whatever the window.
    "linear, absolute": (LINEAR, WindowPolicy(3)),
    "linear, six frames": (LINEAR, WindowPolicy(6, 1, rotation="read")),
}  # fmt: skip


@pytest.mark.parametrize(("config", "policy"), CASES.values(), ids=CASES.keys())
def test_the_parallel_pass_is_the_streaming_one(config: TransformerConfig, policy: WindowPolicy) -> None:
    chunk, chunks, batch = 3, 5, 2
    network = VideoTransformer(config).requires_grad_(False)
    randomise(network)
    network = network.double()
    generator = torch.Generator().manual_seed(0)
    clean, noisy = torch.randn(2, batch, chunk * chunks, 4, 6, 2, generator=generator).double().unbind(0)
    levels = 1000 * torch.rand(batch, chunks, generator=generator).double().repeat_interleave(chunk, 1)
    prompt = network.prompt(random_embeddings(5, 6)(("a", "b")).double())
    grid, table = Grid(3, 1), network.rotary_table()

    context = TeacherForcingContext(policy, chunk, chunks, grid, table, CPU)
    past = clean[:, :-chunk]
    times = torch.cat([torch.zeros(past.shape[:2]).double(), levels], 1)
    parallel = network(torch.cat([past, noisy], 1), times, prompt, context)[:, past.shape[1] :]

    cache = StreamCache(config.layers, policy, policy.capacity(chunk), grid, table)
    for first in range(0, chunk * chunks, chunk):
        part = slice(first, first + chunk)
        passes = cache.chunk(first, chunk, CPU)
        streamed = network(noisy[:, part], levels[:, part], prompt, passes)
        assert (streamed - parallel[:, part]).abs().max() < 1e-10
        passes.clean = True
        network(clean[:, part], torch.zeros(batch, chunk), prompt, passes)


def test_loss_by_hand() -> None:
    """A network that predicts zero: the error is the clean latent over the noise level, floored at 0.1."""
    network = VideoTransformer(DENSE)
    with torch.no_grad():
        network.head.head.weight.zero_()
        network.head.head.bias.zero_()
    policy = POLICIES["one sink, relative"]
    context = TeacherForcingContext(policy, 3, 2, Grid(3, 1), network.rotary_table(), CPU)
    latents = torch.full((1, 6, 4, 6, 2), 2.0)
    loss = flow_matching_loss(
        network,
        context,
        latents,
        network.prompt(torch.zeros(1, 5, 6)),
        sigmas=torch.tensor([[0.5, 0.01]]),
        noise=torch.zeros_like(latents),
        weight=torch.tensor(3.0),
        context_noise=torch.zeros(1, 3, 4, 6, 2),
    )
    assert loss.item() == pytest.approx(3 * ((2 / 0.5) ** 2 + (2 / 0.1) ** 2) / 2)


def test_shift_moves_levels_towards_noise() -> None:
    assert shifted(torch.tensor([0.0, 0.5, 1.0]), 4.0).tolist() == pytest.approx([0.0, 0.8, 1.0])
