"""A buffered player on a virtual clock: what a viewer sees of chunks that took so long to make.

The player starts when so many seconds of video are there, or all of it. A frame appears when the one before has stood
for its time and it is there itself: where it is not, the picture stalls, and goes on when it comes. The generator
waits while more than so many seconds are ahead of the picture, as one that answers its viewer must.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

EQUAL_S = 1e-9
"""Seconds by which sums of floating point may differ where they are equal."""


@dataclass(frozen=True, slots=True)
class Playback:
    """One clip as a viewer saw it; all in seconds since the request.

    Attributes:
        started, arrived: [chunks] when the generator began each chunk, and when it was there.
        first: [chunks] number of the first frame of each. there, shown: [frames] when each frame was there, and when it
            appeared.
        frame_rate: of the player, frames per second.
    """

    started: Floats
    arrived: Floats
    first: NDArray[np.int64]
    there: Floats
    shown: Floats
    frame_rate: float

    @property
    def startup_s(self) -> float:
        """Seconds to the first frame."""
        return float(self.shown[0])

    @property
    def stalls_s(self) -> Floats:
        """The length of each stall."""
        waits = np.diff(self.shown) - 1 / self.frame_rate
        return waits[waits > EQUAL_S]

    @property
    def played_s(self) -> float:
        """Seconds of video."""
        return len(self.shown) / self.frame_rate

    @property
    def late(self) -> float:
        """Share of the frames that a clock which starts with the first frame and never waits would find missing."""
        due = self.shown[0] + np.arange(len(self.shown)) / self.frame_rate
        return float((self.there > due + EQUAL_S).mean())

    def switch_s(self, extra_s: float = 0.0) -> Floats:
        """Seconds from a new prompt to the first frame made for it, for a prompt given as each frame appears.

        It holds for the first chunk that the generator begins then or later. Frames after which none is begun are left
        out.

        Args:
            extra_s: by which a switch makes its chunk longer.
        """
        begun = np.searchsorted(self.started, self.shown - EQUAL_S)
        asks = self.shown[begun < len(self.started)]
        chunks = begun[begun < len(self.started)]
        on_screen = np.maximum(self.shown[self.first[chunks]], self.arrived[chunks] + extra_s)
        return np.asarray(on_screen - asks, np.float64)


def play(
    seconds: Sequence[float],
    frames: Sequence[int],
    frame_rate: float,
    buffer_s: float = 0.0,
    ahead_s: float = math.inf,
) -> Playback:
    """Play a clip whose chunk i takes `seconds[i]` to make and holds `frames[i]` frames.

    Args:
        buffer_s: video that must be there before the first frame appears.
        ahead_s: the generator begins no chunk while more than this is ahead of the picture.

    Raises `ValueError` for lengths that differ, no chunk, or a rate that is not positive.
    """
    if not seconds or len(seconds) != len(frames) or min(frames) < 1 or not frame_rate > 0:
        raise ValueError(f"{len(seconds)} chunk times and {len(frames)} chunk lengths at {frame_rate:g} frames/s")
    started, arrived, shown, there = [], [], list[float](), list[float]()
    needed, most = max(1, math.ceil(buffer_s * frame_rate - EQUAL_S)), ahead_s * frame_rate
    at = 0.0
    for number, (duration, count) in enumerate(zip(seconds, frames, strict=True)):
        # Once so many frames have appeared, no more than `ahead_s` is left.
        leaving = len(there) - math.floor(most + EQUAL_S) if shown and math.isfinite(most) else 0
        start = max(at, shown[leaving - 1]) if leaving > 0 else at
        at = start + duration
        started.append(start)
        arrived.append(at)
        there += [at] * count
        if shown:
            for _ in range(count):
                shown.append(max(at, shown[-1] + 1 / frame_rate))
        elif len(there) >= needed or number == len(seconds) - 1:
            shown = [at + place / frame_rate for place in range(len(there))]
    first = np.concatenate([[0], np.cumsum(frames)[:-1]]).astype(np.int64)
    return Playback(np.array(started), np.array(arrived), first, np.array(there), np.array(shown), frame_rate)
