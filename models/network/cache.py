"""The streaming cache: a ring of latent frames for every layer, and the contexts that read and write it.

Nothing is moved when frames leave: new ones take their slots. Attention is indifferent to the order of its keys, so the
filled slots are read in place; only rotary angles depend on the order, and those are host integers. Of a key that all
heads share and that is rotated at read, height and width are rotated when it is written, time in every pass: into one
buffer that all layers share.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from videomla_models.network.anchor import Anchor
from videomla_models.network.attention.context import AttendWindow, PassContext, rotate_tail
from videomla_models.network.attention.dense import TextKeys
from videomla_models.network.attention.linear import State, read, summed
from videomla_models.network.bank import Bank
from videomla_models.network.kept import Kept
from videomla_models.network.selection import Selection
from videomla_models.network.storage import CodedPart, empty_entries
from videomla_models.ops.latent import rotate_first
from videomla_models.ops.rope import RotaryTable, Rotation, rotate
from videomla_models.ops.step import step
from videomla_models.spec.ring import Placement, Ring, Run
from videomla_models.spec.storage import EXACT, Storage
from videomla_models.spec.window import WindowPolicy


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
    """One layer's entries, a row for each token of each slot; of keys and values by head, a head's rows are adjacent.

    Args:
        positional_part, content_part: how they are encoded; None for what is stored as the model computes it.
        before: rows of a bank, an anchor or chosen tokens, which stand before the ring in both.

    Attributes:
        positional: keys [B, capacity * tokens, H, p], or one for all heads [B, capacity * tokens, p].
        content: values [B, capacity * tokens, H, d_v], or latents [B, capacity * tokens, d_c].
    """

    def __init__(
        self, positional_part: CodedPart | None = None, content_part: CodedPart | None = None, before: int = 0
    ) -> None:
        self.positional: Tensor | None = None
        self.content: Tensor | None = None
        self._parts = positional_part, content_part
        self.before = before

    def entries(self) -> list[Tensor]:
        """All that is stored, once it is allocated."""
        plain = [entries for entries in (self.positional, self.content) if entries is not None]
        return [*plain, *(tensor for part in self._parts if part is not None for tensor in part.tensors())]

    def allocated(self, positional: Tensor, content: Tensor, rows: int) -> tuple[Tensor, Tensor]:
        """Both parts as attention reads them, with `rows` rows in shape and dtype of these.

        What is encoded is decoded into a buffer that the next layer overwrites; the rest stands there from the first
        call on. Slots start unwritten.
        """
        contents = self._parts[1]
        if contents is None and self.content is None:
            self.content = empty_entries(content, rows)
        return self.keys(positional, rows), self._window(contents, self.content, content)

    @staticmethod
    def _window(part: CodedPart | None, entries: Tensor | None, like: Tensor | None = None) -> Tensor:
        if part is not None:
            return part.window(like)
        assert entries is not None
        return entries

    def work_in(self, buffers: dict[str, Tensor]) -> None:
        """Decode into `buffers`, by part."""
        for part in self._parts:
            if part is not None:
                part.buffers = buffers

    @property
    def codes(self) -> CodedPart | None:
        """The content where attention reads its codes themselves."""
        part = self._parts[1]
        return part if part is not None and part.in_kernel else None

    def keys(self, positional: Tensor, rows: int) -> Tensor:
        """As `allocated`, of the positional part alone."""
        part = self._parts[0]
        if part is None and self.positional is None:
            self.positional = empty_entries(positional, rows)
        return self._window(part, self.positional, positional)

    def keep(self, slots: Sequence[int], content: Tensor | None = None) -> None:
        """Encode `slots`, the frame that is latest in time last, as `allocated` gave them and passes wrote them.

        Args:
            content: rows of content for `codes`, which stand in no buffer.
        """
        for part in self._parts:
            if part is not None:
                part.keep(slots, content if part.in_kernel else None)

    def edited(self, slots: Sequence[int]) -> Iterator[Tensor]:
        """The ring of keys, then of contents, to change `slots` of it in place; nothing before the first pass."""
        if not self.entries():
            return
        keys, contents = self._parts
        yield self._window(keys, self.positional)[:, self.before :]
        yield self._window(contents, self.content)[:, self.before :]
        self.keep(slots)

    @staticmethod
    @step("cache_writes")
    def write(
        entries: tuple[Tensor, Tensor | None],
        runs: Sequence[Run],
        positional: Tensor,
        content: Tensor,
        tokens: int,
        rotation: Rotation | None = None,
    ) -> None:
        """Put a chunk into its slots of `entries`, its positional part rotated on the way by `rotation`, if any."""
        for run in runs:
            slots = slice(run.slot * tokens, (run.slot + run.length) * tokens)
            own = slice(run.start * tokens, (run.start + run.length) * tokens)
            if entries[1] is not None:
                entries[1][:, slots] = content[:, own]
            if rotation is None:
                entries[0][:, slots] = positional[:, own]
            else:
                rotate(positional[:, own], rotation.tokens(own.start, own.stop), entries[0][:, slots])


class StreamCache:
    """All layers' caches of one batch of requests, and the frames that stand in their slots.

    Args:
        capacity: frames that attention sees. spare: frames behind them that the policy keeps besides.
        storage: how entries are stored.

    Attributes:
        rotated_keys: a layer's keys [B, capacity * tokens, p] as its attention reads them. The next layer overwrites
            them: a copy for each layer would be cache as well, and no small part of a latent one.
        decoded: the buffers that layers decode into, by part.
        lender: the cache whose buffers this one works in; itself unless `share` was called.
    """

    def __init__(
        self,
        layers: int,
        policy: WindowPolicy,
        capacity: int,
        grid: Grid,
        table: RotaryTable,
        storage: Storage = EXACT,
        spare: int = 0,
    ) -> None:
        self.storage, self.spare = storage, spare
        self.lender, self.decoded = self, dict[str, Tensor]()
        self.policy, self.grid, self.table = policy, grid, table
        self.ring = Ring(capacity, policy.fixed)
        self.bank, self.anchor = Bank(policy, grid.tokens, self.ring), Anchor(policy, grid.tokens)
        self.selection = Selection(policy, grid.tokens)
        # A policy has one of the three at most.
        self.front: Bank | Anchor | Selection = self.bank
        if policy.select:
            self.front = self.selection
        elif policy.switch == "anchor":
            self.front = self.anchor
        self.layers = [LayerCache(self._part("key"), self._part("content"), self.front.rows) for _ in range(layers)]
        turned = storage.key.kind == "exact"
        self.kept = Kept(policy, self.ring, self.layers, table, (grid.height, grid.width), spare, turned)
        self.states: list[State | None] = [None] * layers
        self.rotated_keys: Tensor | None = None

    def _part(self, name: Literal["key", "content"]) -> CodedPart | None:
        storage, code = self.storage, self.storage.key if name == "key" else self.storage.content
        if code.kind == "exact":
            return None
        frames = self.ring.capacity + self.spare, storage.sink, storage.recent
        in_kernel = storage.in_kernel and name == "content"
        return CodedPart(code, self.grid.tokens, *frames, name, self.decoded, in_kernel)

    def share(self, lender: StreamCache) -> None:
        """Work in the buffers of `lender`, a cache alike of as many requests, no layer of which works meanwhile."""
        self.lender, self.decoded = lender, lender.decoded
        for layer in self.layers:
            layer.work_in(lender.decoded)

    @property
    def rows(self) -> int:
        """Rows of a layer's tensors."""
        return self.front.rows + (self.ring.capacity + self.spare) * self.grid.tokens

    @step("rope")
    def chunk(
        self, first: int, count: int, device: torch.device, prompt: Sequence[TextKeys] | None = None
    ) -> PassContext:
        """Make room for frames `first` to `first + count - 1` and return what their passes attend to.

        `prompt`, every layer's, is what a bank may be chosen by.
        """
        standing = list(self.ring.slots)
        placement = self.ring.place(first, count)
        if self.bank.due(first) and self.bank.latest in standing:
            text = None if prompt is None else [keys for keys, _ in prompt]
            self.bank.take(self._plain(), standing, text, first)
        self.kept.leave(placement)
        if self.anchor.marked is not None and placement.evicted:
            self.anchor.leave(self._plain(), placement.evicted, [standing[slot] for slot in placement.evicted])
        self.selection.leave(placement.evicted, standing)
        return self._context(placement, first, count, device)

    def _plain(self) -> list[tuple[Tensor, Tensor]]:
        """Every layer's keys and contents, where none is encoded."""
        return [(keys, contents) for keys, contents in (cache.entries() for cache in self.layers)]

    def _context(self, placement: Placement, first: int, count: int, device: torch.device) -> ChunkContext:
        return ChunkContext(self, placement, first, count, device)

    def rebuild_behind_sink(self, first: int, count: int, device: torch.device) -> ChunkContext:
        """A context whose pass rewrites everything but the sink with `count` frames from `first` on.

        The first `sink` of these frames are queries whose entries are dropped.
        """
        sink = self.policy.sink
        self.restart([*self.ring.slots[:sink], *range(first + sink, first + count)])
        placement = Placement((Run(sink, sink, count - sink),), ())
        return self._context(placement, first, count, device)

    def restart(self, frames: Sequence[int]) -> None:
        """Hold `frames` alone, in slots 0, 1, …, which a pass is to write."""
        self.ring.restart(frames)
        self.kept.restart()
        self.selection.restart()

    def finish(self, first: int, count: int, latents: Tensor | None = None) -> None:
        """What the policy does once the clean pass of frames `first` to `first + count - 1` is over.

        `latents`, [B, count, C, H, W], of these frames, are what a bank may be chosen by.
        """
        self.kept.finish(first, count)
        self.bank.finish(first, count, latents)

    def compact(self, slots: Sequence[int]) -> None:
        """Move the entries of `slots` to slots 0, 1, … (a flush; the only time that entries move)."""
        tokens = self.grid.tokens
        for cache in self.layers:
            for entries in cache.edited(range(len(slots))):
                # Joined first: a slot may be written over before it is read.
                kept = torch.cat([entries[:, slot * tokens : (slot + 1) * tokens] for slot in slots], dim=1)
                entries[:, : kept.shape[1]] = kept

    def tensors(self) -> list[Tensor]:
        """What the layers keep from chunk to chunk: entries and states."""
        entries = [tensor for cache in self.layers for tensor in cache.entries()]
        return entries + [tensor for state in self.states if state is not None for tensor in state]

    def bytes(self) -> int:
        """Bytes of storage behind `tensors`."""
        return storage_bytes(self.tensors())


