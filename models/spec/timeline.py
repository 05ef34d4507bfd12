"""Where in a clip each chunk stands: pixel frames against latent ones, for plans and rollouts alike; torch-free.

A causal VAE decodes the first latent frame of a stream to one pixel frame and each later one to `ratio` (Wan2.1: four).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Leg:
    """One rollout of a clip, with a cache and a decoder of its own; a clip is one leg unless its window restarts.

    Attributes:
        prefix: latent frames that it continues. chunks: chunks that it makes.
        at: pixel frame of the clip with which it starts. skip: pixel frames of its decoder's that come before that.
        frames: pixel frames that it gives.
    """

    prefix: int
    chunks: int
    at: int
    skip: int
    frames: int


@dataclass(frozen=True, slots=True)
class Timeline:
    """The chunks of a model's clips.

    Attributes:
        chunk: latent frames of one. ratio: pixel frames of a latent frame after the first.
        prefix: latent frames that the clip continues, no part of it. least: chunks that must be made at least.
        window: latent frames of a rollout, after which it restarts on its last chunk (CausVid); 0 where it never does.
    """

    chunk: int
    ratio: int
    prefix: int = 0
    least: int = 1
    window: int = 0

    def pixels(self, latents: int) -> int:
        """Pixel frames that a decoder makes of its first `latents` frames."""
        return 1 + self.ratio * (latents - 1) if latents else 0

    def latents(self, frames: int) -> int:
        """The fewest latent frames that a decoder makes `frames` pixel frames of."""
        return 1 + -(-(frames - 1) // self.ratio) if frames else 0

    def legs(self, frames: int) -> list[Leg]:
        """The rollouts that make a clip of `frames` pixel frames.

        Where one window does not suffice, each rollout gives way to the next as in CausVid's
        `longvideo_autoregressive_inference.py` with an overlap of one chunk, and the clip is the first `frames` of what
        that writes: 72 of every window of 81 pixel frames.
        """
        skip = self.pixels(self.prefix)
        if not self.window or frames + skip <= self.pixels(self.window):
            return [self._leg(self.prefix, 0, skip, frames)]
        room = self.pixels(self.window) - self.pixels(self.chunk)
        legs = [self._leg(self.prefix, 0, skip, room - skip)]
        at = room - skip
        while at < frames:
            legs.append(self._leg(self.chunk, at, 0, min(room, frames - at)))
            at += room
        return legs

    def _leg(self, prefix: int, at: int, skip: int, frames: int) -> Leg:
        more = self.latents(skip + frames) - prefix
        return Leg(prefix, max(self.least, -(-more // self.chunk)), at, skip, frames)

    def starts(self, leg: Leg) -> list[int]:
        """The pixel frame of the clip with which each chunk of `leg` starts."""
        return [leg.at + self.pixels(leg.prefix + k * self.chunk) - leg.skip for k in range(leg.chunks)]

    def switched(self, asked: Sequence[int], frames: int) -> list[int]:
        """For each pixel frame, the first frame of the first chunk at or after it; `frames` where there is none."""
        starts = [start for leg in self.legs(frames) for start in self.starts(leg) if start < frames]
        return [[*starts, frames][bisect_left(starts, frame)] for frame in asked]
