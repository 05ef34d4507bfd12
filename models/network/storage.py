"""The one place where a layer's entries are encoded and decoded.

A chunk is encoded once, in its clean pass. What attention reads stands in a buffer that all layers share, in which each
layer's slots are decoded and the chunk at work is written as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial

import torch
from torch import Tensor

from videomla_models.ops.encoded import EncodedLatents, Segment
from videomla_models.spec.storage import BITS, Code

LARGEST = {"fp8_e4m3": 448.0, "int8": 127.0, "int4": 7.0, "int2": 1.0}
"""Of a symmetric code: the largest finite number of e4m3 (OCP 8-bit floating point), and levels -n to n."""
BLOCK = 1 << 20
"""Numbers that are decoded at a time, in float32: what is written in full precision beside the shared buffer."""


@cache
def _walsh(size: int) -> Tensor:
    """The Walsh-Hadamard matrix of `size`, a power of two, orthonormal and its own inverse: float64 [size, size]."""
    matrix = torch.ones(1, 1, dtype=torch.float64)
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix / math.sqrt(size)


def _apart(x: Tensor, size: int) -> Tensor:
    """[..., width] as [..., width / size, size]."""
    return x.reshape(*x.shape[:-1], -1, size)


def _mixed(x: Tensor) -> Tensor:
    """Channels of [..., width] mixed in blocks; mixing twice gives `x` again."""
    width = x.shape[-1]
    block = width & -width
    return torch.matmul(_apart(x, block), _walsh(block).to(x)).flatten(-2)


def _grouped(x: Tensor, code: Code) -> tuple[Tensor, int]:
    """`x` [B, frames, tokens, ..., width] with its groups along one axis, and that axis."""
    if code.group == "channel":
        return x, 2
    return _apart(x, x.shape[-1] if code.group == "token" else code.group), -1


def _pack(levels: Tensor, bits: int) -> Tensor:
    """uint8 [..., width] below 2^bits to uint8 [..., width * bits / 8]; neighbours share a byte, the first lowest."""
    apart = _apart(levels, 8 // bits)
    packed: Tensor = apart[..., 0].clone()
    for place in range(1, 8 // bits):
        packed |= apart[..., place] << (bits * place)
    return packed


def _unpack(packed: Tensor, bits: int) -> Tensor:
    """The inverse of `_pack`."""
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=packed.device)
    return ((packed.unsqueeze(-1) >> shifts) & ((1 << bits) - 1)).flatten(-2)


def _levels(x: Tensor, code: Code) -> list[Tensor]:
    """One round of a code with scales: what is stored of `x`, each [B, frames, ...]."""
    groups, axis = _grouped(x, code)
    lows: list[Tensor] = []
    if code.symmetric:
        scale = (groups.abs().amax(axis, keepdim=True) / LARGEST[code.kind]).half()
    else:
        low, high = groups.aminmax(dim=axis, keepdim=True)
        # Levels are counted from the least number as it is stored.
        lows = [low.half()]
        groups = groups - lows[0].to(x.dtype)
        scale = ((high - lows[0].to(x.dtype)) / (2 ** BITS[code.kind] - 1)).half()
    wide = scale.to(x.dtype)
    # What is not finite makes the scale so, and is not finite again when it is decoded.
    scaled = torch.where(wide > 0, groups / wide, 0.0)
    stored = [scale, *lows]
    if axis == -1:
        stored, scaled = [t.squeeze(-1) for t in stored], scaled.flatten(-2)
    if code.kind == "fp8_e4m3":
        return [scaled.clamp_(-LARGEST[code.kind], LARGEST[code.kind]).to(torch.float8_e4m3fn), *stored]
    bits, scaled = BITS[code.kind], scaled.round_()
    if code.symmetric:
        scaled = scaled.clamp_(-LARGEST[code.kind], LARGEST[code.kind])
        levels = scaled.to(torch.int8) if bits == 8 else (scaled + 2 ** (bits - 1)).to(torch.uint8)
    else:
        levels = scaled.clamp_(0, 2**bits - 1).to(torch.uint8)
    return [levels if bits == 8 else _pack(levels, bits), *stored]


def _restored(stored: Sequence[Tensor], code: Code, dtype: torch.dtype) -> Tensor:
    """The numbers of one round."""
    bits = BITS[code.kind]
    levels = stored[0] if bits == 8 else _unpack(stored[0], bits)
    numbers = levels.to(dtype)
    if code.symmetric and bits < 8:
        numbers -= 2 ** (bits - 1)
    groups, axis = _grouped(numbers, code)
    scale, *low = (t.to(dtype) if axis != -1 else t.to(dtype).unsqueeze(-1) for t in stored[1:])
    groups = groups * scale
    if low:
        groups += low[0]
    return groups if axis != -1 else groups.flatten(-2)


def encode(x: Tensor, code: Code) -> list[Tensor]:
    """What is stored of `x` [B, frames, tokens, ..., width], each tensor [B, frames, ...].

    Arithmetic is in float32, in float64 of such input.
    """
    if code.kind == "exact":
        return [x]
    if code.kind == "bf16":
        return [x.bfloat16()]
    left = x if x.dtype == torch.float64 else x.float()
    left = _mixed(left) if code.hadamard else left
    stored: list[Tensor] = []
    for turn in range(code.rounds + 1):
        stored += (here := _levels(left, code))
        if turn < code.rounds:
            left = left - _restored(here, code, left.dtype)
    return stored


def decode(stored: Sequence[Tensor], code: Code, dtype: torch.dtype = torch.float32) -> Tensor:
    """What `encode` stored, as numbers of `dtype`, float32 or float64: [B, frames, tokens, ..., width]."""
    if not code.scaled:
        return stored[0].to(dtype)
    size = len(stored) // (code.rounds + 1)
    numbers = _restored(stored[:size], code, dtype)
    for first in range(size, len(stored), size):
        numbers += _restored(stored[first : first + size], code, dtype)
    return _mixed(numbers) if code.hadamard else numbers


def _runs(slots: Iterable[int]) -> list[range]:
    """`slots` as runs of neighbours, in the order given."""
    runs: list[range] = []
    for slot in slots:
        if runs and runs[-1].stop == slot:
            runs[-1] = range(runs[-1].start, slot + 1)
        else:
            runs.append(range(slot, slot + 1))
    return runs


def empty_entries(like: Tensor, rows: int) -> Tensor:
    """[B, rows, ...] as `like` [B, L, ...]. Attention reads a head at a time, so heads lie outside rows in memory."""
    batch, _, *heads, width = like.shape
    return like.new_empty(batch, *heads, rows, width).movedim(-2, 1)


class CodedPart:
    """One part of one layer's entries, encoded slot by slot.

    Args:
        tokens: of a latent frame. capacity: slots. sink: first of them, which are kept exact.
        recent: latest frames that are kept exact as well. buffers: by `name`, what all layers decode into.
        in_kernel: whether attention reads codes, so that there is no buffer but while entries are edited.
    """

    def __init__(
        self,
        code: Code,
        tokens: int,
        capacity: int,
        sink: int,
        recent: int,
        name: str,
        buffers: dict[str, Tensor],
        in_kernel: bool = False,
    ) -> None:
        self.code, self.tokens, self.capacity, self.sink, self.recent = code, tokens, capacity, sink, recent
        self.name, self.buffers, self.in_kernel = name, buffers, in_kernel
        self.stored: list[Tensor] = []
        self.exact: Tensor | None = None
        self._like: Tensor | None = None
        self.coded: set[int] = set()
        # Where a slot stands among the exact frames; of recent ones the oldest first.
        self.places: dict[int, int] = {}

    def tensors(self) -> list[Tensor]:
        """What is kept from chunk to chunk."""
        return [*self.stored, *([] if self.exact is None else [self.exact])]

    def window(self, like: Tensor | None = None) -> Tensor:
        """The shared buffer [B, capacity * tokens, ...] with this layer's slots decoded in it.

        Args:
            like: [B, L, ...], what the first call for any layer takes shape and dtype from.
        """
        buffer = self.buffers.get(self.name)
        if buffer is None:
            like = self._like if like is None else like
            assert like is not None
            buffer = self.buffers[self.name] = empty_entries(like, self.capacity * self.tokens)
        self._read(buffer)
        return buffer

    def _rows(self, slots: range) -> slice:
        return slice(slots.start * self.tokens, slots.stop * self.tokens)

    def _read(self, buffer: Tensor) -> None:
        numbers = buffer[:, : self.tokens].numel()
        most = max(1, BLOCK // max(1, numbers))
        for run in _runs(sorted(self.coded - self.places.keys())):
            for first in range(run.start, run.stop, most):
                some = range(first, min(first + most, run.stop))
                stored = [t[:, some.start - self.sink : some.stop - self.sink] for t in self.stored]
                wide = torch.float64 if buffer.dtype == torch.float64 else torch.float32
                buffer[:, self._rows(some)] = decode(stored, self.code, wide).flatten(1, 2)
        for slot, place in self.places.items():
            assert self.exact is not None
            here, there = range(slot, slot + 1), range(place, place + 1)
            buffer[:, self._rows(here)] = self.exact[:, self._rows(there)]

    def keep(self, slots: Sequence[int], rows: Tensor | None = None) -> None:
        """Encode `slots`, the frame that is latest in time last.

        Args:
            rows: theirs in that order, [B, len(slots) * tokens, ...]; what stands in the shared buffer unless given.
        """
        if rows is None:
            buffer = self.buffers[self.name]
            rows = torch.cat([buffer[:, self._rows(run)] for run in _runs(slots)], 1)
        place = {slot: index for index, slot in enumerate(slots)}
        for run in _runs(slot for slot in slots if slot >= self.sink):
            own = rows[:, self._rows(range(place[run.start], place[run.start] + len(run)))]
            fresh = encode(own.reshape(own.shape[0], len(run), self.tokens, *own.shape[2:]), self.code)
            if not self.stored:
                count = self.capacity - self.sink
                self.stored = [t.new_empty(t.shape[0], count, *t.shape[2:]) for t in fresh]
            for tensor, new in zip(self.stored, fresh, strict=True):
                tensor[:, run.start - self.sink : run.stop - self.sink] = new
            self.coded.update(run)
        if self.in_kernel:
            self._like = rows.new_empty(rows.shape[0], 0, *rows.shape[2:])
            self.buffers.pop(self.name, None)
        if self.sink + self.recent:
            self._keep_exact(place, rows)

    def _keep_exact(self, slots: Mapping[int, int], rows: Tensor) -> None:
        """Of `slots`, with their places in `rows`, keep the sink's, and the latest others in place of the oldest."""
        if self.exact is None:
            self.exact = empty_entries(rows, (self.sink + self.recent) * self.tokens)
        recent = [slot for slot in slots if slot >= self.sink]
        for slot in recent:
            self.places.pop(slot, None)
        latest = recent[len(recent) - min(len(recent), self.recent) :]
        aging = [slot for slot in self.places if slot >= self.sink]
        for slot in aging[: max(0, len(aging) + len(latest) - self.recent)]:
            del self.places[slot]
        free = iter(sorted(set(range(self.sink, self.sink + self.recent)) - set(self.places.values())))
        self.places |= {slot: slot for slot in slots if slot < self.sink}
        self.places |= {slot: next(free) for slot in latest}
        for slot in (*(slot for slot in slots if slot < self.sink), *latest):
            here, there = (range(at, at + 1) for at in (slots[slot], self.places[slot]))
            self.exact[:, self._rows(there)] = rows[:, self._rows(here)]

    def encoded(self, own: Tensor, slots: Sequence[int], filled: int) -> EncodedLatents:
        """The first `filled` slots as they are stored.

        Args:
            own: latents of the chunk at work, [B, len(slots) * tokens, width], which stand in `slots`.
        """
        others = {slot for slot in self.coded | self.places.keys() if slot < filled} - set(slots)
        pieces: list[tuple[slice, Callable[[Tensor], Segment]]] = [
            (self._rows(run), partial(self._coded_segment, run)) for run in _runs(sorted(others - self.places.keys()))
        ]
        for slot in sorted(others & self.places.keys()):
            assert self.exact is not None
            there = self._rows(range(self.places[slot], self.places[slot] + 1))
            pieces.append((self._rows(range(slot, slot + 1)), partial(Segment, self.exact[:, there])))
        first, fresh = 0, []
        for run in _runs(slots):
            rows = own[:, self._rows(range(first, first + len(run)))]
            fresh.append((self._rows(run), rows))
            first += len(run)
        pieces += [(where, partial(Segment, rows)) for where, rows in fresh]

        def decoded() -> Tensor:
            window = empty_entries(own, self.capacity * self.tokens)
            self._read(window)
            for where, rows in fresh:
                window[:, where] = rows
            return window[:, : filled * self.tokens]

        return EncodedLatents(filled * self.tokens, own.shape[-1], tuple(pieces), decoded)

    def _coded_segment(self, run: range, keys: Tensor) -> Segment:
        codes, scales = (t[:, run.start - self.sink : run.stop - self.sink].flatten(1, 2) for t in self.stored)
        width = codes.shape[2] * 8 // BITS[self.code.kind]
        shared = self.code.group
        group = shared if isinstance(shared, int) else {"channel": 1, "token": width}[shared]
        return Segment(codes, keys, scales, self.tokens if shared == "channel" else 1, group)
