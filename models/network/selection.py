"""Tokens that outlive their frames, chosen by what the queries make of them (Deep Forcing, arXiv 2512.05081).

When frames leave, their tokens and those chosen before compete for a budget of fixed size. Or tokens of the latest
frames that left are chosen anew by how much changes behind them (Forcing-KV, arXiv 2605.09681). Choices are index
tensors on the device, for each layer and clip alone; nothing here reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from videomla_models.spec.window import WindowPolicy


@dataclass
class Selection:
    """The chosen tokens, which stand before the ring and fill from its end.

    Attributes:
        policy: budget, and what is chosen as one. tokens: of a frame. filled: tokens chosen; before: and before the
            frames of the next chunk leave.
        into_latent: of latent attention, takes a layer and sums of its queries to what its latents and rope keys are
            multiplied with, [B, H, d_c + d_rope].
        leaving: slots of the ring whose frames leave with the next pass. after: slot of the frame behind them.
        changed: what was chosen by change, for all layers. queries: of the latest clean pass, by layer,
            their sum, as `_sum` gives it.
    """

    policy: WindowPolicy
    tokens: int
    into_latent: Callable[[int, Tensor], Tensor] | None = None
    filled: int = 0
    before: int = 0
    leaving: tuple[int, ...] = ()
    after: int = 0
    changed: Tensor | None = None
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

    @property
    def _by_change(self) -> bool:
        return self.policy.select_score == "change"

    def leave(self, slots: Sequence[int], standing: Sequence[int]) -> None:
        """Frames of `slots`, the oldest first, leave for the next chunk; `standing` are frames by slot until then."""
        self.leaving = tuple(slots) if self.policy.select else ()
        if self._by_change and self.leaving:
            self.filled, self.changed = 0, None
            self.after = standing.index(standing[self.leaving[-1]] + 1)
        self.before = self.filled
        self.filled = min(self.rows, self.before + len(self.leaving) * self.tokens)

    def restart(self) -> None:
        """Forget what was chosen."""
        self.filled, self.before, self.leaving = 0, 0, ()

    def note(self, layer: int, query: Tensor) -> None:
        """Keep the sum of a clean pass's queries [B, L, H, d], rotated, where the next choice is by them."""
        if self.policy.select and self.policy.select_at == "clean":
            self.queries[layer] = self._sum(layer, query)

    def take(self, layer: int, entries: tuple[Tensor, Tensor], query: Tensor) -> None:
        """Choose anew, before the slots of frames that leave are written.

        Args:
            layer: index of the layer. entries: its keys and values [B, chosen and ring, H, d], or its rope keys and
                latents [B, chosen and ring, d], keys rotated.
            query: of the first pass of the chunk that comes, rotated, [B, L, H, d].
        """
        rows = [self.rows + slot * self.tokens for slot in self.leaving]
        candidates = [
            torch.cat([part[:, self.rows - self.before : self.rows], *(part[:, r : r + self.tokens] for r in rows)], 1)
            for part in entries
        ]
        if self.filled < candidates[0].shape[1]:
            best = self._changed(entries, rows) if self._by_change else self._asked_for(layer, candidates, query)
            candidates = [
                part.gather(1, best.view(*best.shape, *[1] * (part.dim() - 3)).expand(-1, -1, *part.shape[2:]))
                for part in candidates
            ]
        for part, chosen in zip(entries, candidates, strict=True):
            part[:, self.rows - self.filled : self.rows] = chosen

    def _asked_for(self, layer: int, candidates: Sequence[Tensor], query: Tensor) -> Tensor:
        queries = self.queries[layer] if self.policy.select_at == "clean" else self._sum(layer, query)
        return self._best(self._worth(candidates, queries))

    def _changed(self, entries: Sequence[Tensor], rows: Sequence[int]) -> Tensor:
        """Of the frames from `rows` on, what is least like the same place a frame later: [B, budget, 1].

        Likeness is the cosine of a token's keys of all heads, or of its latent with its rope key. The first layer that
        asks chooses for all of them (`dynamic_compression` of the public code).
        """
        if self.changed is None:
            keys = entries[0] if entries[0].dim() == 4 else torch.cat(list(entries), -1)
            frames = [keys[:, r : r + self.tokens] for r in (*rows, self.rows + self.after * self.tokens)]
            here, there = (torch.stack(part, 1).float().flatten(3) for part in (frames[:-1], frames[1:]))
            self.changed = self._best(-F.cosine_similarity(here, there, dim=-1).flatten(1).unsqueeze(2))
        return self.changed

    def _sum(self, layer: int, query: Tensor) -> Tensor:
        """Over queries [B, L, H, d]: [B, H, d]; of latent attention over heads as well, [B, 1, d_c + d_rope]."""
        total = query.sum(1)
        return total if self.into_latent is None else self.into_latent(layer, total).sum(1, keepdim=True)

    def _worth(self, candidates: Sequence[Tensor], queries: Tensor) -> Tensor:
        """Of each candidate, by head or of all heads together: [B, N, H or 1].

        A candidate's worth is the sum over queries of q k, so that of the sum of queries. All heads share a latent c
        and a rope key r: what they make of it is (sum of W_K_up^T q_nope) c + (sum of q_rope) r.
        """
        keys, contents = candidates
        if keys.dim() == 3:
            keys = torch.cat([contents, keys], -1).unsqueeze(2)
        worth = (keys.float() * queries.float().unsqueeze(1)).sum(-1)
        return worth if self.policy.select_by == "head" else worth.sum(2, keepdim=True)

    def _best(self, worth: Tensor) -> Tensor:
        """Which of the candidates stay, by what they are worth [B, N, H or 1]: [B, budget, H or 1].

        Several tokens which stay or go together are worth their sum.
        """
        sizes = {"frame": self.tokens, "chunk": len(self.leaving) * self.tokens}
        size = (sizes | {"patch": self.tokens // self.policy.select_patches}).get(self.policy.select_by, 1)
        grouped = worth.view(worth.shape[0], -1, size, worth.shape[2]).sum(2)
        top: Tensor = grouped.topk(self.filled // size, dim=1).indices
        inside = torch.arange(size, device=worth.device).view(1, 1, -1, 1)
        return (top.unsqueeze(2) * size + inside).flatten(1, 2)
