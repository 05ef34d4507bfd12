"""Plug-ins that say what a worker sees, its devices and its threads, and such as never answer."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from harness.contracts import (
    Clip,
    Frames,
    Measurement,
    Metric,
    ModelCard,
    Options,
    Probe,
    ProbeContext,
    Request,
    Spans,
    Subject,
    Value,
    VideoModel,
    Workload,
    no_spans,
)
from harness.contracts.registry import metrics, models, probes
from harness.system.digests import file_sha256


def seen() -> dict[str, float]:
    """Devices and threads of this process; -1 where it is not told."""
    devices = os.environ.get("CUDA_VISIBLE_DEVICES")
    return {
        "devices": -1.0 if devices is None else float(len([name for name in devices.split(",") if name])),
        "threads": float(os.environ.get("OMP_NUM_THREADS", "-1")),
    }


class FileOptions(Options):
    """`weights` is a file that decides the pixels."""

    weights: str


@models.register("ray/weights")
class Weighted(VideoModel):
    """Clips as bright as the first byte of its weights; it says on its standard error what it sees."""

    schema = FileOptions
    unkeyed = ("weights",)

    def describe(self) -> ModelCard:
        path = Path(self.options.weights)
        return ModelCard("fake", 16, 16, 16.0, 4, weight_digests={"weights": file_sha256(path)})

    def stream(self, request: Request, spans: Spans = no_spans) -> Iterator[Frames]:
        level = Path(self.options.weights).read_bytes()[0]
        yield np.full((request.batch, request.frames, 16, 16, 3), level, np.uint8)


@models.register("ray/sees")
class Sees(VideoModel):
    """Clips whose brightness is ten times the devices, plus the threads."""

    def describe(self) -> ModelCard:
        return ModelCard("fake", 16, 16, 16.0, 4)

    def stream(self, request: Request, spans: Spans = no_spans) -> Iterator[Frames]:
        level = int(50 * (2 + seen()["devices"]) + 5 * seen()["threads"])
        yield np.full((request.batch, request.frames, 16, 16, 3), level, np.uint8)


@metrics.register("ray/sees")
class SeenByMetric(Metric):
    """What the process of a metric sees."""

    values = (Value("devices"), Value("threads"))

    def score(self, clip: Clip) -> Mapping[str, float]:
        return seen()


@probes.register("ray/alone")
class Alone(Probe):
    """When it measured, in seconds of the system's clock, for a third of a second."""

    values = (Value("began"), Value("ended"), Value("threads"))
    needs_model = False

    def measure(self, subject: Subject | None, workload: Workload, context: ProbeContext) -> Measurement:
        began = time.monotonic()
        context.report("a third of a second")
        time.sleep(0.3)
        return Measurement({"began": began, "ended": time.monotonic(), "threads": seen()["threads"]})


class NoteOptions(Options):
    """`log` is a file that gets a line where nothing follows any more."""

    log: str


@metrics.register("ray/hangs")
class Hangs(Metric):
    """One, or nothing for a prompt that says so."""

    schema = NoteOptions
    values = (Value("one"),)

    def score(self, clip: Clip) -> Mapping[str, float]:
        if "never" in clip.prompt:
            note(self.options.log, "hangs")
            time.sleep(3600)
        return {"one": 1.0}


@probes.register("ray/stops")
class Stops(Probe):
    """Stops the worker that measures, and itself."""

    schema = NoteOptions
    values = (Value("one"),)
    needs_model = False

    def measure(self, subject: Subject | None, workload: Workload, context: ProbeContext) -> Measurement:
        note(self.options.log, "hangs")
        os.kill(os.getppid(), signal.SIGSTOP)
        time.sleep(3600)
        return Measurement({"one": 1.0})


def note(log: str, text: str) -> None:
    """Add a line with this process's number."""
    with Path(log).open("a", encoding="utf-8") as file:
        file.write(f"{os.getpid()} {text}\n")
