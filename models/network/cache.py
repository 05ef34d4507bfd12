"""The streaming cache: a ring of latent frames for every layer, and the contexts that read and write it.

Nothing is moved when frames leave: new ones take their slots. Attention is indifferent to the order of its keys, so the
filled slots are read in place; only rotary angles depend on the order, and those are host integers. Of a key that all
heads share and that is rotated at read, height and width are rotated when it is written, time in every pass: into one
buffer that all layers share, since a rotated copy for each layer would be cache too, and no small part of a latent one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from videomla_models.network.attention.context import Kernel, rotate_tail
from videomla_models.network.attention.linear import State
from videomla_models.ops.latent import rotate_first
from videomla_models.ops.rope import RotaryTable, Rotation, rotate
from videomla_models.ops.step import step
from videomla_models.spec.window import Placement, Ring, Run, WindowPolicy


@dataclass(frozen=True, slots=True)
class Grid:
    """Tokens of one latent frame: `height` rows of `width`."""

    height: int
    width: int

    @property
    def tokens(self) -> int:
        """Tokens of a latent frame."""
        return self.height * self.width


class LayerCache:
    """One layer's entries: `key` [B, capacity * tokens, ..., p] and `rest` [B, capacity * tokens, ...].

    Of keys and values for each head, those of one head lie side by side, as attention reads them.
    """

    def __init__(self) -> None:
        self.key: Tensor | None = None
        self.rest: Tensor | None = None

    def buffers(self, key: Tensor, rest: Tensor, slots: int, tokens: int) -> tuple[Tensor, Tensor]:
        """The two buffers, allocated at the first call in shape and dtype of the entries. Unwritten slots stay so."""
        if self.key is None or self.rest is None:
            self.key, self.rest = (_empty(entries, slots * tokens) for entries in (key, rest))
        return self.key, self.rest

    @staticmethod
    @step("cache_writes")
    def write(
        buffers: tuple[Tensor, Tensor],
        runs: Sequence[Run],
        key: Tensor,
        rest: Tensor,
        tokens: int,
        rotation: Rotation | None = None,
    ) -> None:
        """Put a chunk's entries into its slots of `buffers`, the keys rotated on their way by `rotation`, if given."""
        keys, rests = buffers
        for run in runs:
            here = slice(run.slot * tokens, (run.slot + run.length) * tokens)
            there = slice(run.start * tokens, (run.start + run.length) * tokens)
            rests[:, here] = rest[:, there]
            if rotation is None:
                keys[:, here] = key[:, there]
            else:
                rotate(key[:, there], rotation.tokens(there.start, there.stop), keys[:, here])


def _empty(entries: Tensor, length: int) -> Tensor:
    """A buffer for `length` of such entries."""
    batch, _, *heads, width = entries.shape
    return entries.new_empty(batch, *heads, length, width).movedim(-2, 1)


class StreamCache:
    """All layers' caches of one batch of requests, and the frames that stand in their slots.

    Attributes:
        rotated: where one layer's keys stand rotated for its own attention; the next layer writes over them.
    """

    def __init__(self, layers: int, policy: WindowPolicy, capacity: int, grid: Grid, table: RotaryTable) -> None:
        self.policy, self.grid, self.table = policy, grid, table
        self.ring = Ring(capacity, policy.sink)
        self.layers = [LayerCache() for _ in range(layers)]
        self.states: list[State | None] = [None] * layers
        self.rotated: Tensor | None = None

    @step("rope")
    def chunk(self, first: int, count: int, device: torch.device) -> ChunkContext:
        """Make room for frames `first` to `first + count - 1` and return what their passes attend to."""
        placement = self.ring.place(first, count)
        if self.policy.sink_kind == "average" and placement.evicted:
            self._average(placement)
        return self._context(placement, first, count, device)

    def _context(self, placement: Placement, first: int, count: int, device: torch.device) -> ChunkContext:
        return ChunkContext(self, placement, first, count, device)

    def rebuild_behind_sink(self, first: int, count: int, device: torch.device) -> ChunkContext:
        """A context whose pass rewrites everything but the sink with `count` frames from `first` on.

        The first `sink` of these frames are queries whose entries are dropped.
        """
        sink = self.policy.sink
        self.ring.restart([*self.ring.slots[:sink], *range(first + sink, first + count)])
        placement = Placement((Run(sink, sink, count - sink),), ())
        return self._context(placement, first, count, device)

    def _average(self, placement: Placement) -> None:
        """Merge what leaves into the sink, slot by slot: sink = a sink + (1 - a) evicted (Reward Forcing)."""
        tokens, decay = self.grid.tokens, self.policy.average_decay
        for cache in self.layers:
            for buffer in (cache.key, cache.rest):
                assert buffer is not None
                for sink, slot in enumerate(placement.evicted):
                    kept = buffer[:, sink * tokens : (sink + 1) * tokens]
                    gone = buffer[:, slot * tokens : (slot + 1) * tokens]
                    kept.mul_(decay).add_(gone, alpha=1 - decay)

    def compact(self, slots: Sequence[int]) -> None:
        """Move the entries of `slots` to slots 0, 1, … (a flush; the only time that entries move)."""
        tokens = self.grid.tokens
        for cache in self.layers:
            for buffer in (cache.key, cache.rest):
                if buffer is None:
                    continue
                parts = [buffer[:, slot * tokens : (slot + 1) * tokens] for slot in slots]
                kept = torch.cat(parts, dim=1)
                buffer[:, : kept.shape[1]] = kept

    def tensors(self) -> list[Tensor]:
        """What the layers keep from chunk to chunk: entries and states."""
        held = [t for cache in self.layers for t in (cache.key, cache.rest) if t is not None]
        return held + [t for state in self.states if state is not None for t in state]

    def bytes(self) -> int:
        """Bytes of storage behind `tensors`."""
        return storage_bytes(self.tensors())


