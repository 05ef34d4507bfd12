"""Make elementwise calls cheap: in the memory of an input where no gradients are recorded, with constants kept."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor


def reuse(x: Tensor, *others: Tensor) -> Tensor | None:
    """`x` as the `out=` of an elementwise call on `x` and `others`, or None while gradients are recorded.

    None asks for a new tensor. So does a result whose dtype is not that of `x`, and a compiler, which reuses memory by
    itself. The caller must not use `x` afterwards.
    Fresh memory costs the processor more time than the arithmetic of such a call.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or any(other.dtype != x.dtype for other in others):
        return None
    return x


def constant(value: float, like: Tensor) -> Tensor:
    """A tensor without axes of the dtype of `like`, on the host, from where any device takes it with the launch.

    PyTorch makes four calls of a Python number, and small networks are slow by their number of calls.
    """
    return like.new_full((), value) if torch.compiler.is_compiling() else _constant(value, like.dtype)


@cache
def _constant(value: float, dtype: torch.dtype) -> Tensor:
    # Kept from call to call, so it must serve passes with gradients as well.
    with torch.inference_mode(False):
        return torch.tensor(value, dtype=dtype, device="cpu")
