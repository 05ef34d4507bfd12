"""A value along one clip, as a function of the frame: what every definition of drift is taken from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Series:
    """Value k holds for the frames from `edges[k]` up to `edges[k + 1]`.

    Attributes:
        edges: [n + 1] pixel frames, rising; they may lie within a frame. values: [n]; NaN where undefined.
        frame_rate: frames per second of the clip.
        whole: whether a value stands for a piece as a whole, which may reach further than the next one's edge.
    """

    edges: Floats
    values: Floats
    frame_rate: float
    whole: bool = False

    @property
    def frames(self) -> int:
        """Frames of the clip."""
        return round(float(self.edges[-1]))

    def change(self, earlier: tuple[float, float], later: tuple[float, float]) -> float:
        """The mean over frames `later` less that over `earlier`; NaN where fewer than two values are defined.

        One value for the whole clip says nothing of how it holds.
        """
        if np.count_nonzero(~np.isnan(self.values)) < 2:
            return math.nan
        return self.mean(*later) - self.mean(*earlier)

    def mean(self, first: float, last: float) -> float:
        """The mean over frames `first` up to `last`, a value counted by how many of them it holds for; NaN of none."""
        overlap = np.minimum(self.edges[1:], last) - np.maximum(self.edges[:-1], first)
        weights = np.where(np.isnan(self.values), 0.0, np.maximum(overlap, 0.0))
        total = float(weights.sum())
        return float((weights * np.nan_to_num(self.values)).sum() / total) if total > 0 else math.nan

    def ranges(self, seconds: float) -> list[tuple[int, int]]:
        """Pieces of `seconds` as (first, last + 1), as VBench-Long cuts a clip (vbench2_beta_long/utils.py).

        A rest becomes one more piece that reaches back, so that all are of one length.
        """
        length = max(1, round(seconds * self.frame_rate))
        if self.frames <= length:
            return [(0, self.frames)]
        spans = [(start, start + length) for start in range(0, self.frames - length + 1, length)]
        return spans + [(self.frames - length, self.frames)] * bool(self.frames % length)

    def pieces(self, seconds: float) -> Floats:
        """A value for each piece of `seconds`. Where the samples are of pieces as long or longer, they stay."""
        wide = float(np.median(np.diff(self.edges))) >= 0.75 * seconds * self.frame_rate
        if self.whole and wide:
            return self.values
        return np.array([self.mean(*span) for span in self.ranges(seconds)])

    def parts(self, count: int) -> Floats:
        """The mean of each of `count` parts of equally many whole frames; a rest at the end is left out."""
        length = self.frames // count
        return np.array([self.mean(part * length, (part + 1) * length) for part in range(count)])

    def by_frame(self) -> Floats:
        """The value at the middle of each frame, [frames]."""
        at = np.searchsorted(self.edges, np.arange(self.frames) + 0.5, side="right") - 1
        return self.values[np.clip(at, 0, len(self.values) - 1)]


def of_pieces(values: ArrayLike, starts: Sequence[float], frames: int, frame_rate: float) -> Series | None:
    """Values of pieces that begin at the frames `starts`; None where these do not fit them."""
    numbers, edges = _floats(values), np.array([*starts, frames], np.float64)
    if len(numbers) == 0 or len(edges) != len(numbers) + 1 or edges[0] < 0 or not (np.diff(edges) > 0).all():
        return None
    return Series(edges, numbers, frame_rate, whole=True)


def of_equal_parts(values: ArrayLike, frames: int, frame_rate: float) -> Series | None:
    """Values of equal parts of the clip; None where there is none, or no frame."""
    numbers = _floats(values)
    if len(numbers) == 0 or frames <= 0:
        return None
    return Series(np.linspace(0, frames, len(numbers) + 1), numbers, frame_rate, whole=len(numbers) < frames)


def of_frames(values: ArrayLike, at: Sequence[float], frames: int, frame_rate: float) -> Series | None:
    """Values at the frames `at`, each for the frames that are nearest to it; None where these do not fit them."""
    numbers, places = _floats(values), np.array(at, np.float64)
    if not len(numbers) or len(places) != len(numbers) or places[0] < 0 or places[-1] >= frames:
        return None
    if not (np.diff(places) > 0).all():
        return None
    between = (places[1:] + places[:-1] + 1) / 2
    return Series(np.array([0.0, *between, float(frames)]), numbers, frame_rate)


def _floats(values: ArrayLike) -> Floats:
    return np.asarray(values, np.float64).reshape(-1)
