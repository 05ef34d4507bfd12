"""Models, metrics and probes with one fault each, beside ones without any; loaded with `--plugin`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from zlib import crc32

import numpy as np

from harness.contracts import (
    Agreement,
    Clip,
    Frames,
    Json,
    Measurement,
    Metric,
    ModelCard,
    Options,
    Probe,
    ProbeContext,
    ProbeTable,
    Request,
    Spans,
    Subject,
    Value,
    VideoModel,
    Workload,
    no_spans,
)
from harness.contracts.registry import metrics, models, probes
from harness.errors import OptionError

SIZE, CHUNK = 8, 4


@models.register("right/noise")
class Right(VideoModel):
    """Noise that seed, prompt in force and frame decide; a batch moves single pixels by one level, as rounding does."""

    span = "chunk[{}].denoise"
    parameters = 10

    def describe(self) -> ModelCard:
        return ModelCard("noise", SIZE, SIZE, 8.0, CHUNK, parameters=self.parameters)

    def switch_frames(self, request: Request) -> list[int | None]:
        return [min(request.frames, -(-switch.frame // CHUNK) * CHUNK) for switch in request.switches]

    def stream(self, request: Request, spans: Spans = no_spans) -> Iterator[Frames]:
        for index, start in enumerate(range(0, request.frames, CHUNK)):
            frames = range(start, min(request.frames, start + CHUNK))
            with spans(self.span.format(index)):
                clips = np.stack([self.clip(request, number, frames) for number in range(request.batch)])
            if request.batch > 1:
                clips[..., 0, 0, 0] ^= 1
            yield clips

    def clip(self, request: Request, number: int, frames: range) -> Frames:
        return np.stack(
            [self.frame(self.seed(request, number), self.text(request, number, frames[0]), f) for f in frames]
        )

    def seed(self, request: Request, number: int) -> int:
        return request.seeds[number]

    def text(self, request: Request, number: int, frame: int) -> str:
        return request.prompt(number, frame)

    def frame(self, seed: int, text: str, frame: int) -> Frames:
        return np.random.default_rng([seed, crc32(text.encode()), frame]).integers(0, 256, (SIZE, SIZE, 3), np.uint8)


@models.register("wrong/seed")
class NoSeed(Right):
    """Knows no seed."""

    def seed(self, request: Request, number: int) -> int:
        return 0


@models.register("wrong/prompt")
class NoPrompt(Right):
    """Knows no prompt."""

    def text(self, request: Request, number: int, frame: int) -> str:
        return ""


@models.register("wrong/one_stream")
class OneStream(Right):
    """Draws the noise of the whole batch from the first seed."""

    def seed(self, request: Request, number: int) -> int:
        return request.seeds[0] + 1000 * number


@models.register("wrong/one_prompt")
class OnePrompt(Right):
    """Has the first prompt for every clip of a batch."""

    def text(self, request: Request, number: int, frame: int) -> str:
        return request.prompt(0, frame)


@models.register("wrong/unseeded")
class Unseeded(Right):
    """Draws from the process' own noise."""

    def frame(self, seed: int, text: str, frame: int) -> Frames:
        return np.random.default_rng().integers(0, 256, (SIZE, SIZE, 3), np.uint8)


@models.register("wrong/frozen")
class Frozen(Right):
    """Makes its first frame again and again."""

    def frame(self, seed: int, text: str, frame: int) -> Frames:
        return super().frame(seed, text, 0)


@models.register("wrong/black")
class Black(Right):
    """Casts pixels in 0 to 1 to whole numbers."""

    def frame(self, seed: int, text: str, frame: int) -> Frames:
        return (super().frame(seed, text, frame) / 256).astype(np.uint8)


@models.register("wrong/span")
class Span(Right):
    """Misspells a stage."""

    span = "chunk[{}].denoize"


@models.register("wrong/switch")
class NoSwitch(Right):
    """Takes a prompt switch and does nothing with it."""

    def text(self, request: Request, number: int, frame: int) -> str:
        return request.prompts[number]


@models.register("wrong/early_switch")
class EarlySwitch(Right):
    """Switches a chunk before the frame that it states."""

    def text(self, request: Request, number: int, frame: int) -> str:
        return request.prompt(number, frame + CHUNK)


