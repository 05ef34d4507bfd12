"""Serve requests as they come: Poisson arrivals on the slots of a live model, with queue, latency and goodput."""

from __future__ import annotations

import hashlib
import importlib
import math
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from harness.contracts import (
    Frames,
    Json,
    Measurement,
    ModelCard,
    Options,
    Probe,
    ProbeContext,
    Request,
    Subject,
    Value,
    VideoModel,
    Workload,
    enforce,
)
from harness.errors import ModelFault, OptionError
from harness.probes.timing import agreement
from harness.probes.timing.clock import SECOND, Clock, no_garbage_collection
from harness.probes.timing.contention import watch
from harness.probes.timing.generation import check_workload, generate
from harness.probes.timing.memory import MemoryMeter
from harness.probes.timing.repeat import warm_up
from harness.probes.timing.telemetry import Telemetry
from harness.stats import estimates

NAN = float("nan")
LATE_S = 1e-6
"""Seconds by which sums of clock readings may differ where a chunk is just in time."""


class ServingLoadOptions(Options):
    """The load and the service.

    Attributes:
        rate: requests per second, on average; the gaps between them are exponential (a Poisson process).
        frames: pixel frames of a clip, one of which each request draws; those of the section unless given.
        weights: how often each of `frames` is drawn, relative to the others; equally often unless given.
        requests: how many come. The first finds the service idle.
        seed: of the arrivals and lengths, so that every arm gets the same.
        slots: requests that are served at the same time.
        schedule: `turns` gives every slot a stream of its own, and each makes a chunk in turn, so that a request
            starts as soon as a slot is free. `batches` starts up to `slots` waiting requests as one batch, which is as
            long as its longest clip; the next starts when it is done.
        frame_rate: that a request must keep up with; the model's unless given.
        first_chunk_limit_s: seconds from the arrival, after which a first chunk is too late.
        warmups: generations in a row that must compile nothing before the load begins.
        ceiling_s: seconds after which the service stops; what is not done then is not served.
    """

    rate: float = Field(gt=0, le=1e6)
    frames: tuple[int, ...] = Field((), max_length=100)
    weights: tuple[float, ...] = Field((), max_length=100)
    requests: int = Field(300, ge=1, le=100_000)
    seed: int = Field(0, ge=0)
    slots: int = Field(1, ge=1, le=4096)
    schedule: Literal["turns", "batches"] = "turns"
    frame_rate: float | None = Field(None, gt=0)
    first_chunk_limit_s: float = Field(2.0, gt=0)
    warmups: int = Field(1, ge=1, le=100)
    ceiling_s: float = Field(600.0, gt=0)

    @model_validator(mode="after")
    def _lengths(self) -> ServingLoadOptions:
        if any(count < 1 for count in self.frames):
            raise ValueError("frames must be 1 or more")
        if self.weights and (len(self.weights) != len(self.frames) or min(self.weights) < 0):
            raise ValueError("weights must be one for each of frames, and none below 0")
        if self.weights and not 0 < sum(self.weights) < math.inf:
            raise ValueError("weights must have a sum above 0 that is finite")
        return self


@dataclass(slots=True)
class Visit:
    """One request on its way, in seconds since the load began.

    Attributes:
        number: of the request. frames: of its clip. arrived: when it came. started: when a slot took it.
        chunks: (when it was there, its frames) of each chunk.
    """

    number: int
    frames: int
    arrived: float
    started: float = NAN
    chunks: list[tuple[float, int]] = field(default_factory=list)

    @property
    def served(self) -> int:
        """Frames that are there."""
        return sum(count for _, count in self.chunks)

    @property
    def done(self) -> bool:
        """Whether all are."""
        return self.served >= self.frames

    @property
    def first_chunk_s(self) -> float:
        """Seconds from the arrival to the first chunk."""
        return self.chunks[0][0] - self.arrived if self.chunks else NAN

    def late(self, frame_rate: float) -> int:
        """Chunks that come after the picture, which starts with the first chunk and never waits."""
        start, before, late = self.chunks[0][0] if self.chunks else NAN, 0, 0
        for at, count in self.chunks:
            late += at > start + before / frame_rate + LATE_S
            before += count
        return late


