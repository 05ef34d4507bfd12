"""A model that needs nothing: a square in a colour and on a path that prompt and seed decide.

It stands in for a model under `harness check PROBE` and in a rehearsal, and is loaded as a plug-in file is.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import numpy as np
from pydantic import Field

from harness.contracts import Frames, ModelCard, Options, Request, Spans, VideoModel, no_spans
from harness.contracts.registry import models


class StandInOptions(Options):
    """Size of the clips.

    Attributes:
        height, width: pixels. chunk: pixel frames of a chunk.
    """

    height: int = Field(32, ge=8, le=4096)
    width: int = Field(32, ge=8, le=4096)
    chunk: int = Field(4, ge=1, le=1000)


@models.register("stand-in")
class StandIn(VideoModel):
    """A moving square, for trying what comes after a model."""

    schema = StandInOptions

    def describe(self) -> ModelCard:
        """A card without weights."""
        options: StandInOptions = self.options
        return ModelCard("stand-in", options.height, options.width, 16.0, options.chunk)

    def batch_may_change_pixels(self, device: str) -> bool:
        """No: each clip is drawn by itself."""
        return False

    def switch_frames(self, request: Request) -> list[int]:
        """At the first chunk that starts there or later."""
        chunk = self.options.chunk
        return [min(request.frames, -(-switch.frame // chunk) * chunk) for switch in request.switches]

    def stream(self, request: Request, spans: Spans = no_spans) -> Iterator[Frames]:
        """Chunks of the square's way."""
        for index, start in enumerate(range(0, request.frames, self.options.chunk)):
            stop = min(request.frames, start + self.options.chunk)
            with spans(f"chunk[{index}].denoise"):
                pixels = np.stack([self._clip(request, number, start, stop) for number in range(request.batch)])
            yield pixels

    def _clip(self, request: Request, number: int, start: int, stop: int) -> Frames:
        height, width = self.options.height, self.options.width
        code = zlib.crc32(f"{request.seeds[number]} {request.prompt(number, start)}".encode("utf-8", "replace"))
        colours = np.frombuffer((code | 1).to_bytes(4, "big") * 2, np.uint8)
        frames = np.empty((stop - start, height, width, 3), np.uint8)
        frames[:] = colours[:3] // 2
        for frame in range(start, stop):
            row, column = (code + frame) % (height - 4), (code // 7 + 2 * frame) % (width - 4)
            frames[frame - start, row : row + 4, column : column + 4] = 255 - colours[3:6] // 2
        return frames
