"""Window policies as data, and the bookkeeping of a ring of latent frames; torch-free, all positions host integers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from harness.errors import OptionError
from videomla_models.spec.config import SamplerConfig


@dataclass(frozen=True, slots=True)
class WindowPolicy:
    """Which latent frames attention sees, and where they stand.

    Attributes:
        frames: size of the window. sink: first frames that are never evicted.
        counts_sink, counts_current: whether `frames` includes the sink and the chunk being denoised. The public
            codebases include both (Self-Forcing `local_attn_size`); VideoMLA's text can be read either way.
        sink_kind: `kept` as first written, or a running `average` of what is evicted (Reward Forcing).
        average_decay: weight of the old sink in that average.
        rotation: keys are rotated at `write`, or kept unrotated and rotated at each `read`.
        positions: `absolute` frame index, or `relative` to the window, 0 for its oldest frame.
        switch: what a new prompt does to the cache: `keep` it, `rebuild` it from the finished frames of the window
            in one pass (LongLive), or `flush` it to the sink and the `flush_keep` latest frames (Infinity-RoPE).
        keep_sink_on_rebuild: LongLive's `global_sink`.
        schedule: `chunk` by chunk; `rolling` joint denoising of several noise levels (Rolling Forcing); or `restart`,
            chunk by chunk until the window is full, then anew on its last chunk, whose first latent frame becomes an
            image encoded again (CausVid).
    """

    frames: int
    sink: int = 0
    counts_sink: bool = True
    counts_current: bool = True
    sink_kind: Literal["kept", "average"] = "kept"
    average_decay: float = 0.999
    rotation: Literal["write", "read"] = "write"
    positions: Literal["absolute", "relative"] = "absolute"
    switch: Literal["keep", "rebuild", "flush"] = "keep"
    flush_keep: int = 2
    keep_sink_on_rebuild: bool = False
    schedule: Literal["chunk", "rolling", "restart"] = "chunk"

    def capacity(self, chunk: int) -> int:
        """Latent frames that the cache holds for chunks of `chunk` frames; checks the policy against them."""
        self._check(chunk)
        total = self.frames
        total += 0 if self.counts_sink else self.sink
        total += 0 if self.counts_current else chunk
        if total < self.sink + chunk:
            raise OptionError(
                f"window of {total} frames cannot hold its sink of {self.sink} and a chunk of {chunk}",
                f"set window.frames to at least {self.frames + self.sink + chunk - total}",
            )
        if self.sink_kind == "average" and (total - self.sink) % chunk:
            raise OptionError(
                f"an averaged sink needs whole chunks to leave: {total - self.sink} recent frames, chunks of {chunk}",
                f"set window.frames to {total - (total - self.sink) % chunk}",
            )
        return total

    def _check(self, chunk: int) -> None:
        allowed = {
            "sink_kind": ("kept", "average"),
            "rotation": ("write", "read"),
            "positions": ("absolute", "relative"),
            "switch": ("keep", "rebuild", "flush"),
            "schedule": ("chunk", "rolling", "restart"),
        }
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise OptionError(f"window.{name} is {getattr(self, name)!r}", f"choose one of {', '.join(values)}")
        if self.frames < 1 or self.sink < 0 or chunk < 1:
            raise OptionError(
                f"window.frames {self.frames}, sink {self.sink}, chunk {chunk}: out of range",
                "frames and chunk are at least 1, sink at least 0",
            )
        if self.rotation == "write" and self.positions == "relative":
            raise OptionError(
                "window.positions relative needs keys that are rotated at read", "set window.rotation to read"
            )
        if self.sink_kind == "average" and not (self.sink == chunk and 0 < self.average_decay < 1):
            raise OptionError(
                f"an averaged sink of {self.sink} frames does not fit chunks of {chunk}",
                f"set window.sink to {chunk}, and average_decay between 0 and 1",
            )
        if self.sink_kind == "average" and self.rotation == "write":
            raise OptionError("an averaged sink needs unrotated keys", "set window.rotation to read")
        if self.schedule == "restart" and (self.sink or self.frames % chunk or self.frames < 2 * chunk):
            raise OptionError(
                f"a window of {self.frames} frames with a sink of {self.sink} cannot restart on a chunk of {chunk}",
                f"set window.sink to 0, and window.frames to a multiple of {chunk}, at least {2 * chunk}",
            )
        if self.switch == "flush" and (self.sink < 1 or self.flush_keep < 1):
            raise OptionError("window.switch flush needs a sink and flush_keep of at least 1", "set window.sink to 1")


def check_rolling(policy: WindowPolicy, chunk: int, sampler: SamplerConfig, attention: str) -> None:
    """Raise `OptionError` where the rolling schedule cannot run so."""
    if policy.sink != chunk or sampler.guidance != 1 or attention == "linear":
        raise OptionError(
            "the rolling schedule needs a sink of one chunk, no guidance, and a cache of keys",
            f"set window.sink to {chunk} and sampler.guidance to 1",
        )


@dataclass(frozen=True, slots=True)
class Run:
    """`length` consecutive frames: slots from `slot` on take the chunk's frames from `start` on."""

    slot: int
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a chunk's frames go, and what leaves for them.

    Attributes:
        runs: the chunk's frames in order, as runs of slots (one, or two where the ring wraps).
        evicted: slots, oldest frame first, whose frames leave; they are among the slots of `runs`.
    """

    runs: tuple[Run, ...]
    evicted: tuple[int, ...]


@dataclass
class Ring:
    """Frame numbers by slot: `sink` fixed slots, then a ring in which new frames replace the oldest. No data moves.

    Slots fill in order, so the filled ones are always a prefix.
    """

    capacity: int
    sink: int
    slots: list[int] = field(default_factory=list)

    def place(self, first: int, count: int) -> Placement:
        """Take in frames `first` to `first + count - 1`; frames that are already in keep their slots."""
        where = {frame: slot for slot, frame in enumerate(self.slots)}
        chosen: list[int] = []
        evicted: list[int] = []
        for frame in range(first, first + count):
            if frame not in where and len(self.slots) < self.capacity:
                self.slots.append(frame)
                where[frame] = len(self.slots) - 1
            elif frame not in where:
                slot = min(range(self.sink, self.capacity), key=self.slots.__getitem__)
                # The oldest frame is one of this chunk's: it would leave before its own pass.
                if self.slots[slot] >= first:
                    raise OptionError(
                        f"{count} frames do not fit a window of {self.capacity} with a sink of {self.sink}",
                        "use a larger window or a smaller chunk",
                    )
                evicted.append(slot)
                self.slots[slot] = frame
                where[frame] = slot
            chosen.append(where[frame])
        return Placement(_runs(chosen), tuple(evicted))

    def keep(self, latest: int) -> list[int]:
        """Forget all but the sink and the `latest` newest frames; returns the slots to keep, in order of time."""
        order = sorted(range(len(self.slots)), key=self.slots.__getitem__)
        recent = [slot for slot in order if slot >= self.sink]
        kept = [slot for slot in order if slot < self.sink] + recent[max(0, len(recent) - latest) :]
        self.slots = [self.slots[slot] for slot in kept]
        return kept

    def restart(self, frames: Sequence[int]) -> None:
        """Hold exactly `frames`, in slots 0, 1, …; the first `sink` of them become the sink."""
        self.slots = list(frames)

    def positions(self, kind: Literal["absolute", "relative"]) -> list[int]:
        """Temporal position of every filled slot: its frame number, or its rank in time within the window."""
        if kind == "absolute":
            return list(self.slots)
        rank = {frame: index for index, frame in enumerate(sorted(self.slots))}
        return [rank[frame] for frame in self.slots]


def _runs(slots: Sequence[int]) -> tuple[Run, ...]:
    runs: list[Run] = []
    for start, slot in enumerate(slots):
        if runs and runs[-1].slot + runs[-1].length == slot:
            runs[-1] = Run(runs[-1].slot, runs[-1].start, runs[-1].length + 1)
        else:
            runs.append(Run(slot, start, 1))
    return tuple(runs)
