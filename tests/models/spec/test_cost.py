"""Costs against the published totals, the module itself, and arithmetic by hand."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from videomla_models.network.cache import Grid, StreamCache
from videomla_models.network.transformer import VideoTransformer
from videomla_models.ops.choice import Form, Name
from videomla_models.ops.latent import Attention
from videomla_models.spec import cost
from videomla_models.spec.config import LatentSizes, SamplerConfig, TransformerConfig
from videomla_models.spec.published_models import PUBLISHED
from videomla_models.spec.window import WindowPolicy


@pytest.mark.parametrize(("attention", "total"), [("dense", 1_418_996_800), ("latent", 1_303_042_240)])
def test_full_size_totals(attention: str, total: int) -> None:
    assert cost.parameters(TransformerConfig(attention=attention)) == total


@pytest.mark.parametrize("attention", ["dense", "latent", "linear"])
def test_parameters_are_the_modules(attention: str) -> None:
    sizes = LatentSizes(d_c=10, d_q=14, d_nope=6, d_rope=4, pairs=(1, 1, 0))
    config = TransformerConfig(
        dim=36, heads=3, layers=2, ffn=50, text_width=7, in_channels=5, attention=attention, latent=sizes
    )
    with torch.device("meta"):
        network = VideoTransformer(config)
    assert cost.parameters(config) == sum(p.numel() for p in network.parameters())


def test_cached_scalars() -> None:
    assert TransformerConfig().cached_scalars == 3072
    assert TransformerConfig(attention="latent").cached_scalars == 224


def test_attention_flops_of_a_full_size_layer() -> None:
    # Three frames of queries against seven: 314 GF dense, 510 GF absorbed, 11.3 GF to rebuild keys and values.
    queries, keys = 3 * 1560, 7 * 1560
    dense = cost.flops_per_forward(TransformerConfig(layers=1), queries, keys)
    latent = TransformerConfig(layers=1, attention="latent")
    assert dense["attention"] == 4 * queries * keys * 1536
    assert cost.flops_per_forward(latent, queries, keys)["attention"] == dense["attention"]
    absorbed = cost.flops_per_forward(latent, queries, keys, "absorbed")["attention"]
    assert absorbed == 2 * queries * keys * 12 * (2 * 192 + 32)
    assert cost.flops_per_forward(latent, queries, keys)["rebuild"] == 2 * keys * 192 * (1152 + 1536)


def test_counted_flops_are_the_formulas() -> None:
    config = TransformerConfig(dim=48, heads=2, layers=2, ffn=64, text_width=16, text_tokens=8)
    network = VideoTransformer(config).requires_grad_(False)
    cache = StreamCache(2, WindowPolicy(6, 1), 6, Grid(2, 3), network.rotary_table())
    prompt = network.prompt(torch.randn(1, 8, 16))
    for first in (0, 3):
        context = cache.chunk(first, 3, torch.device("cpu"))
        latents = torch.randn(1, 3, 16, 4, 6)
        # The fused kernel of the CPU is not counted; the plain one does the same products.
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            network(latents, torch.full((1, 3), 500.0), prompt, context)
        expected = cost.flops_per_forward(config, 18, 6 * (first + 3))
        # The timestep layers run once per frame of the chunk; the formula counts one.
        per_frame = 2 * 2 * (256 * 48 + 7 * 48 * 48)
        assert counter.get_total_flops() == sum(expected.values()) + per_frame


def test_cache_bytes_of_the_presets() -> None:
    sampler = SamplerConfig()
    for name, expected in (("dense-21-1.3b", 6_038_323_200), ("videomla-1.3b", 125_798_400)):
        preset = PUBLISHED[name]
        config = preset.network
        work = cost.workload(config, preset.window, preset.chunk, sampler, 60, 104)
        assert work.tokens == 1560
        assert cost.cache_bytes(config, work, 2, guided=False) == expected
        assert cost.cache_bytes(config, work, 2, guided=True) == 2 * expected


@pytest.mark.parametrize(("form", "total"), [("absorbed", 822_453_436_416), ("expanded", 644_581_687_296)])
def test_a_full_size_layer_counts_nothing_that_is_padded(form: Name, total: int) -> None:
    """4,680 queries on a window of 9,360 keys, by torch's own counter on shapes alone."""
    config = TransformerConfig(attention="latent", layers=1)
    policy = WindowPolicy(6, 1, rotation="read", positions="relative")
    with torch.device("meta"):
        network = VideoTransformer(config).requires_grad_(False)
    network.use_form(Attention(Form(form)))
    cache = StreamCache(1, policy, 6, Grid(30, 52), network.rotary_table())
    prompt = network.prompt(torch.empty(1, 512, 4096, device="meta"))
    for first in (0, 3):
        context = cache.chunk(first, 3, torch.device("meta"))
        with FlopCounterMode(display=False) as counter:
            network(torch.empty(1, 3, 16, 60, 104, device="meta"), torch.empty(1, 3, device="meta"), prompt, context)
    assert sum(cost.flops_per_forward(config, 4680, 9360, form).values()) == total
    # The timestep layers run once per frame of the chunk; the formula counts one.
    assert counter.get_total_flops() == total + 2 * 2 * (256 * 1536 + 7 * 1536 * 1536)
