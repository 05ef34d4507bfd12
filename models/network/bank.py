"""A bank of older frames beside the window: which are in it is decided on the device, for every clip alone.

It stands before the ring and fills from its end, so that the frames of both are one run of rows. Where it is chosen
anew for every chunk, the frames that it is chosen from stand behind the ring. Nothing here reads the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.errors import OptionError
from videomla_models.spec.ring import Ring
from videomla_models.spec.window import WindowPolicy

Entries = tuple[Tensor, Tensor]
"""A layer's keys and contents, [B, rows, ...]: the bank, the ring, what is behind it."""


@dataclass
class Bank:
    """Frames of the bank and when they come.

    Attributes:
        policy: its size, and what decides who is in it. tokens: of a frame. ring: the window beside it.
        filled: frames in it. chunks: finished so far. latest: first frame of the last of them; negative before.
        pool: frames behind the ring that it is chosen from, by place.
    """

    policy: WindowPolicy
    tokens: int
    ring: Ring
    filled: int = 0
    chunks: int = 0
    latest: int = -1
    pool: list[int] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """Rows of a layer's tensors before those of the ring."""
        return self.policy.bank * self.tokens

    @property
    def first_row(self) -> int:
        """The first row that holds a frame."""
        return (self.policy.bank - self.filled) * self.tokens

    def positions(self, kind: Literal["absolute", "relative"]) -> list[int]:
        """Of its frames in order of rows: they stand before the window."""
        return list(range(self.filled))

    def finish(self, first: int) -> None:
        """Note that a chunk from frame `first` on is finished."""
        self.chunks, self.latest = self.chunks + 1, first

    def due(self, first: int) -> bool:
        """Whether frames may come before the chunk from frame `first` on, which a rebuild's does not."""
        return self.policy.bank > 0 and 0 <= self.latest < first

    def take(self, layers: Sequence[Entries], slot: int, prompt: Sequence[Tensor] | None) -> None:
        """Take in the first frame of the latest chunk, once the next one has its place in the ring.

        Args:
            layers: every layer's entries, still without that chunk. slot: where the frame stands.
            prompt: every layer's keys of the prompt, [B, text tokens, H, d].
        """
        row = self.rows + slot * self.tokens
        fresh = [[part[:, row : row + self.tokens] for part in entries] for entries in layers]
        text = [None] * len(layers) if prompt is None else prompt
        if self.policy.bank_pool:
            self._retrieve(layers, fresh, text)
            return
        added = (self.chunks - 1) // self.policy.bank_every + 1
        self.filled = min(added, self.policy.bank)
        for entries, frames, keys in zip(layers, fresh, text, strict=True):
            if added <= self.policy.bank:
                for part, frame in zip(entries, frames, strict=True):
                    part[:, self.first_row : self.first_row + self.tokens] = frame
                continue
            inside = [self._frames(part, 0, self.policy.bank) for part in entries]
            scores = self._scores(inside[0], frames[0], keys)
            gone = (torch.arange(scores.shape[0], device=scores.device), scores.argmin(1))
            for part, frame in zip(inside, frames, strict=True):
                part[gone] = frame

    def _retrieve(
        self, layers: Sequence[Entries], fresh: Sequence[Sequence[Tensor]], text: Sequence[Tensor | None]
    ) -> None:
        """Remember a frame when it is due, and choose the bank among those that have left the window."""
        size, first = self.policy.bank_pool, self.rows + self.ring.capacity * self.tokens
        if (self.chunks - 1) % self.policy.bank_every == 0:
            place = (self.chunks - 1) // self.policy.bank_every % size
            self.pool[place : place + 1] = [self.latest]
            row = first + place * self.tokens
            for entries, frames in zip(layers, fresh, strict=True):
                for part, frame in zip(entries, frames, strict=True):
                    part[:, row : row + self.tokens] = frame
        gone = [place for place, frame in enumerate(self.pool) if frame not in self.ring.slots]
        self.filled = min(self.policy.bank, len(gone))
        if not gone:
            return
        candidates = torch.tensor(gone, device=layers[0][0].device)
        for entries, frames, keys in zip(layers, fresh, text, strict=True):
            stored = [self._frames(part, first, size).index_select(1, candidates) for part in entries]
            best = self._scores(stored[0], frames[0], keys).topk(self.filled, 1).indices
            for part, older in zip(entries, stored, strict=True):
                index = best.view(*best.shape, *[1] * (older.dim() - 2)).expand(-1, -1, *older.shape[2:])
                self._frames(part, self.first_row, self.filled).copy_(older.gather(1, index))

    def _frames(self, part: Tensor, row: int, count: int) -> Tensor:
        rows = part[:, row : row + count * self.tokens]
        return rows.view(part.shape[0], count, self.tokens, *part.shape[2:])

    def _scores(self, keys: Tensor, fresh: Tensor, prompt: Tensor | None) -> Tensor:
        """How much each of some frames is worth, [B, frames].

        Args:
            keys: [B, frames, tokens, ...]. fresh: of the latest frame, [B, tokens, ...]. prompt: [B, text, H, d].
        """
        if self.policy.bank_by == "similarity":
            means, latest = keys.float().mean(2).flatten(2), fresh.float().mean(1).flatten(1)
            return F.cosine_similarity(means, latest.unsqueeze(1), dim=-1)
        if prompt is None:
            raise OptionError("a bank by prompt needs the prompt of the next chunk", "set window.bank_by to similarity")
        # A mean over text and tokens of products is the product of means.
        text, means = prompt.float().mean(1), keys.float().mean(2)
        return (means * text.unsqueeze(1)).sum(-1).mean(-1)
