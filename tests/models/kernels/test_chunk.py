"""Whole chunks for the kernels probe: what they cost by hand, that they are checked, and that a wrong one is seen."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from models.config import LatentSizes, TransformerConfig
from models.kernels import chunk, forms
from models.kernels.bench import LatentAttentionBench
from models.kernels.chunk import Chunk, Setting

LATENT = LatentSizes(d_c=16, d_q=24, d_nope=16, d_rope=8, pairs=(2, 1, 1))
CONFIG = TransformerConfig(dim=48, heads=2, layers=2, ffn=64, text_width=16, text_tokens=8, latent=LATENT)


def setting(dtype: str = "float32") -> Setting:
    def choose(name: str, shape: object) -> forms.Form:
        return forms.Form(name, "torch")  # type: ignore[arg-type]

    return Setting(CONFIG, dtype, "cpu", choose, grid=(6, 8))  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_form_agrees_with_float64_and_makes_chunk_after_chunk(dtype: str) -> None:
    found = list(setting(dtype).cases(0))
    assert [case.form for _, case in found] == ["chunk:dense", "chunk:expanded", "chunk:absorbed"]
    for shape, case in found:
        # 3 rows of 4 tokens a latent frame; chunks of 3 frames, 7 in the window.
        assert (shape.queries, shape.keys) == (36, 84)
        error = case.check()
        assert 0 < error.relative <= case.limit
        assert error.worst_row <= case.limit_row
        first, second = case.call(), case.call()
        assert isinstance(first, torch.Tensor)
        assert isinstance(second, torch.Tensor)
        assert first.shape == second.shape == (1, 3, 16, 6, 8)
        # Same noise, another past.
        assert not torch.equal(first, second)


def test_all_passes_are_counted() -> None:
    shape, dense = next(setting().cases(0))
    q, k, dim, layers, ffn, text = shape.queries, shape.keys, 48, 2, 64, 8
    block = 8 * q * dim**2 + 4 * q * k * dim + 4 * q * dim**2 + 4 * q * text * dim + 4 * q * dim * ffn
    rest = 4 * q * dim * 64 + 2 * (256 * dim + 7 * dim**2)
    assert dense.flops == 5 * (layers * block + rest)
    assert dense.detail["passes"] == 5


@pytest.mark.parametrize("form", ["expanded", "absorbed"])
def test_a_wrong_form_is_seen(form: str) -> None:
    made = Chunk(setting(), form, 0)
    network = made._built()
    attention = network.blocks[0].self_attn
    attention.v_up.weight.data[0].mul_(1.01)
    assert made.check().relative <= chunk.LIMITS["float32"]
    # The absorbed maps were made before, so that they no longer belong to the weights.
    if form == "absorbed":
        attention.v_up.weight.data.mul_(1.5)
    else:
        attention.sizes = replace(LATENT, d_nope=8)
        attention.runner.expanded = lambda q, c, r, k, v: type(attention.runner).expanded(
            attention.runner, 1.5 * q, c, r, k, v
        )
    assert made.check().relative > chunk.LIMITS["float32"]


def test_the_family_offers_the_full_size_chunk_without_building_it() -> None:
    found = list(LatentAttentionBench("bfloat16", {}, "cpu").chunks(0))
    for shape, case in found:
        assert (shape.batch, shape.queries, shape.keys) == (1, 4680, 10920)
        # 1.42 and 1.30 billion weights of two bytes, read in each of five passes.
        assert case.bytes == 10 * (1_418_996_800 if case.form == "chunk:dense" else 1_303_042_240)
    dense, expanded, absorbed = (case.flops for _, case in found)
    # 30 layers, 5 passes: 314 GFLOP of dense attention, 510 absorbed, 11.3 to rebuild (facts of the sizes alone).
    assert dense > 150 * 314e9
    assert absorbed - expanded > 150 * 150e9
