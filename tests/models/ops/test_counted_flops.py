"""What the counting pass counts of attention that is padded or runs in a kernel: by hand, and as torch counts it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from harness.contracts import counted_as
from harness.probes.timing.flops import FlopCounter
from videomla_models.ops import sdpa, torch_forms


def draw(*size: int, device: str = "cpu") -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(0)).to(device)


def counted_by_torch(q: Tensor, k: Tensor, v: Tensor) -> int:
    """Of the products themselves, at the widths that keys and values have."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        torch.nn.functional.scaled_dot_product_attention(q, k, v)
    return counter.get_total_flops()


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(("batch", "queries", "keys", "heads"), [(1, 1, 1, 1), (2, 7, 11, 3)])
def test_absorbed_attention_counts_values_at_their_own_width(
    device: str, batch: int, queries: int, keys: int, heads: int
) -> None:
    query, c, r = draw(batch, queries, heads, 26), draw(batch, keys, 20), draw(batch, keys, 6)
    with FlopCounter() as counter:
        out = torch_forms.absorbed(*(tensor.to(device) for tensor in (query, c, r)), 0.3)
    assert out.shape == (batch, queries, heads, 20)
    assert counter.total() == 2 * batch * queries * keys * heads * (26 + 20)
    one_key = torch.cat([c, r], -1)[:, None].expand(-1, heads, -1, -1)
    assert counter.total() == counted_by_torch(query.transpose(1, 2), one_key, one_key[..., :20])


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(("key_width", "value_width"), [(24, 17), (17, 24), (16, 16)])
def test_dense_attention_counts_no_padding(device: str, key_width: int, value_width: int) -> None:
    q, k, v = draw(2, 3, 5, key_width), draw(2, 3, 7, key_width), draw(2, 3, 7, value_width)
    with FlopCounter() as counter:
        out = sdpa.attend(*(tensor.to(device) for tensor in (q, k, v)), 0.3)
    assert out.shape == (2, 3, 5, value_width)
    assert counter.total() == 2 * 2 * 3 * 5 * 7 * (key_width + value_width) == counted_by_torch(q, k, v)


def test_padded_attention_is_the_same_function_as_on_shapes() -> None:
    q, k, v = draw(2, 3, 5, 24), draw(2, 3, 7, 24), draw(2, 3, 7, 17)
    exact = (q.double() @ k.double().transpose(2, 3) * 0.3).softmax(-1) @ v.double()
    torch.testing.assert_close(sdpa.attend(q, k, v, 0.3).double(), exact, rtol=1e-5, atol=1e-5)


def test_what_is_said_stands_for_what_is_seen_inside_once() -> None:
    a = draw(3, 4)
    with FlopCounter() as counter:
        a @ a.T  # 2 x 3 x 4 x 3
        with counted_as("outer", 1000):
            a @ a.T
            with counted_as("inner", 5):
                a @ a.T
    assert counter.by_operator() == {"aten.mm": 72, "outer": 1000}
    with counter:
        pass
    assert counter.total() == 0


def test_a_kernel_that_does_not_run_counts_nothing() -> None:
    a = draw(3, 4)
    with FlopCounter() as counter:
        with pytest.raises(ValueError, match="no kernel"), counted_as("kernel", 1000):
            raise ValueError("no kernel")
        a @ a.T
    assert counter.total() == 72
    with counted_as("outside", 1000):
        pass
    assert counter.total() == 72