@models.register("wrong/agreement")
class Disagrees(Right):
    """Its fast path is far from its reference."""

    def agreement(self, request: Request) -> Agreement:
        return Agreement("a sum", 0.5, 1e-3, 1)


@models.register("wrong/left")
class KeepsState(Right):
    """Goes on from where a stream was left."""

    left = 0

    def stream(self, request: Request, spans: Spans = no_spans) -> Iterator[Frames]:
        type(self).left += 1
        yield from super().stream(request, spans)
        type(self).left -= 1

    def seed(self, request: Request, number: int) -> int:
        return request.seeds[number] + 100 * (self.left - 1)


@models.register("wrong/waits")
class Waits(Right):
    """Never gives a second chunk."""

    def stream(self, request: Request, spans: Spans = no_spans) -> Iterator[Frames]:
        yield next(iter(super().stream(request, spans)))
        while True:
            time.sleep(0.01)


class SizeOptions(Options):
    """Whether it is small."""

    small: bool = False


@models.register("right/large")
class Large(Right):
    """Too large to be run unasked, but for its tiny size."""

    schema = SizeOptions

    def describe(self) -> ModelCard:
        return ModelCard("noise", SIZE, SIZE, 8.0, CHUNK, parameters=10 if self.options.small else 10**9)

    def tiny(self) -> Mapping[str, Json]:
        return {"small": True}

    def load(self, device: str) -> None:
        if not self.options.small:
            raise MemoryError("too large for this machine")


@models.register("wrong/tiny")
class WrongTiny(Large):
    """Its tiny size has an option that it does not take."""

    def tiny(self) -> Mapping[str, Json]:
        return {"smal": True}


@models.register("right/no_switch")
class RefusesSwitch(NoSwitch):
    """Refuses what it does not do."""

    def check_request(self, request: Request) -> None:
        super().check_request(request)
        if request.switches:
            raise OptionError("it takes no prompt switch", "leave it out")


# --------------------------------------------------------------------------------------------- metrics


@metrics.register("right/two")
class Two(Metric):
    """Two numbers and their sum, which is left out where one is missing."""

    values = (Value("one", low=0.0, high=1.0), Value("two"))
    derived = (Value("sum"),)

    def score(self, clip: Clip) -> Mapping[str, float]:
        return {"one": float(clip.read().mean() / 255), "two": float(clip.frames)}

    def samples(self) -> Mapping[str, Sequence[float]]:
        return {"each": [1.0, 2.0]}

    def derive(self, means: Mapping[str, float]) -> Mapping[str, float]:
        return {"sum": means["one"] + means["two"]}


@metrics.register("wrong/derive_some")
class DeriveSome(Two):
    """Takes every mean for granted."""

    def derive(self, means: Mapping[str, float]) -> Mapping[str, float]:
        first, second = means.values()
        return {"sum": first + second}


@metrics.register("wrong/derive_undefined")
class DeriveUndefined(Two):
    """Rounds a mean that may be undefined."""

    def derive(self, means: Mapping[str, float]) -> Mapping[str, float]:
        return {"sum": float(round(means["one"]))}


@metrics.register("wrong/derive_none")
class DeriveNone(Two):
    """Divides by the number of means."""

    def derive(self, means: Mapping[str, float]) -> Mapping[str, float]:
        return {"sum": sum(means.values()) / len(means)}


@metrics.register("wrong/derive_name")
class DeriveName(Two):
    """Derives what it does not declare."""

    def derive(self, means: Mapping[str, float]) -> Mapping[str, float]:
        return {"sum": 1.0, "total": 1.0}


@metrics.register("wrong/derive_lacks")
class DeriveLacks(Two):
    """Never derives what it declares."""

    def derive(self, means: Mapping[str, float]) -> Mapping[str, float]:
        return {}


@metrics.register("wrong/samples")
class WrongSamples(Two):
    """Its samples before the first score are none."""

    kept: Any = None

    def samples(self) -> Mapping[str, Sequence[float]]:
        return {"each": self.kept}


