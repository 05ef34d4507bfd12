"""A model that says which process made its clips, with how many threads, and that can end that process."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from harness.contracts import ClipFile, Frames, ModelCard, Options, Request, Spans, VideoModel, no_spans
from harness.contracts.registry import models


class ProcessOptions(Options):
    """`log` gets a line for each request; a prompt that holds `dies` or `hangs` ends the process, or stops it.

    One that holds `waits` waits for the file `go` beside the log; `keeps` has its clip in a file there, which it never
    gives back.
    """

    log: str


@models.register("process/model")
class ProcessModel(VideoModel):
    """Grey clips, as bright as their seed."""

    schema = ProcessOptions
    unkeyed = ("log",)

    def describe(self) -> ModelCard:
        return ModelCard("fake", 16, 16, 16.0, 4)

    def batch_may_change_pixels(self, device: str) -> bool:
        return False

    def note(self, text: str) -> None:
        with Path(self.options.log).open("a", encoding="utf-8") as file:
            file.write(f"{os.getpid()} {text}\n")

    def load(self, device: str) -> None:
        self.note(f"load {os.environ.get('OMP_NUM_THREADS')}")

    def file(self, request: Request) -> ClipFile | None:
        keeps = request.prompts == ("it keeps",)
        path = Path(self.options.log).with_suffix(".mp4")
        return ClipFile(path, release=lambda: time.sleep(3600)) if keeps else None

    def stream(self, request: Request, spans: Spans = no_spans) -> Iterator[Frames]:
        self.note(f"batch {request.batch}")
        clips = np.stack([np.full((request.frames, 16, 16, 3), 10 * seed, np.uint8) for seed in request.seeds])
        yield clips[:, :1]
        time.sleep(0.3 * any("slow" in prompt for prompt in request.prompts))
        if any("dies" in prompt for prompt in request.prompts):
            print("last words", flush=True)
        if any("dies" in prompt for prompt in request.prompts):
            os.kill(os.getpid(), signal.SIGKILL)
        until = time.monotonic() + 120
        while any("waits" in prompt for prompt in request.prompts) and time.monotonic() < until:
            time.sleep(0.05)
            until -= 120 * Path(self.options.log).with_name("go").exists()
        if any("hangs" in prompt for prompt in request.prompts):
            self.note("hangs")
            time.sleep(3600)
        if any("raises" in prompt for prompt in request.prompts):
            raise ValueError("by design")
        yield clips[:, 1:]
