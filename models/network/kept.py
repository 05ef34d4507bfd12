"""What a cache makes of frames that leave its window: averages, and first frames that come back as a sink.

Slots are read and written in place, a few frames at a time; nothing here reads the device.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from videomla_models.ops.rope import RotaryTable, Rotation, rotate
from videomla_models.spec.ring import Placement, Ring
from videomla_models.spec.window import WindowPolicy, walked


class Layer(Protocol):
    """What one layer keeps by slot."""

    def edited(self, slots: Sequence[int]) -> Iterator[Tensor]:
        """Keys, then contents, to change `slots` of them in place; nothing before there are any."""
        ...


@dataclass
class Kept:
    """The frames of a cache that do not stand in its ring as they were made.

    Attributes:
        policy: what to keep. ring: which frame stands in which slot. layers: the entries.
        table: angles of keys. grid: rows and columns of tokens of a frame. spare: slots behind the ring.
        turned: whether a key that all heads share is cached with height and width rotated.
        averaging: whether the averages have begun. copied: whether the first frames stand in the spare slots.
    """

    policy: WindowPolicy
    ring: Ring
    layers: Sequence[Layer]
    table: RotaryTable
    grid: tuple[int, int]
    spare: int
    turned: bool = True
    averaging: bool = False
    copied: bool = False

    def leave(self, placement: Placement) -> None:
        """Take in what `placement` evicts, before its slots are written."""
        if not placement.evicted:
            return
        if self.policy.sink_kind == "average":
            self._into_sink(placement.evicted)
        if self.policy.average_rates:
            self._into_averages(placement.evicted)
        if self.policy.rolls and not self.copied:
            self._copy_first_frames()

    def finish(self, first: int, count: int) -> None:
        """After the clean pass of frames `first` to `first + count - 1`, in a window that rolls its first frames."""
        if not (self.copied and first >= self.ring.capacity):
            return
        frames = range(first - count, first)
        sources = [self.ring.capacity + walked(frame, self.spare, self.policy.sink_kind) for frame in frames]
        targets = [self.ring.slots.index(frame) for frame in frames]
        for layer in self.layers:
            for entries in layer.edited(targets):
                for source, target in zip(sources, targets, strict=True):
                    self._slot(entries, target).copy_(self._slot(entries, source))

    def restart(self) -> None:
        """Forget averages, whose slots a rebuild gives back to frames."""
        self.averaging = False

    @property
    def _tokens(self) -> int:
        return self.grid[0] * self.grid[1]

    def _slot(self, entries: Tensor, slot: int) -> Tensor:
        return entries[:, slot * self._tokens : (slot + 1) * self._tokens]

    def _into_sink(self, evicted: Sequence[int]) -> None:
        """Merge what leaves into the sink, slot by slot: sink = a sink + (1 - a) evicted (Reward Forcing)."""
        decay = self.policy.average_decay
        for layer in self.layers:
            for entries in layer.edited(range(len(evicted))):
                for sink, slot in enumerate(evicted):
                    self._slot(entries, sink).mul_(decay).add_(self._slot(entries, slot), alpha=1 - decay)

    def _into_averages(self, evicted: Sequence[int]) -> None:
        """Move every average towards the mean of what leaves (MemRoPE); the first mean is where they start."""
        rates = self.policy.average_rates
        for layer in self.layers:
            for part, entries in enumerate(layer.edited(range(self.policy.sink, self.policy.fixed))):
                mean = self._mean(entries, evicted, turned=self.turned and part == 0 and entries.dim() == 3)
                for slot, rate in enumerate(rates, self.policy.sink):
                    average = self._slot(entries, slot)
                    if self.averaging:
                        average.mul_(1 - rate).add_(mean, alpha=rate)
                    else:
                        average.copy_(mean)
        self.averaging = True

    def _mean(self, entries: Tensor, slots: Sequence[int], turned: bool) -> Tensor:
        """Of the frames of `slots`, and of their tokens if the policy says so: [B, tokens or 1, ...].

        A key that all heads share is cached with height and width rotated (`turned`): a mean over places takes that
        back, and gives the mean the rotation of each place.
        """
        mean = torch.stack([self._slot(entries, slot) for slot in slots]).mean(0)
        if self.policy.average_over == "frames":
            return mean
        if not turned:
            return mean.mean(1, keepdim=True)
        plane = self.table([0], *self.grid, entries.device)
        back = Rotation(plane.cos, -plane.sin, plane.phase.conj().resolve_conj())
        alike = rotate(mean, back).mean(1, keepdim=True)
        return rotate(alike.expand(mean.shape).contiguous(), plane)

    def _copy_first_frames(self) -> None:
        """Put the first frames behind the ring, before the first of them leaves: they stand in slots 0, 1, …"""
        rows = self.spare * self._tokens
        start = self.ring.capacity * self._tokens
        for layer in self.layers:
            for entries in layer.edited(range(self.ring.capacity, self.ring.capacity + self.spare)):
                entries[:, start : start + rows] = entries[:, :rows]
        self.copied = True