def arrivals(options: ServingLoadOptions, frames: int) -> list[Visit]:
    """The requests: exponential gaps of mean 1 / rate, and lengths drawn by their weights."""
    rng = np.random.default_rng(options.seed)
    times = np.concatenate([[0.0], np.cumsum(rng.exponential(1 / options.rate, options.requests - 1))])
    lengths = options.frames or (frames,)
    weights = np.array(options.weights or [1.0] * len(lengths))
    drawn = rng.choice(lengths, options.requests, p=weights / weights.sum())
    return [Visit(number, int(length), float(at)) for number, (at, length) in enumerate(zip(times, drawn, strict=True))]


# ------------------------------------------------------------------------------------------- the service


@dataclass(slots=True)
class _Stream:
    """Requests that the model answers in one stream, and its chunks."""

    visits: Sequence[Visit]
    chunks: Iterator[Frames]


def serve(
    visits: Sequence[Visit],
    open_stream: Callable[[Sequence[Visit]], Iterator[Frames]],
    now: Callable[[], float],
    sleep: Callable[[float], None],
    *,
    streams: int,
    width: int,
    ceiling_s: float,
) -> tuple[float, bool]:
    """Serve `visits` in the order of their arrival; each holds afterwards what became of it.

    Args:
        open_stream: starts the model on some requests at once.
        now: seconds since the load began. sleep: waits, where nothing is to be done.
        streams: that are open at the same time, and make a chunk in turn. width: requests of one stream at most.
        ceiling_s: seconds after which nothing more is done.

    Returns the seconds in which a stream was at work, and whether all were served.
    """
    coming, waiting, running = deque(visits), deque[Visit](), deque[_Stream]()
    busy = 0.0
    while coming or waiting or running:
        at = now()
        if at >= ceiling_s:
            for stream in running:
                _close(stream)
            return busy, False
        while coming and coming[0].arrived <= at:
            waiting.append(coming.popleft())
        while waiting and len(running) < streams:
            taken = [waiting.popleft() for _ in range(min(width, len(waiting)))]
            for visit in taken:
                visit.started = at
            running.append(_Stream(taken, open_stream(taken)))
        if not running:
            sleep(max(0.0, min(coming[0].arrived, ceiling_s) - at))
            continue
        stream = running.popleft()
        chunk = next(stream.chunks, None)
        there = now()
        busy += there - at
        if chunk is None:
            continue
        for visit in stream.visits:
            if not visit.done:
                visit.chunks.append((there, min(int(chunk.shape[1]), visit.frames - visit.served)))
        if all(visit.done for visit in stream.visits):
            _close(stream)
        else:
            running.append(stream)
    return busy, True


def _close(stream: _Stream) -> None:
    if isinstance(stream.chunks, Generator):
        stream.chunks.close()


# --------------------------------------------------------------------------------------------- the probe