@metrics.register("wrong/keep")
class WrongKeep(Two):
    """Counts clips that do not define a value."""

    def keep(self, name: str, prompts: Sequence[int], scores: Sequence[float]) -> Sequence[bool]:
        return [True for _ in scores]


@metrics.register("wrong/asked")
class WrongAsked(Two):
    """Is asked for what it does not have."""

    def asked_for(self) -> list[str]:
        return ["one", "three"]


@metrics.register("wrong/aggregate")
class WrongAggregate(Two):
    """Counts in whole numbers."""

    def aggregate(self, name: str, scores: Sequence[float]) -> float:
        return len(scores)


@metrics.register("wrong/random")
class RandomScore(Two):
    """Scores the same clip twice in two ways."""

    def score(self, clip: Clip) -> Mapping[str, float]:
        return {"one": float(np.random.default_rng().random()), "two": 0.0}


@metrics.register("wrong/one_frame")
class NeedsTwoFrames(Two):
    """Compares neighbouring frames, of which a clip of one frame has none."""

    def score(self, clip: Clip) -> Mapping[str, float]:
        return {"one": 0.5, "two": 1 / (clip.frames - 1)}


@metrics.register("right/elsewhere")
class Elsewhere(Two):
    """Runs in an environment of its own."""

    environment = "quality"


# ---------------------------------------------------------------------------------------------- probes


class CountOptions(Options):
    """How often it measures."""

    times: int = 10**9


@probes.register("right/count")
class Count(Probe):
    """Counts the frames of a clip; as often as its options say, which are many."""

    schema = CountOptions
    values = (Value("frames"), Value("times"))

    def tiny(self) -> Mapping[str, Json]:
        return {"times": 1}

    def measure(self, subject: Subject | None, workload: Workload, context: ProbeContext) -> Measurement:
        assert subject is not None
        model = subject.load()
        sizes = [chunk.shape[1] for _ in range(self.options.times) for chunk in model.stream(workload.request(0))]
        return Measurement({"frames": float(sum(sizes)), "times": float(self.options.times)})


@probes.register("right/picky")
class Picky(Count):
    """Takes a model of its own kind alone."""

    def measure(self, subject: Subject | None, workload: Workload, context: ProbeContext) -> Measurement:
        assert subject is not None
        if subject.name != "right/noise":
            raise OptionError(f"{subject.name} is no noise", "name right/noise")
        return super().measure(subject, workload, context)


class Alone(Probe):
    """Needs no model."""

    needs_model = False
    values = (Value("answer"),)


@probes.register("wrong/raises")
class Raises(Alone):
    """Raises."""

    def measure(self, subject: Subject | None, workload: Workload, context: ProbeContext) -> Measurement:
        raise ZeroDivisionError("no request was timed")


@probes.register("wrong/value")
class WrongValue(Alone):
    """Gives a value that it does not declare."""

    def measure(self, subject: Subject | None, workload: Workload, context: ProbeContext) -> Measurement:
        return Measurement({"answer": 42.0, "question": 1.0})


@probes.register("wrong/mapping")
class WrongMapping(Alone):
    """Gives a mapping in place of a measurement."""

    def measure(self, subject: Subject | None, workload: Workload, context: ProbeContext) -> Any:
        return {"answer": 42.0}


@probes.register("wrong/plot")
class WrongPlot(Alone):
    """Declares a plot and gives nothing to draw."""

    plots = ("chunk_time",)

    def measure(self, subject: Subject | None, workload: Workload, context: ProbeContext) -> Measurement:
        return Measurement({"answer": 42.0})


@probes.register("wrong/table")
class WrongTable(Alone):
    """Brings a table that it does not declare."""

    def measure(self, subject: Subject | None, workload: Workload, context: ProbeContext) -> Measurement:
        return Measurement({"answer": 42.0}, table=ProbeTable("t", "c", (), ()))


@probes.register("wrong/hangs")
class Hangs(Alone):
    """Never ends."""

    def measure(self, subject: Subject | None, workload: Workload, context: ProbeContext) -> Measurement:
        while True:
            time.sleep(0.01)


@probes.register("wrong/tiny_option")
class WrongTinyOption(Count):
    """Its tiny options are none of its own."""

    def tiny(self) -> Mapping[str, Json]:
        return {"time": 1}
