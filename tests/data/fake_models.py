"""Fast fake plug-ins that make real clips, and ones that break every promise; loaded with `--plugin`."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from harness.contracts import (
    Availability,
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
from harness.errors import OptionError


class FakeOptions(Options):
    """Size of the clips, frames of a chunk, and how long a chunk takes."""

    height: int = 16
    width: int = 16
    chunk: int = 4
    chunk_seconds: float = 0.0


@models.register("fake/moving")
class Moving(VideoModel):
    """A square in a colour and on a path that prompt and seed decide."""

    schema = FakeOptions

    def describe(self) -> ModelCard:
        options: FakeOptions = self.options
        return ModelCard(
            "fake", options.height, options.width, 16.0, options.chunk, parameters=10, layers=1, cached_scalars=7
        )

    def stream(self, request: Request, spans: Spans = no_spans) -> Iterator[Frames]:
        for start in range(0, request.frames, self.options.chunk):
            if self.options.chunk_seconds:
                time.sleep(self.options.chunk_seconds)
            stop = min(request.frames, start + self.options.chunk)
            with spans(f"chunk[{start // self.options.chunk}].denoise"):
                clips = [self._clip(request, number, start, stop) for number in range(request.batch)]
            yield np.stack(clips)

    def _clip(self, request: Request, number: int, start: int, stop: int) -> Frames:
        frames = np.zeros((stop - start, self.options.height, self.options.width, 3), np.uint8)
        for index in range(start, stop):
            prompt = request.prompts[number]
            for switch in request.switches:
                prompt = switch.prompts[number] if index >= switch.frame else prompt
            text = f"{prompt}|{request.seeds[number]}".encode("utf-8", "surrogatepass")
            code = hashlib.sha256(text).digest()
            frames[index - start] = np.frombuffer(code[:3], np.uint8)
            row, column = (code[3] + index) % self.options.height, (code[4] + 2 * index) % self.options.width
            frames[index - start, row : row + 6, column : column + 6] = np.frombuffer(code[5:8], np.uint8)
        return frames


@models.register("fake/alone")
class Alone(Moving):
    """Says that its pixels do not depend on the batch."""

    def batch_may_change_pixels(self, device: str) -> bool:
        return False


@models.register("fake/pairs")
class Pairs(Alone):
    """Makes clips of even seeds and of odd ones in requests of their own."""

    def batch_group(self, prompt: str, seed: int) -> int:
        return seed % 2

    def check_request(self, request: Request) -> None:
        if len({seed % 2 for seed in request.seeds}) > 1:
            raise OptionError("even and odd seeds in one request", "set batch to 1")


@models.register("fake/by_width")
class ByWidth(Moving):
    """Its clips show in how large a batch they were made."""

    def _clip(self, request: Request, number: int, start: int, stop: int) -> Frames:
        frames = super()._clip(request, number, start, stop)
        frames[:] = 16 * request.batch
        return frames


@models.register("fake/chunked")
class Chunked(Moving):
    """Switches its prompt at the next chunk, and says so; with a prefix it begins in the colour of the last frame."""

    def check_request(self, request: Request) -> None:
        if request.frames > 1000:
            raise OptionError(f"{request.frames} frames are too many", "ask for 1000")

    def switch_frames(self, request: Request) -> list[int]:
        chunk = self.options.chunk
        return [min(request.frames, -(-switch.frame // chunk) * chunk) for switch in request.switches]

    def stream(self, request: Request, spans: Spans = no_spans) -> Iterator[Frames]:
        at = self.switch_frames(request)
        moved = [replace(switch, frame=frame) for switch, frame in zip(request.switches, at, strict=True)]
        chunks = super().stream(replace(request, switches=tuple(moved)), spans)
        if request.prefixes:
            with spans("prefix"):
                given = [prefix.read() for prefix in request.prefixes]
            first = next(chunks)
            for clip, pixels in zip(first, given, strict=True):
                clip[0] = pixels[-1]
            yield first
        yield from chunks


class BrokenOptions(FakeOptions):
    """`when` limits the fault to prompts that contain it."""

    when: str = ""


class Broken(Moving):
    """A fake that breaks its promise for the prompts that `when` names."""

    schema = BrokenOptions

    def stream(self, request: Request, spans: Spans = no_spans) -> Iterator[Frames]:
        good = super().stream(request, spans)
        return self.broken(good) if any(self.options.when in prompt for prompt in request.prompts) else good

    def broken(self, good: Iterator[Frames]) -> Iterator[Any]:
        raise NotImplementedError


@models.register("fake/raises")
class Raises(Broken):
    """Raises in the middle of a clip."""

    def broken(self, good: Iterator[Frames]) -> Iterator[Any]:
        yield next(good)
        raise ValueError("the weights are haunted")


@models.register("fake/exits")
class Exits(Broken):
    """Calls sys.exit."""

    def broken(self, good: Iterator[Frames]) -> Iterator[Any]:
        yield next(good)
        sys.exit(7)


@models.register("fake/oserror")
class RaisesOsError(Broken):
    """Raises what a full disk would raise, but it is the model's own."""

    def broken(self, good: Iterator[Frames]) -> Iterator[Any]:
        yield next(good)
        raise FileNotFoundError(2, "No such file or directory", "vae.pt")


