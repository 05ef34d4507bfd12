"""Tensors that nothing else holds: where no gradient is asked for, a result takes the place of its input."""

from __future__ import annotations

import torch
from torch import Tensor


def reuse(x: Tensor, *others: Tensor) -> Tensor | None:
    """`x`, as the `out` of an elementwise function of `x` and `others`; None, for a new tensor, where gradients flow.

    Memory that is new to the processor costs such a function more time than its arithmetic. The caller gives `x` up.
    A result of another dtype than that of `x` gets a new tensor too.
    """
    if torch.is_grad_enabled() or any(other.dtype != x.dtype for other in others):
        return None
    return x