def storage_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of all storage behind `tensors`, each storage once and whole, however little of it they show."""
    # By identity and not by address, which tensors without memory (`meta`) all share.
    storages = {s._cdata: s.nbytes() for s in (t.untyped_storage() for t in tensors)}
    return sum(storages.values())


class ChunkContext:
    """Every pass over one chunk: entries go to the chunk's slots, queries see all filled slots.

    Attributes:
        filled: slots that hold a frame. positions: of those frames in time. own: of the chunk's frames.
        rows: of a layer's tensors that attention sees, those of a bank, an anchor or chosen tokens first.
        rotation: of the chunk's tokens. key_rotation: of the filled slots; None for keys that are rotated at write.
        clean: whether this pass is the one over finished latents, the last of the chunk.
        chosen: layers that have chosen among the tokens which leave.
    """

    def __init__(self, cache: StreamCache, placement: Placement, first: int, count: int, device: torch.device) -> None:
        self.cache, self.placement = cache, placement
        grid, ring, policy = cache.grid, cache.ring, cache.policy
        self.filled = len(ring.slots)
        ahead = cache.front.positions(policy.positions)
        shift = len(ahead) if policy.positions == "relative" and policy.bank_at == "before" else 0
        self.positions = [shift + position for position in ring.positions(policy.positions, policy.span)]
        self.rows = slice(cache.front.first_row, cache.front.rows + self.filled * grid.tokens)
        position = dict(zip(ring.slots, self.positions, strict=True))
        self.own = [position.get(frame, frame) for frame in range(first, first + count)]
        self.rotation = cache.table(self.own, grid.height, grid.width, device)
        self.key_rotation: Rotation | None = None
        if policy.rotation == "read":
            self.key_rotation = cache.table([*ahead, *self.positions], grid.height, grid.width, device)
        self._plane, self._time = self._halves(device)
        self.clean = False
        self.chosen: set[int] = set()

    def attend(
        self, layer: int, query: Tensor, positional: Tensor, content: Tensor, attend_window: AttendWindow
    ) -> Tensor:
        """Write this pass's entries over the chunk's own slots, then attend to all filled ones.

        A pass that carries gradients leaves cache and shared buffer as they were: it attends to a copy with its own
        entries, through which alone its gradients flow.
        """
        tokens, cache = self.cache.grid.tokens, self.cache.layers[layer]
        shared, rotation = positional.dim() == 3, self._rotation_at_write(positional)
        learning = torch.is_grad_enabled() and any(t.requires_grad for t in (query, positional, content))
        if rotation is not None and learning:
            positional, rotation = rotate(positional, rotation), None
        if cache.codes is not None:
            return self._attend_to_codes(layer, query, positional, content, attend_window, rotation)
        keys, contents = cache.allocated(positional, content, self.cache.rows)
        if learning:
            # Later passes write over the cache before the backward pass does its work.
            keys, contents = keys.clone(), contents.clone()
        query = rotate_tail(query, self.rotation)
        if self.cache.selection.leaving and layer not in self.chosen:
            self.cache.selection.take(layer, (keys, contents), query)
            self.chosen.add(layer)
        if self.clean:
            self.cache.selection.note(layer, query)
        ring = keys[:, cache.before :], contents[:, cache.before :]
        cache.write(ring, self.placement.runs, positional, content, tokens, rotation)
        if self.clean and not learning:
            cache.keep(self._slots())
        return attend_window(query, self._turned(keys[:, self.rows], shared, learning), contents[:, self.rows])

    @property
    def fillable(self) -> bool:
        """Whether nothing but entries is taken from a pass."""
        return not self.cache.policy.select

    def fill(self, layer: int, positional: Tensor, content: Tensor) -> None:
        """Write the entries of a clean pass without gradients, as `attend` does."""
        cache, rows = self.cache.layers[layer], self.cache.rows
        ring: tuple[Tensor, Tensor | None]
        if cache.codes is None:
            keys, contents = cache.allocated(positional, content, rows)
            ring = keys[:, cache.before :], contents[:, cache.before :]
        else:
            ring = cache.keys(positional, rows), None
        rotation = self._rotation_at_write(positional)
        cache.write(ring, self.placement.runs, positional, content, self.cache.grid.tokens, rotation)
        cache.keep(self._slots(), content)

    def _attend_to_codes(
        self,
        layer: int,
        query: Tensor,
        positional: Tensor,
        content: Tensor,
        attend_window: AttendWindow,
        rotation: Rotation | None,
    ) -> Tensor:
        """As `attend`, of a layer whose attention reads content as it is encoded, the chunk's own as it is."""
        cache = self.cache.layers[layer]
        assert cache.codes is not None
        keys = cache.keys(positional, self.cache.rows)
        cache.write((keys, None), self.placement.runs, positional, content, self.cache.grid.tokens, rotation)
        window = cache.codes.encoded(content, self._slots(), self.filled)
        keys = self._turned(keys[:, self.rows], positional.dim() == 3, learning=False)
        out = attend_window(rotate_tail(query, self.rotation), keys, window)
        if self.clean:  # the window shows what this writes over
            cache.keep(self._slots(), content)
        return out

    def _rotation_at_write(self, positional: Tensor) -> Rotation | None:
        # At read, a key that all heads share is rotated in two parts: by height and width as it is written, since no
        # window changes these, so that a pass rotates the window's few time pairs alone, which the kernel does. Keys of
        # each head have no such kernel, and one product over whole rows takes as long for all pairs as for some.
        if self.key_rotation is None:
            return self.rotation
        return self._plane if positional.dim() == 3 else None

    def _slots(self) -> list[int]:
        """Of the chunk's frames, in order."""
        return [slot for run in self.placement.runs for slot in range(run.slot, run.slot + run.length)]

    def _turned(self, keys: Tensor, shared: bool, learning: bool) -> Tensor:
        """`keys` rotated, where that was not done as they were written."""
        if self.key_rotation is None:
            return keys
        return self._in_time(keys, learning) if shared else rotate(keys, self.key_rotation)

    def _halves(self, device: torch.device) -> tuple[Rotation | None, Rotation | None]:
        """For keys rotated at read: height and width of the own tokens, time of all filled slots."""
        if self.key_rotation is None:
            return None, None
        if self.cache.storage.key.kind != "exact":
            # A code before rotation means before all of it.
            return None, self.key_rotation
        time = self.cache.table.axes[0].shape[1]
        # The kernel loads what it rotates; on a CPU half a row is slower than a whole one.
        whole = device.type == "cpu"
        return self.rotation.only(time), self.key_rotation.only(0, time) if whole else self.key_rotation.pairs(0, time)

    def _in_time(self, keys: Tensor, learning: bool) -> Tensor:
        """Rotate all filled slots in time, [B, slots * tokens, p]: into the shared buffer, or anew where it learns."""
        assert self._time is not None
        if learning:
            return rotate_first(keys, self._time)
        cache, (batch, length, width) = self.cache.lender, keys.shape
        if cache.rotated_keys is None:
            rows = cache.front.rows + cache.ring.capacity * cache.grid.tokens
            cache.rotated_keys = keys.new_empty(batch, rows, width)
        return rotate_first(keys, self._time, cache.rotated_keys[:, :length])

    def recur(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend to the layer's state and to the chunk itself; a clean pass keeps both together."""
        state, before = summed(key, rotate(key, self.rotation), value), self.cache.states[layer]
        if before is not None:
            state = state[0] + before[0], state[1] + before[1]
        if self.clean:
            self.cache.states[layer] = state
        return read(query, rotate(query, self.rotation), state)
