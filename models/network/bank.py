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
        count: frames of that chunk.
        pool: frames behind the ring that it is chosen from, by place. remembered: how many ever were.
        means: of the latents of those frames, [B, pool, channels] float32, by place. fresh: of the latest chunk's,
            [B, count, channels]. Both where latents choose.
    """

    policy: WindowPolicy
    tokens: int
    ring: Ring
    filled: int = 0
    chunks: int = 0
    latest: int = -1
    count: int = 0
    pool: list[int] = field(default_factory=list)
    remembered: int = 0
    means: Tensor | None = None
    fresh: Tensor | None = None

    @property
    def rows(self) -> int:
        """Rows of a layer's tensors before those of the ring."""
        return self.policy.bank * self.tokens

    @property
    def first_row(self) -> int:
        """The first row that holds a frame."""
        return (self.policy.bank - self.filled) * self.tokens

    def positions(self, kind: Literal["absolute", "relative"]) -> list[int]:
        """Of its frames in order of rows: before the window, or all at 0."""
        return [0] * self.filled if self.policy.bank_at == "zero" else list(range(self.filled))

    def finish(self, first: int, count: int, latents: Tensor | None = None) -> None:
        """Note that `count` frames from `first` on are finished, and what `latents`, [B, count, C, H, W], they are."""
        self.chunks, self.latest, self.count = self.chunks + 1, first, count
        if self.policy.bank and self.policy.bank_by == "latents":
            if latents is None:
                raise OptionError("a bank by latents needs those of its frames", "set window.bank_by to similarity")
            self.fresh = latents.float().mean((-2, -1))

    def due(self, first: int) -> bool:
        """Whether frames may come before the chunk from frame `first` on, which a rebuild's does not."""
        return self.policy.bank > 0 and 0 <= self.latest < first

    def take(
        self, layers: Sequence[Entries], standing: Sequence[int], prompt: Sequence[Tensor] | None, first: int
    ) -> None:
        """Take in the first frame of the latest chunk, once the one from frame `first` on has its place in the ring.

        Args:
            layers: every layer's entries, still without that chunk. standing: frames by slot before it came.
            prompt: every layer's keys of the prompt, [B, text tokens, H, d].
        """
        row = self.rows + standing.index(self.latest) * self.tokens
        fresh = [[part[:, row : row + self.tokens] for part in entries] for entries in layers]
        text = [None] * len(layers) if prompt is None else prompt
        if self.policy.bank_pool:
            if (self.chunks - 1) % self.policy.bank_every == 0:
                self._remember(layers, standing)
            left = [
                place
                for place, frame in enumerate(self.pool)
                if frame not in self.ring.slots and frame < first - self.policy.bank_recent
            ]
            self.filled = min(self.policy.bank, len(left))
            if left:
                self._retrieve(layers, fresh, text, left)
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

    @property
    def _behind(self) -> int:
        """The first row behind the ring."""
        return self.rows + self.ring.capacity * self.tokens

    def _remember(self, layers: Sequence[Entries], standing: Sequence[int]) -> None:
        """Put frames of the latest chunk behind the ring, each in the place of the one that came there longest ago."""
        size = self.policy.bank_pool
        for at in range(self.count if self.policy.bank_of == "all" else 1):
            if self.latest + at not in standing:  # dropped at a switch
                continue
            place, self.remembered = self.remembered % size, self.remembered + 1
            self.pool[place : place + 1] = [self.latest + at]
            source = self.rows + standing.index(self.latest + at) * self.tokens
            row = self._behind + place * self.tokens
            for entries in layers:
                for part in entries:
                    part[:, row : row + self.tokens] = part[:, source : source + self.tokens]
            if self.fresh is not None:
                if self.means is None:
                    self.means = self.fresh.new_zeros(self.fresh.shape[0], size, self.fresh.shape[2])
                self.means[:, place] = self.fresh[:, at]

    def _retrieve(
        self,
        layers: Sequence[Entries],
        fresh: Sequence[Sequence[Tensor]],
        text: Sequence[Tensor | None],
        gone: Sequence[int],
    ) -> None:
        """Choose the bank among the frames in the places `gone` of the pool."""
        size, candidates = self.policy.bank_pool, torch.tensor(gone, device=layers[0][0].device)
        shared = self._by_latents(candidates)
        for entries, frames, keys in zip(layers, fresh, text, strict=True):
            stored = [self._frames(part, self._behind, size) for part in entries]
            if shared is None:
                among = stored[0].index_select(1, candidates)
                best = candidates[self._scores(among, frames[0], keys).topk(self.filled, 1).indices]
            else:
                # With guidance entries are there twice, of the same latents.
                best = shared.repeat(stored[0].shape[0] // shared.shape[0], 1)
            clips = torch.arange(best.shape[0], device=best.device).unsqueeze(1)
            for part, older in zip(entries, stored, strict=True):
                self._frames(part, self.first_row, self.filled).copy_(older[clips, best])

    def _by_latents(self, candidates: Tensor) -> Tensor | None:
        """Places of the chosen frames, [B, filled], where latents choose."""
        if self.means is None or self.fresh is None:
            return None
        scores = F.cosine_similarity(self.means[:, candidates], self.fresh[:, -1:], dim=-1)
        return candidates[scores.topk(self.filled, 1).indices]

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
