"""Fakes that write what happens to them, and in which process, into the file that `$EVENTS` names."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
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
from harness.errors import NotAvailable, StorageError


def log(event: str) -> None:
    with Path(os.environ["EVENTS"]).open("a", encoding="utf-8") as file:
        file.write(f"{os.getpid()} {event}\n")


class LoggedOptions(Options):
    name: str = "a"


@models.register("logged/model")
class LoggedModel(VideoModel):
    schema = LoggedOptions

    def describe(self) -> ModelCard:
        return ModelCard(family="fake", height=16, width=16, frame_rate=16.0, frames_per_chunk=4)

    def load(self, device: str) -> None:
        log(f"load {self.options.name}")

    def unload(self) -> None:
        log(f"unload {self.options.name}")

    def stream(self, request: Request, spans: Spans = no_spans) -> Iterator[Frames]:
        print("a model that talks on standard output")
        for index in range(0, request.frames, 4):
            count = min(4, request.frames - index)
            of = zip(request.prompts, request.seeds, strict=True)
            tones = [(7 * sum(prompt.encode()) + seed + index) % 251 for prompt, seed in of]
            yield np.stack([np.full((count, 16, 16, 3), tone, np.uint8) for tone in tones])


@metrics.register("logged/metric")
class LoggedMetric(Metric):
    values = (Value("mean"),)

    def setup(self, device: str) -> None:
        log("setup")

    def score(self, clip: Clip) -> Mapping[str, float]:
        return {"mean": float(clip.read().mean())}

    def close(self) -> None:
        log("close")


class FaultOptions(Options):
    fault: str = ""


@probes.register("logged/probe")
class LoggedProbe(Probe):
    """Streams one clip; `fault` says what else happens."""

    schema = FaultOptions
    values = (Value("frames"), Value("nothing"))

    def measure(self, subject: Subject | None, workload: Workload, context: ProbeContext) -> Measurement:
        assert subject is not None
        log(f"measure {subject.options.get('name', 'a')}")
        fault = self.options.fault
        if fault == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "leaves":
            sys.exit(7)
        if fault == "vanishes":
            os._exit(7)
        if fault == "refused":
            raise StorageError("no room for the tuning file", "free some")
        if fault == "absent":
            raise NotAvailable("no such device", "buy one")
        if fault == "raises":
            raise ZeroDivisionError("by design")
        if fault == "hangs":
            time.sleep(600)
        sizes = self._sizes(subject, workload)
        notes = {"fault": {1, 2} if fault == "notes" else fault, "path": sys.path}
        return Measurement({"frames": sum(sizes), "nothing": float("nan")}, {"frames": sizes}, notes)  # type: ignore[dict-item]

    def _sizes(self, subject: Subject, workload: Workload) -> Sequence[float]:
        wanted = Request(workload.prompts[:1], workload.seeds[:1], workload.frames)
        return [float(chunk.shape[1]) for chunk in subject.load().stream(wanted)]
