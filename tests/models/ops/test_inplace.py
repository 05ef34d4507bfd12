"""Results in their input's place: only where no gradient is asked for, and the same numbers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from videomla_models.network.attention.dense import RMSNorm
from videomla_models.network.transformer import InplaceGELU
from videomla_models.ops.inplace import reuse


def test_a_result_takes_its_inputs_place_where_no_gradient_is_asked_for() -> None:
    x, y = torch.ones(3), torch.ones(3)
    assert reuse(x, y) is None
    with torch.no_grad():
        assert reuse(x, y) is x
        assert reuse(x, y.bfloat16()) is None
    with torch.inference_mode():
        assert reuse(x) is x


@pytest.mark.parametrize(
    ("dtype", "apart"), [(torch.float64, 1e-12), (torch.float32, 3e-6), (torch.bfloat16, 0.05)], ids=str
)
@pytest.mark.parametrize("shape", [(1, 1, 5), (2, 65, 7), (3, 500, 200), (1, 2, 200_000)], ids=str)
def test_gelu_is_the_tanh_formula(shape: tuple[int, ...], dtype: torch.dtype, apart: float) -> None:
    x = 6 * torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    expected = F.gelu(x.double(), approximate="tanh")
    assert (InplaceGELU()(x).double() - expected).abs().max() < apart
    with torch.inference_mode():
        given = x.clone()
        made = InplaceGELU()(given)
    assert made.data_ptr() == given.data_ptr()
    assert made.dtype == dtype
    assert (made.double() - expected).abs().max() < apart


def test_gelu_at_its_ends() -> None:
    with torch.inference_mode():
        made = InplaceGELU()(torch.tensor([[-1e30, -60.0, 0.0, 60.0, 1e30, float("nan")]]))
    assert made[0, :5].tolist() == [0.0, 0.0, 0.0, 60.0, torch.tensor(1e30).item()]
    assert made[0, 5].isnan()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_a_norm_gives_gradients_and_keeps_its_input_for_them(dtype: torch.dtype) -> None:
    norm = RMSNorm(6, 1e-6).to(dtype)
    x = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(0), dtype=dtype)
    kept = x.clone()
    plain = norm(x)
    plain.sum().backward()
    assert torch.equal(x, kept)
    assert norm.weight.grad is not None
    with torch.inference_mode():
        assert torch.equal(norm(x.clone()), plain)
