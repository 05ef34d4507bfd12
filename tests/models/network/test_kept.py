"""What becomes of frames that leave: averages and rolling sinks, by numbers that can be followed by hand."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import Tensor

from videomla_models.network.cache import Grid, StreamCache
from videomla_models.ops import reference
from videomla_models.ops.rope import RotaryTable
from videomla_models.spec.window import WindowPolicy

CPU = torch.device("cpu")
GRID = Grid(2, 2)
TABLE = RotaryTable(12)
MEMORY = WindowPolicy(12, 3, average_rates=(0.5, 0.25), rotation="read", positions="relative")


def windows(policy: WindowPolicy, chunks: int, shared: bool = False) -> list[tuple[Tensor, Tensor]]:
    """Keys and contents that each chunk of three sees in its first pass, oldest first; content is 1 + frame number."""
    cache = StreamCache(1, policy, policy.capacity(3), GRID, TABLE, spare=policy.spare(3))
    seen: list[tuple[Tensor, Tensor]] = []

    def attend_window(query: Tensor, keys: Tensor, contents: Tensor) -> Tensor:
        order = torch.tensor(sorted(range(len(context.positions)), key=context.positions.__getitem__))
        parts = (t.unflatten(1, (-1, GRID.tokens))[:, order].clone() for t in (keys, contents))
        seen.append((next(parts), next(parts)))
        return query.flatten(2)

    for first in range(0, 3 * chunks, 3):
        context = cache.chunk(first, 3, CPU)
        frames = torch.arange(first + 1.0, first + 4.0).repeat_interleave(GRID.tokens)
        content = frames.view(1, -1, 1, 1).expand(1, -1, 1, 12).clone()
        keys = raw(first, shared)
        # A later pass writes over the entries of the first; what it sees is not noted.
        context.attend(0, torch.zeros(1, 12, 1, 12), keys, content if not shared else content[:, :, 0], attend_window)
        cache.finish(first, 3)
    return seen


def raw(first: int, shared: bool) -> Tensor:
    drawn = torch.randn(1, 12, 1, 12, generator=torch.Generator().manual_seed(first))
    return drawn[:, :, 0] if shared else drawn


def frames(policy: WindowPolicy, chunks: int) -> list[list[float]]:
    """Contents of each window, a number a frame, less the 1."""
    return [[float(c) - 1 for c in contents[0, :, 0].flatten(1)[:, 0]] for _, contents in windows(policy, chunks)]


def test_running_averages_take_in_what_leaves_each_at_its_rate() -> None:
    seen = frames(MEMORY, 6)
    assert seen[3] == list(range(12))
    # Frames 3 and 4 give their slots to the averages, which start as the mean of 5, 6 and 7.
    assert seen[4] == [0, 1, 2, 6, 6, 8, 9, 10, 11, 12, 13, 14]
    assert seen[5] == [0, 1, 2, 6 + 0.5 * 3, 6 + 0.25 * 3, 11, 12, 13, 14, 15, 16, 17]


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("over", ["tokens", "frames"])
def test_an_average_is_of_unrotated_keys_and_stands_where_it_is_read(
    over: Literal["tokens", "frames"], shared: bool
) -> None:
    policy = WindowPolicy(12, 3, average_rates=(0.5,), average_over=over, rotation="read", positions="relative")
    keys, _ = windows(policy, 5, shared)[4]
    gone = torch.cat([raw(3, shared)[:, 4:], raw(6, shared)[:, :4]], 1).unflatten(1, (3, 4)).double()
    mean = gone.mean((1, 2)).unsqueeze(1).expand(gone[:, 0].shape) if over == "tokens" else gone.mean(1)
    angles = TABLE.angles([3], GRID.height, GRID.width)
    expected = reference.rotate(mean, angles)
    assert (keys[:, 3].double() - expected).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("kind", "copied"),
    [("ping_pong", [[5, 4, 3], [2, 1, 0], [0, 1, 2]]), ("rolling", [[0, 1, 2], [3, 4, 5], [0, 1, 2]])],
)
def test_first_frames_come_back_before_the_last_chunk(
    kind: Literal["ping_pong", "rolling"], copied: list[list[float]]
) -> None:
    seen = frames(WindowPolicy(9, sink_kind=kind, rotation="read"), 7)
    assert seen[3] == list(range(3, 12))
    assert seen[4] == [*copied[0], 9, 10, 11, 12, 13, 14]
    assert seen[5] == [*copied[1], 12, 13, 14, 15, 16, 17]
    assert seen[6] == [*copied[2], 15, 16, 17, 18, 19, 20]
