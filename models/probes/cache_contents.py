"""Which frames' tokens stand in a cache, by its bookkeeping and, where choices are made on the device, by its bits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from videomla_models.network.anchor import Anchor
from videomla_models.network.cache import StreamCache
from videomla_models.network.heads import HeadedCache
from videomla_models.spec.window import walked

INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""By bytes of a number, a type of the same size."""
MIXER = 0x9E3779B97F4A7C15 - (1 << 64)
"""2^64 over the golden ratio, as Knuth's multiplicative hashing takes it (The Art of Computer Programming, 6.4)."""

Shares = Mapping[int, float]
"""By latent frame: 1 for all its tokens in all layers, heads and clips of a cache; more where it is seen twice."""


class Contents:
    """What one cache shows to each chunk. `shown` is to be called once a chunk, between its clean pass and `finish`.

    A bank and chosen tokens stand for every clip, layer and head apart, in index tensors that nothing reads. They are
    copies of entries, bit by bit, and are found by their bits among all entries that were made.
    """

    def __init__(self, cache: StreamCache) -> None:
        self.cache = cache
        self._copies: dict[int, int] = {}
        self._prints: list[list[Tensor]] = [[] for _ in cache.layers]
        self._frames: list[int] = []
        self._windows: dict[str, Contents] = {}

    def shown(self, first: int, count: int) -> tuple[Shares, float]:
        """Of the chunk from frame `first` on: shares of frames, and frames' worth of rows that are no frame's own."""
        cache = self.cache
        if isinstance(cache, HeadedCache) and cache.windows:
            return self._by_class(cache, first, count)
        shares: defaultdict[int, float] = defaultdict(float)
        merged = 0.0
        for slot, frame in enumerate(cache.ring.slots):
            if slot in self._averages():
                merged += 1
            else:
                shares[self._copies.get(frame, frame)] += 1
        if isinstance(cache.front, Anchor):
            for frame in cache.front.frames:
                shares[frame] += 1
        elif cache.front.rows:
            self._note()
            merged += self._beside(shares)
        self._walk(first, count)
        return dict(shares), merged

    def _by_class(self, cache: HeadedCache, first: int, count: int) -> tuple[Shares, float]:
        """Each class's window, by the share of heads that have it."""
        heads = sum(map(len, cache.classes))
        shares: defaultdict[int, float] = defaultdict(float)
        merged = 0.0
        for letter, window in cache.windows.items():
            weight = "".join(cache.classes).count(letter) / heads
            own, others = self._windows.setdefault(letter, Contents(window)).shown(first, count)
            merged += weight * others
            for frame, share in own.items():
                shares[frame] += weight * share
        return dict(shares), merged

    def _averages(self) -> range:
        """Slots of the ring that hold averages."""
        policy, ring = self.cache.policy, self.cache.ring
        if policy.sink_kind == "average" and ring.slots[policy.sink :] and max(ring.slots) >= ring.capacity:
            return range(policy.sink)
        return range(policy.sink, policy.fixed) if self.cache.kept.averaging else range(0)

    def _walk(self, first: int, count: int) -> None:
        """Note what `Kept.finish` is about to copy in the place of the frames before the chunk."""
        kept = self.cache.kept
        if kept.copied and first >= self.cache.ring.capacity:
            for frame in range(first - count, first):
                self._copies[frame] = walked(frame, kept.spare, self.cache.policy.sink_kind)

    # ------------------------------------------------------------------------- banks and chosen tokens, by their bits

    def _note(self) -> None:
        """Remember the bits of the entries of every frame in the window that is new."""
        slots, tokens, known = self.cache.ring.slots, self.cache.grid.tokens, set(self._frames)
        frames = [frame for frame in slots if frame not in known]
        rows = [self.cache.front.rows + tokens * slots.index(frame) for frame in frames]
        self._frames += [frame for frame in frames for _ in range(tokens)]
        for layer, prints in zip(self.cache.layers, self._prints, strict=True):
            if layer.entries():
                prints.append(
                    _prints([torch.cat([part[:, r : r + tokens] for r in rows], 1) for part in layer.entries()])
                )

    def _beside(self, shares: defaultdict[int, float]) -> float:
        """Add what stands before the ring to `shares`; frames' worth of rows whose bits are no known entry's."""
        front, tokens = self.cache.front, self.cache.grid.tokens
        beside = slice(front.first_row, front.rows)
        frames = torch.tensor(self._frames)
        counts, rows = torch.zeros(int(frames.max()) + 2, dtype=torch.float64), 0
        for layer, prints in zip(self.cache.layers, self._prints, strict=True):
            if not prints or beside.start == beside.stop:
                continue
            asked = _prints([part[:, beside] for part in layer.entries()])
            known = torch.cat(prints, 1)
            order = known.sort(stable=True, dim=1)
            at = torch.searchsorted(order.values, asked).clamp_max(known.shape[1] - 1)
            place = frames[order.indices.gather(1, at)]
            found = torch.where(order.values.gather(1, at) == asked, place, -1)
            counts += torch.bincount(found.flatten() + 1, minlength=len(counts))
            rows += len(asked)
        for frame, count in enumerate((counts[1:] / max(1, rows) / tokens).tolist()):
            if count:
                shares[frame] += count
        return float(counts[0]) / max(1, rows) / tokens


def _prints(entries: Sequence[Tensor]) -> Tensor:
    """A number for the bits of each row of keys and contents: int64 [B * heads, rows], on the host."""
    total: Tensor | int = 0
    for part in entries:
        bits = part.contiguous().view(INTEGERS[part.element_size()]).long()
        powers = torch.full(bits.shape[-1:], MIXER, device=bits.device).cumprod(0)
        total = total * MIXER + (bits * powers).sum(-1)
    assert isinstance(total, Tensor)
    by_row = total if total.dim() == 2 else total.movedim(2, 1).flatten(0, 1)
    return by_row.cpu()