def storage_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of all storage behind `tensors`, each storage once and whole, however little of it they show."""
    # By identity and not by address, which tensors without memory (`meta`) all share.
    storages = {s._cdata: s.nbytes() for s in (t.untyped_storage() for t in tensors)}
    return sum(storages.values())


class ChunkContext:
    """Every pass over one chunk: entries go to the chunk's slots, queries see all filled slots."""

    def __init__(self, cache: StreamCache, placement: Placement, first: int, count: int, device: torch.device) -> None:
        self.cache, self.placement = cache, placement
        grid, ring, policy = cache.grid, cache.ring, cache.policy
        self.filled = len(ring.slots)
        frames = list(range(first, first + count))
        self.positions = ring.positions(policy.positions)
        at = dict(zip(ring.slots, self.positions, strict=True))
        self.own = [at.get(frame, frame) for frame in frames]

        def rotation(where: Sequence[int]) -> Rotation:
            return cache.table(where, grid.height, grid.width, device)

        self.rotation = rotation(self.own)
        self.key_rotation = rotation(self.positions) if policy.rotation == "read" else None
        self._plane, self._time = self._halves(device)
        self.clean = False

    def attend(self, layer: int, query: Tensor, key: Tensor, rest: Tensor, kernel: Kernel) -> Tensor:
        """Write this pass's entries over the chunk's own slots, then attend to all filled ones.

        A pass that carries gradients leaves cache and shared buffer as they were: it attends to a copy with its own
        entries, through which alone its gradients flow.
        """
        tokens, cache = self.cache.grid.tokens, self.cache.layers[layer]
        shared = key.dim() == 3
        rotation = self.rotation if self.key_rotation is None else self._plane if shared else None
        learning = torch.is_grad_enabled() and any(t.requires_grad for t in (query, key, rest))
        if rotation is not None and learning:
            key, rotation = rotate(key, rotation), None
        keys, rests = cache.buffers(key, rest, self.cache.ring.capacity, tokens)
        if learning:
            # Later passes write over the cache before the backward pass does its work.
            keys, rests = keys.clone(), rests.clone()
        cache.write((keys, rests), self.placement.runs, key, rest, tokens, rotation)
        keys, rests = keys[:, : self.filled * tokens], rests[:, : self.filled * tokens]
        if self.key_rotation is not None:
            keys = self._in_time(keys, learning) if shared else rotate(keys, self.key_rotation)
        return kernel(rotate_tail(query, self.rotation), keys, rests)

    def _halves(self, device: torch.device) -> tuple[Rotation | None, Rotation | None]:
        """For keys rotated at read: height and width of the own tokens, time of all filled slots."""
        if self.key_rotation is None:
            return None, None
        time = self.cache.table.axes[0].shape[1]
        # The kernel loads what it rotates; on a CPU half a row is slower than a whole one.
        whole = device.type == "cpu"
        return self.rotation.only(time), self.key_rotation.only(0, time) if whole else self.key_rotation.pairs(0, time)

    def _in_time(self, keys: Tensor, learning: bool) -> Tensor:
        """Rotate all filled slots in time, [B, slots * tokens, p]: into the shared buffer, or anew where it learns."""
        assert self._time is not None
        if learning:
            return rotate_first(keys, self._time)
        cache, (batch, length, width) = self.cache, keys.shape
        if cache.rotated is None:
            cache.rotated = keys.new_empty(batch, cache.ring.capacity * cache.grid.tokens, width)
        return rotate_first(keys, self._time, cache.rotated[:, :length])

    def state(self, layer: int) -> State | None:
        """The layer's state over all finished chunks."""
        return self.cache.states[layer]

    def commit(self, layer: int, state: State) -> None:
        """Keep `state` in the clean pass alone."""
        if self.clean:
            self.cache.states[layer] = state
