"""What tensors of a checkpoint are refused for, and how they are shown when they are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from harness.errors import WeightsError

SHOWN = 10


DIVERGED = "the file is damaged or training diverged; take another"


def check_finite(source: str, name: str, tensor: Tensor, fix: str = DIVERGED) -> None:
    """Raise `WeightsError` naming the tensor, and what mends it, when it holds NaN or Inf."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return
    low, high = torch.aminmax(tensor)
    if not (torch.isfinite(low) and torch.isfinite(high)):
        raise WeightsError(f"{source}: {name} holds NaN or Inf", fix)


def listed(names: Iterable[str]) -> str:
    """The first of `names`, and how many more there are."""
    names = list(names)
    more = f", … {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def shown(shape: Sequence[int]) -> str:
    """A shape as in 4x8; `none` for that of no tensor."""
    return "x".join(map(str, shape)) or "none"
