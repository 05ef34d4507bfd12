"""The first frames after a prompt switch, kept beside the window until the next one (Anchor Forcing)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from videomla_models.spec.window import WindowPolicy


@dataclass
class Anchor:
    """Frames that stand before the ring once they have left it, the first of them last in memory.

    Attributes:
        policy: how many. tokens: of a frame. marked: the first frame after the latest switch; None before any.
        frames: those that stand there, by order of leaving.
    """

    policy: WindowPolicy
    tokens: int
    marked: int | None = None
    frames: list[int] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Frames that it holds at most."""
        return self.policy.anchor if self.policy.switch == "anchor" else 0

    @property
    def rows(self) -> int:
        """Rows of a layer's tensors before those of the ring."""
        return self.size * self.tokens

    @property
    def first_row(self) -> int:
        """The first row that holds a frame."""
        return (self.size - len(self.frames)) * self.tokens

    def positions(self, kind: Literal["absolute", "relative"]) -> list[int]:
        """Of its frames in order of rows; relative ones stand before the window."""
        ordered = sorted(self.frames)
        at = {frame: frame if kind == "absolute" else rank for rank, frame in enumerate(ordered)}
        return [at[frame] for frame in reversed(self.frames)]

    def leave(self, layers: Sequence[tuple[Tensor, Tensor]], slots: Sequence[int], frames: Sequence[int]) -> None:
        """Take over those of `frames`, which leave `slots` of the ring, that were marked."""
        for slot, frame in zip(slots, frames, strict=True):
            place = -1 if self.marked is None else frame - self.marked
            if not 0 <= place < self.size:
                continue
            self.frames[place : place + 1] = [frame]
            here, there = self.rows + slot * self.tokens, (self.size - 1 - place) * self.tokens
            for entries in layers:
                for part in entries:
                    part[:, there : there + self.tokens] = part[:, here : here + self.tokens]
