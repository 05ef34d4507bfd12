"""The bookkeeping of a ring of latent frames; torch-free, all positions host integers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from harness.errors import OptionError


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

    def positions(self, kind: Literal["absolute", "relative"], span: int = 0) -> list[int]:
        """Temporal position of every filled slot: its frame number, or its rank in time within the window.

        With a `span`, frames behind the sink have the rank that they have in a window of so many.
        """
        if kind == "absolute":
            return list(self.slots)
        rank = {frame: index for index, frame in enumerate(sorted(self.slots))}
        gap = min(max(self.slots), span - 1) - (len(self.slots) - 1) if span and self.slots else 0
        return [rank[frame] + (gap if slot >= self.sink else 0) for slot, frame in enumerate(self.slots)]


def _runs(slots: Sequence[int]) -> tuple[Run, ...]:
    runs: list[Run] = []
    for start, slot in enumerate(slots):
        if runs and runs[-1].slot + runs[-1].length == slot:
            runs[-1] = Run(runs[-1].slot, runs[-1].start, runs[-1].length + 1)
        else:
            runs.append(Run(slot, start, 1))
    return tuple(runs)
