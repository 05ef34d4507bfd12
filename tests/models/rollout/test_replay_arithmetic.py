"""Float32 in a fixed order: the sums by hand, and the same function as the usual arithmetic."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from videomla_models.network.attention.dense import RMSNorm
from videomla_models.rollout.replay_arithmetic import (
    RecordedNorm,
    RecordedOrder,
    exact_attention,
    fused,
    lanes,
    linear,
    prompt_attention,
)

TINY = 2.0**-24
"""Half of what separates 1 from the next float32, so that adding it to 1 is lost."""


def row(*numbers: float) -> torch.Tensor:
    return torch.tensor([numbers])


def test_a_fused_step_rounds_once_and_a_lane_twice() -> None:
    # (1 + 2^-12)^2 = 1 + 2^-11 + 2^-24: the last part is lost when the product is rounded, unless 1 is taken off first.
    x = row(1.0, 1 + 2**-12)
    weight = row(-1.0, 1 + 2**-12)
    assert float(fused(x, weight)) == 2**-11 + 2**-24
    assert float(lanes(row(1.0, 0, 0, 0, 1 + 2**-12), row(-1.0, 0, 0, 0, 1 + 2**-12))) == 2**-11


def test_lanes_add_every_fourth_product_first() -> None:
    ones = torch.ones(1, 8)
    # In order of the index both halves of the last place are lost; in lane 1 they meet before they are added to 1.
    x = row(1.0, TINY, 0, 0, 0, TINY, 0, 0)
    assert float(fused(x, ones)) == 1.0
    assert float(lanes(x, ones)) == 1 + 2 * TINY


def test_a_bias_comes_before_the_second_block_of_products() -> None:
    x = torch.zeros(8, 256)
    x[:, 0], x[:, 200] = TINY, TINY
    ones = torch.ones(1, 256)
    assert float(linear(x, ones, torch.ones(1))[0]) == 1.0
    assert float(linear(x, ones)[0]) == 2 * TINY


@pytest.mark.parametrize("rows", [1, 3, 4, 6, 7, 8, 18])
def test_few_rows_are_summed_in_lanes(rows: int) -> None:
    x = row(1.0, TINY, 0, 0, 0, TINY).expand(rows, 6)
    out = linear(x, torch.ones(2, 6))
    in_lanes = rows % 4 if rows < 8 else 0
    assert int((out[:, 0] > 1).sum()) == in_lanes
    assert torch.equal(out[:, 0], out[:, 1])


def test_the_functions_are_the_usual_ones() -> None:
    g = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(s, generator=g) for s in ((2, 5, 300), (7, 300), (7,)))
    torch.testing.assert_close(linear(x, weight, bias), F.linear(x, weight, bias), rtol=1e-5, atol=2e-5)
    q, k, v = (torch.randn(2, 3, n, 16, generator=g) for n in (5, 9, 9))
    expected = F.scaled_dot_product_attention(q, k, v, scale=0.3)
    for attention in (prompt_attention, exact_attention):
        torch.testing.assert_close(attention(q, k, v, 0.3), expected, rtol=1e-5, atol=1e-6)
    norm = RMSNorm(16, 1e-6)
    torch.nn.init.normal_(norm.weight, generator=g)
    torch.testing.assert_close(RecordedNorm(norm)(q), norm(q), rtol=1e-5, atol=1e-6)


def test_the_order_lasts_as_long_as_its_context() -> None:
    x, ones = row(1.0, TINY, 0, 0, 0, TINY).expand(3, 6), torch.ones(1, 6)
    network = torch.nn.Sequential(torch.nn.Linear(4, 4), RMSNorm(4, 1e-6))
    order = RecordedOrder()
    order.prepare(network)
    assert isinstance(network[1], RecordedNorm)
    usual = F.linear(x, ones)
    with order:
        inside = F.linear(x, ones)
        # One rounding: the product alone would lose its last part.
        flow = torch.sub(row(1.0), row(1 + 2**-12), alpha=1 + 2**-12)
    assert float(inside[0]) == 1 + 2 * TINY
    assert float(flow) == -(2**-11) - 2**-24
    assert torch.equal(F.linear(x, ones), usual)
