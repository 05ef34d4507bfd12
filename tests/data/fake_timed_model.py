"""A model whose delays and allocations are put in by hand, so that probes can be checked against them.

With `time: virtual` delays move a counter that a test hands to the clock, exactly; with `time: real` they sleep.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Literal

import numpy as np
from pydantic import Field

from harness.contracts import Agreement, Frames, Json, ModelCard, Options, Request, Spans, VideoModel, no_spans
from harness.contracts.registry import models


class VirtualTime:
    """Nanoseconds that only move when told to."""

    def __init__(self) -> None:
        self.ns = 0

    def now(self) -> int:
        return self.ns

    def advance(self, seconds: float) -> None:
        self.ns += round(seconds * 1e9)


TIME = VirtualTime()


class FakeOptions(Options):
    time: Literal["virtual", "real"] = "virtual"
    text_s: float = 0.0
    prefix_s: float = 0.0
    denoise_s: float = 0.04
    clean_pass_s: float = 0.01
    decode_s: float = 0.02
    to_host_s: float = 0.005
    load_s: float = 0.0
    switch_s: float = 0.0
    states: str = ""
    untimed_s: float = 0.0
    jitter: float = Field(0.0, ge=0, lt=1)
    growth_s: float = 0.0
    first_extra_s: float = 0.0
    first_call_extra_s: float = 0.0
    stall_chunk: int = -1
    stall_s: float = 0.0
    per_request_s: float = 0.0
    frames_per_chunk: int = 3
    temporal_ratio: int = 1
    window_frames: int | None = 9
    frame_rate: float = 16.0
    cached: Literal["no", "request", "anything"] = "no"
    ignore_batch: bool = False
    repeat_clip: bool = False
    weight_bytes: int = 0
    request_bytes: int = 0
    leave_span_open: bool = False
    fail_with: str = ""
    forwards: int = 0
    guided: bool = False
    error: float | Literal["nan"] | None = None
    compared: int = 1
    reference_bytes: int = 0


@models.register("fake/timed")
class FakeTimed(VideoModel):
    schema = FakeOptions

    def __init__(self, options: FakeOptions) -> None:
        super().__init__(options)
        self.weights: np.ndarray | None = None
        self.network: object = None
        self.results: dict[object, list[Frames]] = {}
        self.calls = 0
        self.requests: list[Request] = []

    def describe(self) -> ModelCard:
        o = self.options
        return ModelCard(
            family="fake",
            height=4,
            width=4,
            frame_rate=o.frame_rate,
            frames_per_chunk=o.frames_per_chunk,
            temporal_ratio=o.temporal_ratio,
            window_frames=o.window_frames,
            cache_bytes=o.request_bytes,
            forwards_per_chunk=5,
        )

    def identity(self, device: str) -> Mapping[str, Json]:
        return {}

    def wait(self, seconds: float) -> None:
        if self.options.time == "virtual":
            TIME.advance(seconds)
        elif seconds > 0:
            time.sleep(seconds)

    def load(self, device: str) -> None:
        self.wait(self.options.load_s)
        self.weights = np.ones(self.options.weight_bytes, dtype=np.uint8)
        if self.options.forwards:
            import torch

            torch.manual_seed(0)
            self.network = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Linear(16, 8))

    def unload(self) -> None:
        self.weights = None

    def stream(self, request: Request, spans: Spans = no_spans) -> Iterator[Frames]:
        self.calls += 1
        self.requests.append(request)
        if self.options.fail_with:
            raise RuntimeError(self.options.fail_with)
        kind = self.options.cached
        key: object = "anything" if kind == "anything" else request
        if kind != "no" and key in self.results:
            for chunk in self.results[key]:
                self.wait(0.001)
                yield chunk
            return
        made = []
        for chunk in self.generate(request, spans):
            if kind != "no":
                made.append(chunk)
            yield chunk
        self.results[key] = made

    def switch_frames(self, request: Request) -> list[int | None]:
        """The next chunk's first frame, truly so for `next` alone, which names no stage for it."""
        chunk = self.options.frames_per_chunk
        return [-(-s.frame // chunk) * chunk if self.options.states else None for s in request.switches]

    def agreement(self, request: Request) -> Agreement | None:
        self.held = [*getattr(self, "held", []), request]
        if self.options.error is None:
            return None
        room = np.ones(self.options.reference_bytes * request.batch, dtype=np.uint8)
        return Agreement("slow sums", float(self.options.error), 1e-3, self.options.compared, {"room": room.nbytes})

    def generate(self, request: Request, spans: Spans) -> Iterator[Frames]:
        o = self.options
        caches = [np.ones(o.request_bytes, dtype=np.uint8) for _ in request.prompts]
        random = np.random.default_rng([request.seeds[0], *request.prompts[0].encode()])
        with spans("text"):
            self.wait(o.text_s + (o.first_call_extra_s if self.calls == 1 else 0.0))
        with spans("prefix"):
            self.wait(o.prefix_s)
        pending = list(request.switches)
        done = index = 0
        while done < request.frames:
            count = o.frames_per_chunk
            if o.temporal_ratio > 1 and index == 0:
                count -= o.temporal_ratio - 1
            count = min(count, request.frames - done)
            if o.states == "next":
                if pending and done >= pending[0].frame:
                    pending.pop(0)
                    self.wait(o.switch_s)
            elif pending and done + count > pending[0].frame:
                pending.pop(0)
                with spans("switch"):
                    self.wait(o.switch_s)
            self.steps(index, done, request.batch, random, spans)
            yield self.pixels(request, count, index)
            done += count
            index += 1
        del caches

    def steps(self, index: int, done: int, batch: int, random: np.random.Generator, spans: Spans) -> None:
        o = self.options
        latents = done // o.temporal_ratio
        seen = min(latents, o.window_frames) if o.window_frames is not None else latents
        factor = 1.0 + o.jitter * random.uniform(-1, 1)
        with spans(f"chunk[{index}].denoise"):
            self.wait(o.denoise_s * factor + o.growth_s * seen + o.per_request_s * (batch - 1))
            self.wait(o.first_extra_s if index == 0 else 0.0)
            self.wait(o.stall_s if index == o.stall_chunk else 0.0)
            self.forward(o.forwards, batch)
        with spans(f"chunk[{index}].clean_pass"):
            self.wait(o.clean_pass_s)
        with spans(f"decode[{index}]"):
            self.wait(o.decode_s)
        if o.leave_span_open:
            self.left_open = spans("to_host")
            self.left_open.__enter__()
            return
        with spans("to_host"):
            self.wait(o.to_host_s)
        self.wait(o.untimed_s)

    def forward(self, times: int, batch: int) -> None:
        if times:
            import torch

            rows = 2 * batch if self.options.guided else batch
            for _ in range(times):
                self.network(torch.ones(rows, 8))  # type: ignore[operator]

    def pixels(self, request: Request, count: int, index: int) -> Frames:
        batch = 1 if self.options.ignore_batch else request.batch
        out = np.zeros((batch, count, 4, 4, 3), dtype=np.uint8)
        for clip in range(batch):
            asked = 0 if self.options.repeat_clip else clip
            text = sum(request.prompts[asked].encode())
            out[clip] = (request.seeds[asked] * 31 + text * 7 + index) % 251
            out[clip, :, 0, 0] = request.seeds[asked] % 251
        return out
