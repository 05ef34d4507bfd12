"""A whole adapter of a video model: a red bar that moves. Replace the loop in `stream` by your network."""

from collections.abc import Iterator
from zlib import crc32

import numpy as np

from harness.contracts import Frames, ModelCard, Options, Request, Spans, VideoModel, no_spans
from harness.contracts.registry import models


class BarOptions(Options):
    chunk: int = 4  # frames that one chunk adds; a suite may set it under `options:`


@models.register("lab/bar")
class Bar(VideoModel):
    version = "1"  # raise it with every change that could alter a pixel
    schema = BarOptions

    def describe(self) -> ModelCard:
        return ModelCard(family="bar", height=32, width=32, frame_rate=8.0, frames_per_chunk=self.options.chunk)

    def stream(self, request: Request, spans: Spans = no_spans) -> Iterator[Frames]:
        for index, start in enumerate(range(0, request.frames, self.options.chunk)):
            count = min(self.options.chunk, request.frames - start)
            frames = np.zeros((request.batch, count, 32, 32, 3), np.uint8)
            with spans(f"chunk[{index}].denoise"):
                for clip, seed in enumerate(request.seeds):
                    frames[clip, ..., 2] = crc32(request.prompt(clip, start).encode()) % 256  # a colour for each text
                    for frame in range(count):
                        frames[clip, frame, :, (seed + start + frame) % 32, 0] = 255
            yield frames
