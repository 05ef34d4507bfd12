"""Stripes that drift: the smallest model that keeps the contract."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import numpy as np
from pydantic import Field

from harness.contracts import Frames, ModelCard, Options, Request, Spans, VideoModel, no_spans


class StripesOptions(Options):
    """`chunk`: frames that one chunk adds."""

    chunk: int = Field(default=4, ge=1)


class Stripes(VideoModel):
    """Red stripes whose width the prompt decides and whose start the seed decides."""

    version = "1"
    schema = StripesOptions

    def describe(self) -> ModelCard:
        """The card."""
        return ModelCard(family="stripes", height=32, width=32, frame_rate=16.0, frames_per_chunk=self.options.chunk)

    def stream(self, request: Request, spans: Spans = no_spans) -> Iterator[Frames]:
        """Stripes, `chunk` frames at a time."""
        for start in range(0, request.frames, self.options.chunk):
            count = min(self.options.chunk, request.frames - start)
            chunk = np.zeros((request.batch, count, 32, 32, 3), np.uint8)
            with spans(f"chunk[{start // self.options.chunk}].denoise"):
                for clip, seed in enumerate(request.seeds):
                    period = 4 + (zlib.crc32(request.prompt(clip, start).encode()) >> 4) % 8
                    for frame in range(count):
                        columns = (np.arange(32) + seed + start + frame) % period < period // 2
                        chunk[clip, frame, :, columns, 0] = 255
            yield chunk
