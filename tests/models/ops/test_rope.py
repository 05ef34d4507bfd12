"""Rotary angles by Wan2.1's formula written out, and rotation against the float64 reference."""

from __future__ import annotations

import math

import pytest
import torch

from harness.errors import OptionError
from videomla_models.network.attention.context import rotate_tail
from videomla_models.ops import reference
from videomla_models.ops.rope import RotaryTable, axis_pairs, rotate

CPU = torch.device("cpu")


def test_wan_splits_a_head_of_128_into_22_21_21() -> None:
    assert axis_pairs(128) == (22, 21, 21)


def test_angles_by_hand() -> None:
    rotation = RotaryTable(128)([5], 3, 4, CPU)
    token = 2 * 4 + 3  # row 2, column 3
    cos = rotation.cos[token]
    assert cos[0].item() == pytest.approx(math.cos(5.0))
    assert cos[21].item() == pytest.approx(math.cos(5 * 10000 ** (-42 / 44)))
    assert cos[22].item() == pytest.approx(math.cos(2.0))
    assert cos[22 + 21 + 20].item() == pytest.approx(math.cos(3 * 10000 ** (-40 / 42)))


def test_kept_pairs_are_the_highest_frequencies_with_the_full_heads_exponents() -> None:
    full, kept = (RotaryTable(128, pairs)([7], 2, 2, CPU).cos for pairs in (None, (6, 5, 5)))
    bands = [*range(6), *range(22, 27), *range(43, 48)]
    assert torch.equal(kept, full[:, bands])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", [(2, 6, 3, 16), (1, 6, 16)])
def test_rotation_is_the_references(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    table = RotaryTable(16, theta=50.0)
    rotation = table([4], 2, 3, CPU)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    angles = torch.atan2(rotation.sin.double(), rotation.cos.double())
    tolerance = {torch.float32: 1e-6, torch.bfloat16: 2e-2, torch.float64: 1e-6}[dtype]
    assert rotate(x, rotation).dtype == dtype
    assert (rotate(x, rotation).double() - reference.rotate(x, angles)).abs().max() < tolerance


def test_scores_depend_on_the_distance_alone() -> None:
    table = RotaryTable(24)
    q, k = torch.randn(2, 1, 1, 24, generator=torch.Generator().manual_seed(0)).double().unbind(0)
    near, far = (
        (rotate(q[None], table([a], 1, 1, CPU)) * rotate(k[None], table([b], 1, 1, CPU))).sum().item()
        for a, b in ((9, 4), (105, 100))
    )
    assert near == pytest.approx(far, abs=1e-4)


def test_the_same_positions_are_made_once_and_few_are_held() -> None:
    table = RotaryTable(24)
    with torch.inference_mode():
        first = table([0, 4, 1], 2, 3, CPU)
    assert not first.cos.is_inference()
    assert table([0, 4, 1], 2, 3, CPU) is first
    fresh = RotaryTable(24)
    for frames, height, width in (([0, 1, 4], 2, 3), ([0, 4, 1], 3, 2), ([0, 4, 1], 2, 3)):
        assert torch.equal(table(frames, height, width, CPU).phase, fresh(frames, height, width, CPU).phase)
    for frame in range(table.capacity):
        table([frame], 2, 3, CPU)
    assert table([0, 4, 1], 2, 3, CPU) is not first


@pytest.mark.parametrize("frames", [[1024], [-1], [0, 5000]])
def test_positions_beyond_the_table_are_refused(frames: list[int]) -> None:
    with pytest.raises(OptionError, match="rope table of 1024"):
        RotaryTable(24)(frames, 1, 1, CPU)


@pytest.mark.parametrize("pairs", [(9, 1, 1), (4, 4, -2)])
def test_pairs_that_the_head_has_not_are_refused(pairs: tuple[int, int, int]) -> None:
    with pytest.raises(OptionError, match="are not among the head's"):
        RotaryTable(24, pairs)


@pytest.mark.parametrize("learning", [False, True])
@pytest.mark.parametrize("compiled", [False, True])
def test_the_tail_of_a_query_is_rotated_in_every_kind_of_pass(compiled: bool, learning: bool) -> None:
    rotation = RotaryTable(8, theta=50.0)([3], 2, 2, CPU)
    query = torch.randn(1, 4, 2, 12, generator=torch.Generator().manual_seed(0))
    right = torch.cat([query[..., :4], rotate(query[..., 4:].clone(), rotation)], -1)
    run = torch.compile(rotate_tail, backend="eager") if compiled else rotate_tail
    with torch.set_grad_enabled(learning):
        assert torch.allclose(run(query.clone(), rotation), right, atol=1e-6)
