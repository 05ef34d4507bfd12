"""A window for each class of heads: sink only, local, or the latest frames alone (Dummy Forcing, arXiv 2601.20499), or
the whole window with or without chosen tokens (Forcing-KV, arXiv 2605.09681).

Each class is a ring of its own over its heads' entries, so nothing is copied in a pass but the heads of queries and of
fresh entries, by index tensors of fixed sizes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from videomla_models.network.attention.context import AttendWindow, PassContext
from videomla_models.network.attention.dense import TextKeys
from videomla_models.network.cache import ChunkContext, Grid, StreamCache
from videomla_models.ops.rope import RotaryTable
from videomla_models.spec.storage import EXACT, Storage
from videomla_models.spec.window import CLASSES, CURRENT, LOCAL, SINK, WindowPolicy

QUERIES = 64
"""Queries of a pass, spread evenly over it, whose attention tells the class of a head."""


def stream_cache(
    layers: int, policy: WindowPolicy, chunk: int, grid: Grid, table: RotaryTable, storage: Storage = EXACT
) -> StreamCache:
    """The cache that `policy` asks for, for chunks of `chunk` frames."""
    if policy.by_head:
        return HeadedCache(layers, policy, chunk, grid, table)
    return StreamCache(layers, policy, policy.capacity(chunk), grid, table, storage, policy.spare(chunk))


class HeadedCache(StreamCache):
    """One window until its classes hold, then one for each class.

    Attributes:
        classes: a letter for each head, a string for each layer; empty until they are known.
        chunks: finished so far. shares: of the queries' attention in the sink, before the chunk and in it, by layer,
            [B, H, 3] each.
    """

    def __init__(self, layers: int, policy: WindowPolicy, chunk: int, grid: Grid, table: RotaryTable) -> None:
        super().__init__(layers, replace(policy, select=0), policy.capacity(chunk), grid, table)
        self.own = {letter: policy.of_class(letter, chunk) for letter in CLASSES}
        self.frames = {letter: own.total(chunk) for letter, own in self.own.items()}
        self.behind = {letter: self.frames[letter] - own.sink - chunk for letter, own in self.own.items()}
        self.classes: tuple[str, ...] = policy.head_classes
        self.chunks = 0
        self.shares: dict[int, Tensor] = {}
        self.windows: dict[str, StreamCache] = {}
        self.heads: list[dict[str, Tensor]] = []

    def chunk(
        self, first: int, count: int, device: torch.device, prompt: Sequence[TextKeys] | None = None
    ) -> PassContext:
        """As every cache's; of the classes once they hold."""
        if self.chunks >= self.policy.head_from:
            if not self.windows:
                self._split(device)
            contexts = {letter: window.chunk(first, count, device) for letter, window in self.windows.items()}
            return HeadContext(contexts, self.heads)
        context = super().chunk(first, count, device, prompt)
        if not self.classes and self.chunks == self.policy.head_from - 1 and isinstance(context, ChunkContext):
            return _Watched(context, self.shares)
        return context

    def finish(self, first: int, count: int, latents: Tensor | None = None) -> None:
        """As every cache's; the only place where classes are read from the device."""
        super().finish(first, count, latents)
        self.chunks += 1
        if not self.classes and self.chunks == self.policy.head_from:
            shares = torch.stack([self.shares[layer][0] for layer in range(len(self.layers))])
            current = round(self.policy.head_current * shares.shape[0] * shares.shape[1])
            self.classes = classify(shares.float().cpu(), current)
            self.shares.clear()

    def tensors(self) -> list[Tensor]:
        """Of every class."""
        return super().tensors() + [t for window in self.windows.values() for t in window.tensors()]

    def _split(self, device: torch.device) -> None:
        """Give every class its frames of the window, and free the rest."""
        grid, ring = self.grid, self.ring
        self.heads = [
            {
                letter: torch.tensor([head for head, own in enumerate(row) if own == letter], device=device)
                for letter in sorted(set(row))
            }
            for row in self.classes
        ]
        order = sorted(range(len(ring.slots)), key=ring.slots.__getitem__)
        recent = [slot for slot in order if slot >= self.policy.sink]
        for letter in sorted(set("".join(self.classes))):
            own, behind = self.own[letter], self.behind[letter]
            window = StreamCache(len(self.layers), own, self.frames[letter], grid, self.table)
            slots = [slot for slot in order if slot < own.sink] + recent[max(0, len(recent) - behind) :]
            window.ring.restart([ring.slots[slot] for slot in slots])
            self.windows[letter] = window
            for layer, cache in enumerate(self.layers):
                if letter in self.heads[layer] and cache.entries():
                    self._hand_over(window, layer, slots, self.heads[layer][letter])
        for cache in self.layers:
            cache.positional = cache.content = None

    def _hand_over(self, window: StreamCache, layer: int, slots: Sequence[int], heads: Tensor) -> None:
        tokens, before = self.grid.tokens, window.front.rows
        keys, contents = (entries.index_select(2, heads) for entries in self.layers[layer].entries())
        for old, new in zip((keys, contents), window.layers[layer].allocated(keys, contents, window.rows), strict=True):
            for at, slot in enumerate(slots):
                there, here = before + at * tokens, slot * tokens
                new[:, there : there + tokens] = old[:, here : here + tokens]


