"""Where a self-attention layer's fresh keys meet the cached ones: the seam between layers and caches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from videomla_models.ops.rope import Rotation, rotate_own
from videomla_models.ops.step import step

Kernel = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(query, key, rest) -> output: [B, Lq, H, d], [B, Lk, ..., p], [B, Lk, ...] -> [B, Lq, H * d_v]; rotated already."""


class Context(Protocol):
    """What a forward pass attends to. The layer makes queries and entries; the context owns cache and positions."""

    def attend(self, layer: int, query: Tensor, key: Tensor, rest: Tensor, kernel: Kernel) -> Tensor:
        """Take in a layer's entries, and run `kernel` on everything these tokens may see.

        Args:
            layer: index of the transformer block.
            query: [B, L, H, d], unrotated; its last channels, as many as `key` has, are rotated.
            key: the positional part of the entries, unrotated: [B, L, H, p] for a head each, or [B, L, p] shared.
            rest: the position-free part: values [B, L, H, d_v], or content latents [B, L, d_c].
            kernel: the layer's attention.

        Returns:
            [B, L, H * d_v].
        """
        ...


@step("rope")
def rotate_tail(query: Tensor, rotation: Rotation) -> Tensor:
    """Rotate the last `2 * pairs` channels of [B, L, H, d], which the caller gives up, leaving the others."""
    width = 2 * rotation.cos.shape[-1]
    if width == query.shape[-1]:
        return rotate_own(query, rotation)
    turned = rotate_own(query[..., -width:], rotation)
    if torch.is_grad_enabled():
        query = query.clone()
        query[..., -width:] = turned
    return query
