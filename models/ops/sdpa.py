"""Scaled dot-product attention with the backend asked for by name, so that a record can say which one ran."""

from __future__ import annotations

import logging

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from harness.contracts import counted_as
from harness.errors import NotAvailable, OptionError
from videomla_models.ops.choice import preferred_backend
from videomla_models.ops.step import step
from videomla_models.spec.cost import attention_flops

_BACKENDS = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}

REFUSALS = ("No available kernel", "No viable backend")
"""How PyTorch says that the backend asked for takes none of it (on CUDA, elsewhere)."""

log = logging.getLogger("videomla.attention")
_said: set[str] = set()


def say_once(line: str) -> None:
    """Log `line` as a warning, the first time only."""
    if line not in _said:
        _said.add(line)
        log.warning(line)


@step("attention")
def attend_with_preferred(q: Tensor, k: Tensor, v: Tensor, scale: float, strict: bool = False) -> Tensor:
    """`attend` with the backend that every arm on this kind of device and dtype asks for, so that arms compare.

    Where that one does not run, PyTorch's own choice does, and a line says so; with `strict`, for measurements and
    records that name the backend, `NotAvailable` is raised instead.
    """
    backend = preferred_backend(q.device.type, str(q.dtype).removeprefix("torch."))
    try:
        return attend(q, k, v, scale, backend)
    except NotAvailable as error:
        if strict:
            raise NotAvailable(
                f"dense attention would leave the backend to PyTorch: {error.message}",
                "a record names the backend that ran; choose another dtype, whose backend may run here",
            ) from error
        say_once(f"dense attention leaves the backend to PyTorch: {error.message}")
        return attend(q, k, v, scale)


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float, backend: str = "auto") -> Tensor:
    """softmax(q k^T scale) v.

    Args:
        q: [B, H, Lq, d]. k: [B, H, S, d]. v: [B, H, S, d_v].
        backend: `auto` leaves the choice to PyTorch; any other runs that one or nothing.

    Returns:
        [B, H, Lq, d_v].

    Raises:
        NotAvailable: the backend does not take these shapes, dtype or device.
    """
    (batch, heads, queries, key_width), value_width = q.shape, v.shape[-1]
    if q.is_meta or key_width == value_width:
        return _fused(q, k, v, scale, backend)
    # Keys and values of unlike width leave the fused path, which would allocate queries x keys.
    with counted_as("dense_attention", attention_flops(batch, queries, k.shape[2], heads, key_width, value_width)):
        widest = max(key_width, value_width)
        padded = [F.pad(tensor, (0, widest - tensor.shape[-1])) for tensor in (q, k, v)]
        return _fused(padded[0], padded[1], padded[2], scale, backend)[..., :value_width]


def _fused(q: Tensor, k: Tensor, v: Tensor, scale: float, backend: str) -> Tensor:
    """`attend` at one width."""
    if q.is_cpu and torch.is_grad_enabled() and torch.is_autocast_enabled("cpu"):
        # On CPUs the backward pass of PyTorch's attention takes several times as long in bfloat16 as in float32.
        with torch.autocast("cpu", enabled=False):
            return F.scaled_dot_product_attention(q.float(), k.float(), v.float(), scale=scale)
    if backend == "auto":
        return F.scaled_dot_product_attention(q, k, v, scale=scale)
    if backend not in _BACKENDS:
        raise OptionError(f"unknown attention backend {backend!r}", "use auto, cudnn, flash, efficient or math")
    try:
        with sdpa_kernel([_BACKENDS[backend]]):
            return F.scaled_dot_product_attention(q, k, v, scale=scale)
    except RuntimeError as error:
        if not any(words in str(error) for words in REFUSALS):
            raise
        raise NotAvailable(
            f"attention backend {backend} does not run here: {list(q.shape)}, {q.dtype}, {q.device}",
            "choose another backend, or auto",
        ) from error