class HeadContext:
    """A pass in which each class of heads sees its own window."""

    def __init__(self, contexts: Mapping[str, PassContext], heads: Sequence[Mapping[str, Tensor]]) -> None:
        self.contexts, self.heads = contexts, heads
        self.clean = False

    def attend(
        self, layer: int, query: Tensor, positional: Tensor, content: Tensor, attend_window: AttendWindow
    ) -> Tensor:
        """Each class apart, its heads put back where they belong."""
        out = query.new_empty(*query.shape[:3], content.shape[3])
        for letter, heads in self.heads[layer].items():
            self.contexts[letter].clean = self.clean
            own, keys, contents = (entries.index_select(2, heads) for entries in (query, positional, content))
            mixed = self.contexts[letter].attend(layer, own, keys, contents, attend_window)
            out.index_copy_(2, heads, mixed.view(*out.shape[:2], len(heads), -1))
        return out.flatten(2)


class _Watched:
    """A context whose clean pass notes where each head looks."""

    def __init__(self, context: ChunkContext, shares: dict[int, Tensor]) -> None:
        self.context, self.shares = context, shares
        self.clean = False

    def attend(
        self, layer: int, query: Tensor, positional: Tensor, content: Tensor, attend_window: AttendWindow
    ) -> Tensor:
        """As the context does."""

        def noting(query: Tensor, keys: Tensor, contents: Tensor) -> Tensor:
            if self.clean:
                self.shares[layer] = self._look(query, keys)
            return attend_window(query, keys, contents)

        return self.context.attend(layer, query, positional, content, noting)

    def _look(self, query: Tensor, keys: Tensor) -> Tensor:
        """Of each head: mean share of attention in the sink, in frames between, and in the chunk, [B, H, 3]."""
        ring, tokens = self.context.cache.ring, self.context.cache.grid.tokens
        last = query.shape[1] - 1
        rows = torch.linspace(0, last, min(QUERIES, last + 1), dtype=torch.float64).round().long().to(query.device)
        scores = torch.einsum("bqhd,bkhd->bhqk", query[:, rows].float(), keys.float()) * query.shape[3] ** -0.5
        by_slot = scores.softmax(-1).mean(2).view(*scores.shape[:2], -1, tokens).sum(3)
        own = {run.slot + i for run in self.context.placement.runs for i in range(run.length)}
        parts: tuple[list[int], ...] = ([], [], [])
        for slot in range(len(ring.slots)):
            parts[2 if slot in own else 0 if slot < ring.sink else 1].append(slot)
        return torch.stack([by_slot[..., part].sum(-1) for part in parts], -1)


def classify(shares: Tensor, current: int) -> tuple[str, ...]:
    """Classes by where heads look (Dummy Forcing, `dynamic_head_programming`).

    Shares of the sink and of the frames between are made comparable by their sums over all heads. The `current` heads
    whose larger one is least see the latest frames alone; each other sees what it looks at more.

    Args:
        shares: [layers, H, 3], in the sink, between, and in the chunk.

    Returns:
        A letter for each head, a string for each layer.
    """
    sink, between = (part / part.sum().clamp_min(1e-30) for part in shares[..., :2].unbind(-1))
    least = set(torch.maximum(sink, between).flatten().argsort(stable=True)[:current].tolist())
    looks_back = (sink >= between).flatten().tolist()
    letters = [CURRENT if i in least else SINK if back else LOCAL for i, back in enumerate(looks_back)]
    heads = shares.shape[1]
    return tuple("".join(letters[row : row + heads]) for row in range(0, len(letters), heads))
