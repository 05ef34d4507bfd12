"""A constant state against attention over every token of all chunks, in float64."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from videomla_models.network.attention.linear import LinearAttention
from videomla_models.network.cache import Grid, StreamCache
from videomla_models.ops import reference
from videomla_models.ops.rope import RotaryTable
from videomla_models.spec.window import WindowPolicy


def test_a_state_is_the_sum_over_all_that_came_before() -> None:
    torch.manual_seed(0)
    layer = LinearAttention(24, 2, 1e-6).double().requires_grad_(False)
    grid, table = Grid(1, 2), RotaryTable(12)
    cache = StreamCache(1, WindowPolicy(3), 3, grid, table)
    chunks = [torch.randn(1, 6, 24, dtype=torch.float64) for _ in range(4)]
    for index, x in enumerate(chunks):
        context = cache.chunk(3 * index, 3, torch.device("cpu"))
        # A noisy pass leaves no trace in the state.
        layer(torch.randn_like(x), 0, context)
        context.clean = True
        out = layer(x, 0, context)
        cache.finish(3 * index, 3)
        assert cache.bytes() == 8 * (2 * 12 * 12 + 2 * 12)
    seen = torch.cat(chunks, 1)
    query, key = (
        F.elu(norm(project(t)).view(1, -1, 2, 12)) + 1
        for norm, project, t in ((layer.norm_q, layer.q, chunks[-1].clone()), (layer.norm_k, layer.k, seen.clone()))
    )
    turned_query = reference.rotate(query, table.angles(range(9, 12), 1, 2))
    turned_key = reference.rotate(key, table.angles(range(12), 1, 2))
    weights = torch.einsum("bqhd,bkhd->bhqk", turned_query, turned_key)
    below = torch.einsum("bqhd,bkhd->bhq", query, key)
    mixed = torch.einsum("bhqk,bkhe->bqhe", weights / below.unsqueeze(-1), layer.v(seen).view(1, -1, 2, 12))
    assert (layer.o(mixed.flatten(2)) - out).abs().max() < 1e-7
