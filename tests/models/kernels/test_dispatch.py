"""Both forms in plain PyTorch against the float64 reference, and what happens where a kernel cannot run."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor

from harness.errors import NotAvailable, OptionError
from models.attention.reference import attention, latent_attention
from models.config import LatentSizes
from models.kernels import dense
from models.kernels.dispatch import Attention
from models.kernels.forms import FORMS, Form, choose

TORCH_FORMS = [Form(name) for name in FORMS]


def arguments(batch: int, lq: int, lk: int, dtype: torch.dtype = torch.float64, d_v: int = 21) -> list[Tensor]:
    g = torch.Generator().manual_seed(lq + lk)
    shapes = [(batch, lq, 3, 13), (batch, lq, 3, 6), (batch, lk, 11), (batch, lk, 6), (3, 13, 11), (3, d_v, 11)]
    return [torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype) for shape in shapes]


@pytest.mark.parametrize("form", TORCH_FORMS, ids=lambda f: f.name)
@pytest.mark.parametrize(("batch", "lq", "lk"), [(1, 1, 1), (1, 63, 1000), (2, 7, 33), (3, 1, 129), (2, 65, 1)])
@pytest.mark.parametrize("d_v", [19, 16, 21])
def test_forms_agree_in_float64(form: Form, batch: int, lq: int, lk: int, d_v: int) -> None:
    given = arguments(batch, lq, lk, d_v=d_v)
    assert (Attention(form).attend(*given) - latent_attention(*given)).abs().max() < 1e-10


@pytest.mark.parametrize("form", TORCH_FORMS, ids=lambda f: f.name)
def test_gradients_are_those_of_the_reference(form: Form) -> None:
    given = [t.requires_grad_() for t in arguments(2, 7, 9)]
    wanted = torch.autograd.grad(latent_attention(*given).square().sum(), given)
    got = torch.autograd.grad(Attention(form).attend(*given).square().sum(), given)
    for a, b in zip(got, wanted, strict=True):
        assert torch.allclose(a, b, atol=1e-9)


@pytest.mark.parametrize("name", ["expanded", "absorbed"])
def test_float32_and_bfloat16(name: str) -> None:
    form = Form(name)  # type: ignore[arg-type]
    for dtype, limit in ((torch.float32, 1e-5), (torch.bfloat16, 2e-2)):
        given = arguments(2, 17, 40, dtype)
        exact = latent_attention(*given)
        out = Attention(form).attend(*given)
        assert out.dtype == dtype
        assert (out.double() - exact).norm() < limit * exact.norm()


def test_no_score_matrix_is_allocated() -> None:
    """Peak of live tensors stays far below queries x keys, which would be 3 million scores here."""
    from torch.utils._python_dispatch import TorchDispatchMode

    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for t in out if isinstance(out, tuple | list) else (out,):
                if isinstance(t, Tensor):
                    largest = max(largest, t.numel())
            return out

    for d_v in (16, 19, 21):
        given = arguments(1, 500, 2000, torch.float32, d_v)
        for name in ("expanded", "absorbed"):
            with Watch():
                Attention(Form(name)).attend(*given)  # type: ignore[arg-type]
    assert largest <= 2000 * 3 * 32


def test_falling_back_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    form = choose("absorbed", "cuda", "bfloat16", 1, 64, 100, 3, LatentSizes(d_c=104), 128)
    with caplog.at_level(logging.WARNING, "videomla.attention"):
        Attention(form)
        Attention(form)
    assert [r.message for r in caplog.records] == [
        "latent attention (absorbed) runs in PyTorch: d_c=104 is not a multiple of 16 from 16 to 192"
    ]


@pytest.mark.parametrize("name", ["expanded", "absorbed"])
def test_a_kernel_that_cannot_run_falls_back_only_where_that_is_allowed(name: str) -> None:
    """Inputs on a CPU stand for any device without the kernel."""
    pytest.importorskip("triton")
    form = Form(name, "triton", backend="auto" if name == "expanded" else "")  # type: ignore[arg-type]
    g = torch.Generator().manual_seed(0)
    shapes = [(1, 5, 3, 16), (1, 5, 3, 16), (1, 9, 32), (1, 9, 16), (3, 16, 32), (3, 32, 32)]
    given = [torch.randn(*s, generator=g) for s in shapes]
    assert torch.allclose(Attention(form).attend(*given).double(), latent_attention(*given), atol=1e-4)
    with pytest.raises(NotAvailable, match="would fall back to PyTorch: Triton kernels do not run on cpu"):
        Attention(form, strict=True).attend(*given)


def test_strict_refuses_a_form_that_already_fell_back() -> None:
    with pytest.raises(NotAvailable, match="is no CUDA device"):
        Attention(choose("absorbed", "cpu", "float32", 1, 64, 100, 3, LatentSizes()), strict=True)


def test_backends() -> None:
    q, k, v = (torch.randn(1, 2, 5, 8, dtype=torch.float64) for _ in range(3))
    exact = attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2)
    for backend in ("auto", "flash", "math"):
        assert (dense.attend(q, k, v, 8**-0.5, backend) - exact).abs().max() < 1e-12
    with pytest.raises(NotAvailable, match="attention backend cudnn does not run here"):
        dense.attend(q, k, v, 8**-0.5, "cudnn")
    with pytest.raises(OptionError, match="unknown attention backend 'fast'"):
        dense.attend(q, k, v, 8**-0.5, "fast")
