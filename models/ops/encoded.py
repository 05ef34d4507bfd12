"""A window of content latents as it is stored: what attention that reads codes takes in place of one tensor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.errors import OptionError
from videomla_models.ops import checks


@dataclass(frozen=True, slots=True)
class Segment:
    """Rows of a window that are stored alike.

    Attributes:
        latents: [B, S, d_c] of the queries' dtype; int8 of that shape; or uint8 [B, S, d_c / 2], two channels a byte,
            the even one lowest, each plus 8.
        keys: rotated positional keys [B, S, d_rope].
        scales: float16 [B, S / tokens, d_c / group]; None for exact latents.
        tokens, group: rows and channels that share a scale.
    """

    latents: Tensor
    keys: Tensor
    scales: Tensor | None = None
    tokens: int = 1
    group: int = 1

    @property
    def bits(self) -> int:
        """0 for exact latents."""
        return 0 if self.scales is None else 4 if self.latents.dtype == torch.uint8 else 8

    def check(self, batch: int, d_c: int, d_rope: int, like: Tensor) -> None:
        """Raise `OptionError` for what the kernels do not take."""
        rows = self.latents.shape[1] if self.latents.dim() == 3 else 0
        checks.shape("latents", self.latents, (batch, rows, d_c // 2 if self.bits == 4 else d_c))
        checks.shape("keys", self.keys, (batch, rows, d_rope))
        checks.slots(latents=self.latents, keys=self.keys)
        checks.alike(query=like, keys=self.keys)
        if rows < 1 or rows * d_c > checks.LARGEST_OFFSET:
            raise OptionError(f"a segment of {rows} rows is not from 1 to {checks.LARGEST_OFFSET // d_c}")
        if self.scales is None:
            checks.alike(query=like, latents=self.latents)
            return
        if self.latents.dtype not in (torch.int8, torch.uint8) or self.scales.dtype != torch.float16:
            raise OptionError(f"codes are {self.latents.dtype}, scales {self.scales.dtype}", "give int8 or uint8")
        if rows % self.tokens or d_c % self.group:
            raise OptionError(f"groups of {self.tokens} x {self.group} do not divide {rows} rows of {d_c} channels")
        checks.shape("scales", self.scales, (batch, rows // self.tokens, d_c // self.group))
        checks.slots(scales=self.scales)


@dataclass(frozen=True, slots=True)
class EncodedLatents:
    """Content latents of a window, slot by slot, some of them encoded.

    Attributes:
        rows: of the window. width: channels of a latent.
        pieces: where each segment's rows stand in the window, and the segment itself given their keys.
        decoded: all rows as numbers, in the order of the window: [B, rows, width].
    """

    rows: int
    width: int
    pieces: tuple[tuple[slice, Callable[[Tensor], Segment]], ...]
    decoded: Callable[[], Tensor]

    def segments(self, keys: Tensor) -> list[Segment]:
        """With rotated keys [B, rows, d_rope], of which each segment takes its own."""
        return [make(keys[:, rows]) for rows, make in self.pieces]


def numbers(latents: Tensor | EncodedLatents) -> Tensor:
    """[B, rows, width], decoded where they are encoded."""
    return latents if isinstance(latents, Tensor) else latents.decoded()
