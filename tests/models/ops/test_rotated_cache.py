"""Keys in a cache: height and width rotated when written, time once per chunk, and never a stale one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from videomla_models.network.cache import Grid, StreamCache
from videomla_models.ops.latent import rotate_first
from videomla_models.ops.reference import rotate
from videomla_models.ops.rope import RotaryTable, Rotation
from videomla_models.spec.window import WindowPolicy

CPU = torch.device("cpu")
GRID = Grid(2, 3)
PAIRS = (3, 2, 3)


def angles(frames: list[int], table: RotaryTable) -> Tensor:
    """Float64 [tokens, pairs], one token after the other."""
    time, row, column = table.axes
    return torch.stack(
        [torch.cat([time[f], row[y], column[x]]) for f in frames for y in range(GRID.height) for x in range(GRID.width)]
    )


@pytest.mark.parametrize("positions", ["relative", "absolute"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_every_pass_sees_keys_rotated_for_their_place(positions: str, dtype: torch.dtype) -> None:
    table = RotaryTable(96, PAIRS)
    policy = WindowPolicy(5, 1, rotation="read", positions=positions)  # type: ignore[arg-type]
    cache = StreamCache(2, policy, policy.capacity(2), GRID, table)
    g = torch.Generator().manual_seed(0)
    plain: dict[int, Tensor] = {}
    for first in range(0, 12, 2):
        context = cache.chunk(first, 2, CPU)
        for _ in range(3):
            for layer in (0, 1):
                key = torch.randn(2, 2 * GRID.tokens, 16, generator=g, dtype=torch.float64).to(dtype)
                rest = torch.randn(2, 2 * GRID.tokens, 5, generator=g, dtype=torch.float64).to(dtype)
                seen: list[Tensor] = []
                query = torch.zeros(2, 2 * GRID.tokens, 1, 16, dtype=dtype)
                context.attend(layer, query, key, rest, lambda q, k, r, seen=seen: seen.append(k.clone()) or q)  # type: ignore[misc]
                plain |= {2 * (first + i) + layer: part for i, part in enumerate(key.chunk(2, 1))}
                slots = cache.ring.slots
                places = cache.ring.positions(policy.positions)
                expected = rotate(torch.cat([plain[2 * f + layer] for f in slots], 1), angles(places, table))
                assert (seen[0] - expected).abs().max() < (1e-6 if dtype == torch.float64 else 1e-5)


@pytest.mark.parametrize("pairs", [0, 3, 8])
def test_the_first_pairs_are_rotated_and_the_others_copied(pairs: int) -> None:
    keys = torch.randn(2, 7, 16, dtype=torch.float64)
    turn = torch.rand(7, pairs, dtype=torch.float64) * 6
    out = torch.full_like(keys, float("nan"))
    rotate_first(keys, Rotation.of(turn), out)
    exact = rotate(keys[..., : 2 * pairs], turn) if pairs else keys[..., :0]
    assert (out - torch.cat([exact, keys[..., 2 * pairs :]], -1)).abs().max() < 1e-6


def test_pairs_left_out_stay_as_they_are() -> None:
    keys = torch.randn(1, 7, 16)
    turn = Rotation.of(torch.rand(7, 8, dtype=torch.float64) * 6)
    out = torch.empty_like(keys)
    rotate_first(keys, turn.only(2, 5), out)
    assert torch.equal(out[..., :4], keys[..., :4])
    assert torch.equal(out[..., 10:], keys[..., 10:])
    assert not torch.equal(out[..., 4:10], keys[..., 4:10])


def test_a_pass_on_a_cpu_opens_no_file_and_leaves_triton_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(Path, "read_text", None)
    monkeypatch.setitem(sys.modules, "triton", None)
    keys, turn = torch.randn(2, 7, 32), torch.rand(7, 3, dtype=torch.float64)
    out = torch.full_like(keys, float("nan"))
    rotate_first(keys, Rotation.of(turn), out)
    assert (out[..., :6] - rotate(keys[..., :6], turn)).abs().max() < 1e-5