class ServingLoad(Probe):
    """Lets requests come at random to a live model and serves them on a fixed number of slots.

    A request is good where its first chunk is there in `first_chunk_limit_s` and no later chunk comes after the
    picture. `goodput` counts the good ones per second, from the first arrival to the last chunk.
    """

    schema = ServingLoadOptions
    values = (
        Value("offered", "requests/s", "none", "offered"),
        Value("served", "requests/s", "higher", "served"),
        Value("goodput", "requests/s", "higher", "goodput"),
        Value("good_share", "", "higher", "good requests"),
        Value("in_time_share", "", "higher", "first chunks in time"),
        Value("smooth_share", "", "higher", "without a late chunk"),
        Value("video_rate", "s of video per s", "higher", "video served"),
        Value("queue_p50_s", "s", "lower", "queue p50"),
        Value("queue_p90_s", "s", "lower", "queue p90"),
        Value("queue_p99_s", "s", "lower", "queue p99"),
        Value("first_chunk_p50_s", "s", "lower", "first chunk p50"),
        Value("first_chunk_p90_s", "s", "lower", "first chunk p90"),
        Value("first_chunk_p99_s", "s", "lower", "first chunk p99"),
        Value("busy_share", "", "none", "time at work"),
        Value("requests", "", "none", "requests served"),
        Value("peak_bytes", "B", "lower", "peak memory"),
        Value("converged", "", "none", "all served"),
        Value("contended", "", "none", "contended"),
        Value("agreement_error", "", "none", "relative error against the reference"),
    )

    def __init__(
        self, options: Options, clock: Clock | None = None, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        super().__init__(options)
        self._clock = clock
        self._sleep = sleep

    def tiny(self) -> Mapping[str, Json]:
        """Three requests of the section's length, soon after each other."""
        return {"requests": 3, "rate": 20.0, "frames": [], "weights": [], "warmups": 1, "ceiling_s": 30.0}

    def check(self, model: VideoModel, workload: Workload) -> None:
        """Refuse prompt switches."""
        if workload.switches:
            raise OptionError("it takes no prompt switches", "leave `switches` out of its section")

    def measure(self, subject: Subject | None, workload: Workload, context: ProbeContext) -> Measurement:
        """Load, check, warm up, and serve. `converged` says whether all requests were served before the ceiling.

        Raises `ModelFault` where two streams of the model disturb each other.
        """
        assert subject is not None
        check_workload("serving", workload)
        options: ServingLoadOptions = self.options
        importlib.import_module("torch")  # or its own size would count as the model's memory
        clock, telemetry = self._clock or Clock(subject.device), Telemetry(subject.device)
        meter = MemoryMeter(subject.device)
        model = subject.load()
        meter.follow(model)
        telemetry.follow(model)
        streams, width = (options.slots, 1) if options.schedule == "turns" else (1, options.slots)
        one = replace(workload, batch=1)
        with context.spans("agreement"):
            agreed = agreement.take(model, one, subject.card)
        visits = arrivals(options, workload.frames)
        shortest = replace(one, frames=min(visit.frames for visit in visits))
        if streams > 1:
            with context.spans("streams"):
                _check_streams(model, shortest, subject.card)
        with context.spans("warm-up"):
            filled = replace(shortest, batch=width)
            warm_up(clock, _generation(clock, model, filled, subject.card), options.warmups, options.warmups + 7)
        meter.reset()
        open_stream = _opener(model, one, subject.card, width)
        with watch(telemetry) as other_work, context.spans("load"), no_garbage_collection():
            begin = clock.point()
            busy, finished = serve(
                visits,
                open_stream,
                lambda: (clock.now() - begin) / SECOND,
                self._sleep,
                streams=streams,
                width=width,
                ceiling_s=options.ceiling_s,
            )
            seconds = (clock.point() - begin) / SECOND
        rate = options.frame_rate or subject.card.frame_rate
        notes: dict[str, Json] = {
            "streams": streams,
            "width": width,
            "frame_rate": rate,
            "device_after": telemetry.snapshot(),
            "other_work": other_work.to_json(),
            "flags": telemetry.flags(),
        }
        values = {**summary(visits, options, rate, seconds, busy), "peak_bytes": meter.peak()["peak_bytes"]}
        return Measurement(
            values,
            samples(visits, rate),
            notes,
            converged=finished,
            contended=other_work.contended,
            agreement=agreed,
        )


def _generation(clock: Clock, model: VideoModel, workload: Workload, card: ModelCard) -> Callable[[int], object]:
    return lambda number: generate(clock, model, workload.request(number), card)


def _opener(
    model: VideoModel, workload: Workload, card: ModelCard, width: int
) -> Callable[[Sequence[Visit]], Iterator[Frames]]:
    """Starts the model on some requests at once, as a batch of `width`."""

    def open_stream(taken: Sequence[Visit]) -> Iterator[Frames]:
        requests = [replace(workload, frames=visit.frames).request(visit.number) for visit in taken]
        # A batch is filled up, so that its shape is the one that was warmed up; the rest of it belongs to nobody.
        filled = [requests[place % len(requests)] for place in range(width)]
        return enforce.chunks(model, _together(filled), card)

    return open_stream


def _together(requests: Sequence[Request]) -> Request:
    """One request for all of these, as long as the longest."""
    return Request(
        tuple(prompt for request in requests for prompt in request.prompts),
        tuple(seed for request in requests for seed in request.seeds),
        max(request.frames for request in requests),
    )


def _check_streams(model: VideoModel, workload: Workload, card: ModelCard) -> None:
    """Raise `ModelFault` unless two streams that take turns give what each gives alone."""
    requests = [workload.request(number) for number in (0, 1)]
    alone = [_digest(enforce.chunks(model, request, card)) for request in requests]
    streams = [enforce.chunks(model, request, card) for request in requests]
    hashes = [hashlib.sha256() for _ in requests]
    open_streams = {0, 1}
    while open_streams:
        for number in sorted(open_streams):
            chunk = next(streams[number], None)
            if chunk is None:
                open_streams.discard(number)
            else:
                hashes[number].update(np.ascontiguousarray(chunk).data)
    if [each.hexdigest() for each in hashes] != alone:
        raise ModelFault(
            "two streams of the model that take turns give other pixels than each gives alone",
            "set `schedule: batches`",
        )


def _digest(chunks: Iterator[Frames]) -> str:
    hashed = hashlib.sha256()
    for chunk in chunks:
        hashed.update(np.ascontiguousarray(chunk).data)
    return hashed.hexdigest()


def summary(
    visits: Sequence[Visit], options: ServingLoadOptions, frame_rate: float, seconds: float, busy: float
) -> dict[str, float]:
    """The headline values. A request that was not served is good in no way."""
    served = [visit for visit in visits if visit.done]
    in_time = [visit.first_chunk_s <= options.first_chunk_limit_s for visit in visits]
    smooth = [visit.done and visit.late(frame_rate) == 0 for visit in visits]
    good = [first and later for first, later in zip(in_time, smooth, strict=True)]
    queue = [visit.started - visit.arrived for visit in visits if visit.started == visit.started]
    first = [visit.first_chunk_s for visit in visits if visit.chunks]
    last = max(visit.arrived for visit in visits)
    percentiles = {
        f"{name}_p{percent}_s": estimates.percentile(numbers, percent) if numbers else NAN
        for name, numbers in (("queue", queue), ("first_chunk", first))
        for percent in (50, 90, 99)
    }
    return {
        "offered": (len(visits) - 1) / last if last > 0 else NAN,
        "served": len(served) / seconds if seconds > 0 else NAN,
        "goodput": sum(good) / seconds if seconds > 0 else NAN,
        "good_share": sum(good) / len(visits),
        "in_time_share": sum(in_time) / len(visits),
        "smooth_share": sum(smooth) / len(visits),
        "video_rate": sum(visit.served for visit in visits) / frame_rate / seconds if seconds > 0 else NAN,
        **percentiles,
        "busy_share": busy / seconds if seconds > 0 else NAN,
        "requests": float(len(served)),
    }


def samples(visits: Sequence[Visit], frame_rate: float) -> Mapping[str, Sequence[float]]:
    """One number a request, in the order of arrival; NaN where it did not come so far."""
    return {
        "arrived_s": [visit.arrived for visit in visits],
        "clip_frames": [float(visit.frames) for visit in visits],
        "queue_s": [visit.started - visit.arrived for visit in visits],
        "first_chunk_s": [visit.first_chunk_s for visit in visits],
        "done_s": [visit.chunks[-1][0] - visit.arrived if visit.done else NAN for visit in visits],
        "late_chunks": [float(visit.late(frame_rate)) for visit in visits],
    }
