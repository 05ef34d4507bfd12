"""Reuse the memory of an input for the result of an elementwise call, where no gradients are recorded."""

from __future__ import annotations

import torch
from torch import Tensor


def reuse(x: Tensor, *others: Tensor) -> Tensor | None:
    """`x` as the `out=` of an elementwise call on `x` and `others`, or None while gradients are recorded.

    None asks for a new tensor. So does a result whose dtype is not that of `x`. The caller must not use `x` afterwards.
    Fresh memory costs the processor more time than the arithmetic of such a call.
    """
    if torch.is_grad_enabled() or any(other.dtype != x.dtype for other in others):
        return None
    return x
