"""Models that end their process, print, and leave their working folder; loaded with `--plugin`."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from harness.contracts import Clip, Frames, Metric, ModelCard, Options, Request, Spans, Value, VideoModel, no_spans
from harness.contracts.registry import metrics, models


class LostOptions(Options):
    """What is done beside grey clips.

    `loads` is a file that gets a line for each load, `load_ends` how loading ends the process, `reads` a file that
    loading needs, and `goes` the folder that loading and streaming go to.
    """

    loads: str = ""
    load_ends: str = ""
    reads: str = ""
    goes: str = ""


def end(how: str) -> None:
    """End this process."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    print("last words")
    if how == "segfault":
        ctypes.string_at(0)
    if how == "exit":
        os._exit(7)
    if how == "abort":
        os.abort()
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "fork":
        # The child keeps every pipe of its parent open.
        if not os.fork():
            time.sleep(600)
        os._exit(8)
    if how == "never":
        time.sleep(3600)
    if how == "close":
        os.closerange(0, 100)
        time.sleep(600)


@models.register("lost/model")
class Lost(VideoModel):
    """Grey clips; a prompt of two words, as in `ends segfault`, says how it ends its process."""

    schema = LostOptions
    unkeyed = ("loads", "goes")

    def describe(self) -> ModelCard:
        return ModelCard("fake", 16, 16, 16.0, 4)

    def batch_may_change_pixels(self, device: str) -> bool:
        return False

    def load(self, device: str) -> None:
        if self.options.loads:
            with Path(self.options.loads).open("a", encoding="utf-8") as file:
                file.write(f"{os.getpid()}\n")
        print("loading it")
        if self.options.reads:
            Path(self.options.reads).read_bytes()
        if self.options.goes:
            os.chdir(self.options.goes)
        if self.options.load_ends:
            end(self.options.load_ends)

    def stream(self, request: Request, spans: Spans = no_spans) -> Iterator[Frames]:
        clips = np.stack([np.full((request.frames, 16, 16, 3), 10 * seed, np.uint8) for seed in request.seeds])
        yield clips[:, :1]
        if self.options.goes:
            os.chdir(self.options.goes)
        for prompt in request.prompts:
            print(f"on standard output: {prompt}")
            print(f"on standard error: {prompt}", file=sys.stderr)
            os.system(f"echo by a program: '{prompt}'")
            word, _, how = prompt.partition(" ")
            if word == "ends":
                end(how)
            if word == "floods":
                for _ in range(64):
                    os.write(1, b"much\n" * (1 << 16))
                os.write(1, b"x" * (1 << 22))
        yield clips[:, 1:]


@metrics.register("lost/brightness")
class Brightness(Metric):
    """Mean pixel, of a metric that leaves its working folder."""

    values = (Value("brightness"),)

    def setup(self, device: str) -> None:
        os.chdir("/")

    def score(self, clip: Clip) -> dict[str, float]:
        os.chdir("/")
        return {"brightness": float(clip.read().mean())}
