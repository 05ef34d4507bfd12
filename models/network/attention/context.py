"""Where a self-attention layer's fresh keys meet the cached ones: the seam between layers and caches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from videomla_models.ops.rope import Rotation, rotate_own
from videomla_models.ops.step import step

AttendWindow = Callable[[Tensor, Tensor, Any], Tensor]
"""A layer's attention: (query, positional, content) of a window, rotated already, to its output.

[B, Lq, H, d], [B, Lk, ..., p], [B, Lk, ...] to [B, Lq, H * d_v]. Latents may be `EncodedLatents` for a layer whose form
reads codes.
"""


class Context(Protocol):
    """What a forward pass attends to. The layer makes queries and entries; the context owns cache and positions."""

    def attend(
        self, layer: int, query: Tensor, positional: Tensor, content: Tensor, attend_window: AttendWindow
    ) -> Tensor:
        """Take in a layer's entries, and run `attend_window` on everything that these tokens may see.

        Args:
            layer: index of the transformer block.
            query: [B, L, H, d], unrotated; its last channels, as many as `positional` has, are rotated.
            positional: part of the entries that is rotated: keys [B, L, H, p], or one for all heads [B, L, p].
            content: part that is not: values [B, L, H, d_v], or latents [B, L, d_c].
            attend_window: the layer's attention.

        Returns:
            [B, L, H * d_v].
        """
        ...


class FilledContext(Context, Protocol):
    """A context that needs no queries for taking in entries."""

    def fill(self, layer: int, positional: Tensor, content: Tensor) -> None:
        """Take in a layer's entries, as `attend` does, and attend to nothing."""
        ...


class PassContext(Context, Protocol):
    """The context of all passes over one chunk, of which the last is over finished latents (`clean`)."""

    clean: bool


@step("rope")
def rotate_tail(query: Tensor, rotation: Rotation) -> Tensor:
    """Rotate the last `2 * pairs` channels of [B, L, H, d], which the caller gives up, leaving the others."""
    width = 2 * rotation.cos.shape[-1]
    if width == query.shape[-1]:
        return rotate_own(query, rotation)
    tail = query[..., -width:]
    rotated = rotate_own(tail, rotation)
    return query if rotated is tail else torch.cat([query[..., :-width], rotated], -1)