@models.register("fake/shape")
class WrongShape(Broken):
    """Yields frames of another size after the first chunk."""

    def broken(self, good: Iterator[Frames]) -> Iterator[Any]:
        yield next(good)
        yield next(good)[:, :, :-2]


@models.register("fake/nobatch")
class NoBatch(Broken):
    """Leaves out the batch axis."""

    def broken(self, good: Iterator[Frames]) -> Iterator[Any]:
        for chunk in good:
            yield chunk[0]


@models.register("fake/nan")
class WritesNan(Broken):
    """Yields floats with NaN."""

    def broken(self, good: Iterator[Frames]) -> Iterator[Any]:
        for chunk in good:
            pixels = chunk.astype(np.float32)
            pixels[0, 0, 0, 0] = np.nan
            yield pixels


@models.register("fake/list")
class YieldsList(Broken):
    """Yields lists."""

    def broken(self, good: Iterator[Frames]) -> Iterator[Any]:
        for chunk in good:
            yield chunk.tolist()


@models.register("fake/short")
class TooFew(Broken):
    """Stops one chunk early."""

    def broken(self, good: Iterator[Frames]) -> Iterator[Any]:
        chunks = list(good)
        yield from chunks[:-1]


@models.register("fake/none")
class NoFrames(Broken):
    """Yields nothing."""

    def broken(self, good: Iterator[Frames]) -> Iterator[Any]:
        yield from ()


@models.register("fake/long")
class TooMany(Broken):
    """Never stops."""

    def broken(self, good: Iterator[Frames]) -> Iterator[Any]:
        chunk = next(good)
        while True:
            yield chunk


@models.register("fake/unloadable")
class Unloadable(Moving):
    """Its weights do not load."""

    loads = 0

    def load(self, device: str) -> None:
        type(self).loads += 1
        raise RuntimeError("size mismatch for blocks.0.weight")


@metrics.register("fake/brightness")
class Brightness(Metric):
    """Mean pixel, and the seed that made it."""

    values = (Value("brightness", "grey levels"), Value("spread", "grey levels", "none"))

    def score(self, clip: Clip) -> Mapping[str, float]:
        pixels = clip.read()
        return {"brightness": float(pixels.mean()), "spread": float(pixels.std())}


@metrics.register("fake/switches")
class Switches(Metric):
    """Whether frames change where the clip is said to switch, and nowhere else."""

    values = (Value("first", "frame", "none"), Value("changed", "frame", "none"))

    def score(self, clip: Clip) -> Mapping[str, float]:
        corner = clip.read()[:, -1, -1].astype(int)
        changed = np.flatnonzero(np.abs(np.diff(corner, axis=0)).max(axis=1) > 30)
        return {"first": float(clip.switches[0][0]), "changed": float(changed[0] + 1)}


class FaultOptions(Options):
    """`fault`: raise | missing | unknown | infinite | nan | setup."""

    fault: str = "raise"


@metrics.register("fake/faulty")
class Faulty(Metric):
    """Breaks a metric's promises one at a time."""

    schema = FaultOptions
    values = (Value("one"), Value("two"))

    def setup(self, device: str) -> None:
        if self.options.fault == "setup":
            raise ImportError("no module named backbone")

    def score(self, clip: Clip) -> Mapping[str, float]:
        if self.options.fault == "raise":
            raise ZeroDivisionError("no shape found")
        return {
            "missing": {"one": 1.0},
            "unknown": {"one": 1.0, "two": 2.0, "three": 3.0},
            "infinite": {"one": 1.0, "two": float("inf")},
            "nan": {"one": 1.0, "two": float("nan")},
        }[self.options.fault]


@metrics.register("fake/unavailable")
class Unavailable(Metric):
    """Its weights are not here."""

    values = (Value("aesthetic"),)

    def available(self) -> Availability:
        return Availability(False, "weights of the backbone are missing", "harness env build backbone")

    def score(self, clip: Clip) -> Mapping[str, float]:
        raise AssertionError("must not be asked")


@probes.register("fake/count")
class Count(Probe):
    """Counts the chunks and frames that a model streams."""

    values = (Value("chunks", "chunks", "none"), Value("frames", "frames", "none"))

    def measure(self, subject: Subject | None, workload: Workload, context: ProbeContext) -> Measurement:
        assert subject is not None
        request = Request(workload.prompts[: workload.batch], workload.seeds[:1] * workload.batch, workload.frames)
        sizes = [float(chunk.shape[1]) for chunk in subject.load().stream(request)]
        return Measurement({"chunks": len(sizes), "frames": sum(sizes)}, {"frames": sizes}, {"plugins": 1})


@probes.register("fake/hangs")
class Hangs(Probe):
    """Never returns."""

    values = (Value("answer"),)
    needs_model = False

    def measure(self, subject: Subject | None, workload: Workload, context: ProbeContext) -> Measurement:
        while True:
            time.sleep(60)


@probes.register("fake/device")
class DeviceAlone(Probe):
    """Needs no model."""

    values = (Value("answer"),)
    needs_model = False

    def measure(self, subject: Subject | None, workload: Workload, context: ProbeContext) -> Measurement:
        assert subject is None
        return Measurement({"answer": 42.0})
