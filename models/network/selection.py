"""Tokens that outlive their frames, chosen by what the queries make of them (Deep Forcing, arXiv 2512.05081).

When frames leave, their tokens and those chosen before compete for a budget of fixed size. Choices are index tensors on
the device, for each layer and clip alone; nothing here reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from videomla_models.spec.window import WindowPolicy


@dataclass
class Selection:
    """The chosen tokens, which stand before the ring and fill from its end.

    Attributes:
        policy: budget, and what is chosen as one. tokens: of a frame. filled: tokens chosen; before: and before the
            frames of the next chunk leave.
        leaving: slots of the ring whose frames leave with the next pass. queries: of the latest clean pass, by layer,
            their sum [B, H, d].
    """

    policy: WindowPolicy
    tokens: int
    filled: int = 0
    before: int = 0
    leaving: tuple[int, ...] = ()
    queries: dict[int, Tensor] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Rows of a layer's tensors before those of the ring."""
        return self.policy.select * self.tokens

    @property
    def first_row(self) -> int:
        """The first row that holds a token."""
        return self.rows - self.filled

    def positions(self, kind: Literal["absolute", "relative"]) -> list[int]:
        """None: its keys are rotated as they were written."""
        return []

    def leave(self, slots: Sequence[int]) -> None:
        """Frames of `slots` leave for the next chunk."""
        self.leaving = tuple(slots) if self.policy.select else ()
        self.before = self.filled
        self.filled = min(self.rows, self.before + len(self.leaving) * self.tokens)

    def restart(self) -> None:
        """Forget what was chosen."""
        self.filled, self.before, self.leaving = 0, 0, ()

    def note(self, layer: int, query: Tensor) -> None:
        """Keep the sum of a clean pass's queries [B, L, H, d], rotated, where the next choice is by them."""
        if self.policy.select and self.policy.select_at == "clean":
            self.queries[layer] = query.sum(1)

    def take(self, layer: int, entries: tuple[Tensor, Tensor], query: Tensor) -> None:
        """Choose anew, before the slots of frames that leave are written.

        Args:
            layer: index of the layer. entries: its keys and values, [B, chosen and ring, H, d], keys rotated.
            query: of the first pass of the chunk that comes, rotated, [B, L, H, d].
        """
        rows = [self.rows + slot * self.tokens for slot in self.leaving]
        candidates = [
            torch.cat([part[:, self.rows - self.before : self.rows], *(part[:, r : r + self.tokens] for r in rows)], 1)
            for part in entries
        ]
        if self.filled < candidates[0].shape[1]:
            queries = self.queries[layer] if self.policy.select_at == "clean" else query.sum(1)
            best = self._best(candidates[0], queries)
            candidates = [part.gather(1, best.expand(-1, -1, *part.shape[2:])) for part in candidates]
        for part, chosen in zip(entries, candidates, strict=True):
            part[:, self.rows - self.filled : self.rows] = chosen

    def _best(self, keys: Tensor, queries: Tensor) -> Tensor:
        """Which of the candidates stay: [B, budget, H or 1, 1].

        A candidate's worth is the sum over queries of q k, so that of the sum of queries; that of several tokens or
        heads which stay or go together is their sum.
        """
        worth = (keys.float() * queries.float().unsqueeze(1)).sum(-1)
        if self.policy.select_by != "head":
            worth = worth.sum(2, keepdim=True)
        size = {"frame": self.tokens, "chunk": len(self.leaving) * self.tokens}.get(self.policy.select_by, 1)
        grouped = worth.view(worth.shape[0], -1, size, worth.shape[2]).sum(2)
        top: Tensor = grouped.topk(self.filled // size, dim=1).indices
        inside = torch.arange(size, device=keys.device).view(1, 1, -1, 1)
        return (top.unsqueeze(2) * size + inside).flatten(1, 2).unsqueeze(-1)
