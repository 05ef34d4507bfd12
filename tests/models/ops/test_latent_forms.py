"""Both forms in plain PyTorch against the float64 reference, and what happens where a kernel cannot run."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Literal

import pytest
import torch
from torch import Tensor

from harness.errors import NotAvailable, OptionError
from videomla_models.ops import sdpa
from videomla_models.ops.choice import FORMS, Form, choose
from videomla_models.ops.latent import Attention
from videomla_models.ops.reference import attention, latent_attention
from videomla_models.spec.config import LatentSizes

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


class NoBackward(Attention):
    """Kernels that say when they are launched; what they make has no gradient, and is overwritten by the next layer."""

    def _expand(self, *given: Tensor) -> tuple[Tensor, Tensor]:
        raise AssertionError("launched")

    def _absorb(self, query: Tensor, c: Tensor, r: Tensor, scale: float) -> Tensor:
        raise AssertionError("launched")


@pytest.mark.parametrize(
    ("name", "learning"),
    # The absorbed form maps its sums by the last input after the kernel.
    [*(("expanded", place) for place in range(6)), *(("absorbed", place) for place in range(5))],
)
def test_no_kernel_runs_where_any_of_its_inputs_learns(name: Literal["expanded", "absorbed"], learning: int) -> None:
    given = arguments(2, 7, 9)
    given[learning].requires_grad_()
    attention = NoBackward(Form(name, engine="triton"))
    (wanted,) = torch.autograd.grad(latent_attention(*given).square().sum(), given[learning])
    (found,) = torch.autograd.grad(attention.attend(*given).square().sum(), given[learning])
    assert torch.allclose(found, wanted, atol=1e-9)
    with torch.no_grad(), pytest.raises(AssertionError, match="launched"):
        attention.attend(*given)


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


def small() -> dict[str, Tensor]:
    shapes = {"q_nope": (2, 5, 3, 13), "q_rope": (2, 5, 3, 6), "c": (2, 9, 11), "r": (2, 9, 6), "k_up": (3, 13, 11),
              "v_up": (3, 21, 11)}  # fmt: skip
    return {name: torch.zeros(shape) for name, shape in shapes.items()}


@pytest.mark.parametrize("form", TORCH_FORMS, ids=lambda f: f.name)
@pytest.mark.parametrize(
    ("name", "change", "words"),
    [("c", Tensor.double, "c is torch.float64 but q_nope is torch.float32"),
     ("q_rope", Tensor.half, "q_rope is torch.float16 but"), ("v_up", Tensor.double, "v_up is torch.float64 but"),
     ("r", lambda t: t.to("meta"), "r is on meta but q_nope is on cpu"),
     ("k_up", lambda t: t.to("meta"), "k_up is on meta but q_nope is on cpu"),
     ("c", lambda t: t[:, :0], "the window holds no slot"), ("c", lambda t: t[0], "c and r must be"),
     ("c", lambda t: t[:1], r"c has shape \[1, 9, 11\], not \[2, 9, 11\]"),
     ("r", lambda t: t[:, :8], r"r has shape \[2, 8, 6\], not \[2, 9, 6\]"),
     ("r", lambda t: t[..., :4], r"q_rope has shape \[2, 5, 3, 6\], not \[2, 5, 3, 4\]"),
     ("q_nope", lambda t: t[..., :12], r"q_nope has shape \[2, 5, 3, 12\], not \[2, 5, 3, 13\]"),
     ("q_rope", lambda t: t[:, :4], r"q_rope has shape \[2, 4, 3, 6\], not"),
     ("q_rope", lambda t: t[0], "q_nope and q_rope must be"), ("v_up", lambda t: t[0], "v_up must be"),
     ("v_up", lambda t: t[:2], r"v_up has shape \[2, 21, 11\], not \[3, 21, 11\]"),
     ("k_up", lambda t: t[..., :10], r"k_up has shape \[3, 13, 10\], not \[3, 13, 11\]")],
)  # fmt: skip
def test_bad_input_is_refused_in_every_form(
    form: Form, name: str, change: Callable[[Tensor], Tensor], words: str
) -> None:
    given = small()
    Attention(form).attend(**given)
    given[name] = change(given[name])
    with pytest.raises(OptionError, match=words):
        Attention(form).attend(**given)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [("c", Tensor.double, "c is torch.float64 but query is torch.float32"),
     ("query", lambda t: t[..., :5], "query has shape"), ("query", lambda t: t[0], "query must be")],
)  # fmt: skip
def test_bad_input_is_refused_where_layers_call(name: str, change: Callable[[Tensor], Tensor], words: str) -> None:
    given = small()
    own = {"c": given["c"], "r": given["r"]}
    expanded = own | {"query": torch.zeros(2, 5, 3, 19), "k_up": given["k_up"], "v_up": given["v_up"]}
    absorbed = own | {"query": torch.zeros(2, 5, 3, 17)}
    Attention(Form("expanded")).expanded(**expanded)
    Attention(Form("absorbed")).absorbed(**absorbed, scale=0.2)
    with pytest.raises(OptionError, match=words):
        Attention(Form("expanded")).expanded(**expanded | {name: change(expanded[name])})
    with pytest.raises(OptionError, match=words):
        Attention(Form("absorbed")).absorbed(**absorbed | {name: change(absorbed[name])}, scale=0.2)


def test_under_autocast_dtypes_may_differ() -> None:
    given = small()
    given["q_nope"] = given["q_nope"].bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        assert Attention(Form("expanded")).attend(**given).shape == (2, 5, 3, 21)


def test_backends() -> None:
    q, k, v = (torch.randn(1, 2, 5, 8, dtype=torch.float64) for _ in range(3))
    exact = attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2)
    for backend in ("auto", "flash", "math"):
        assert (sdpa.attend(q, k, v, 8**-0.5, backend) - exact).abs().max() < 1e-12
    with pytest.raises(NotAvailable, match="attention backend cudnn does not run here"):
        sdpa.attend(q, k, v, 8**-0.5, "cudnn")
    with pytest.raises(OptionError, match="unknown attention backend 'fast'"):
        sdpa.attend(q, k, v, 8**-0.5, "fast")


def test_a_refused_backend_is_left_with_a_line_but_never_where_it_is_insisted_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A CPU has no cuDNN attention."""
    monkeypatch.setattr(sdpa, "preferred_backend", lambda device, dtype: "cudnn")
    monkeypatch.setattr(sdpa, "_said", set())
    q, k, v = (torch.randn(1, 2, 5, 8, dtype=torch.float64) for _ in range(3))
    with caplog.at_level(logging.WARNING):
        out = sdpa.attend_with_preferred(q, k, v, 8**-0.5)
    assert torch.equal(out, sdpa.attend(q, k, v, 8**-0.5))
    assert "leaves the backend to PyTorch" in caplog.text
    with pytest.raises(NotAvailable, match="would leave the backend to PyTorch: attention backend cudnn"):
        sdpa.attend_with_preferred(q, k, v, 8**-0.5, strict=True)
