"""A model in an environment of its own that streams: the user's interpreter runs the user's file, chunk by chunk."""

from __future__ import annotations

import functools
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from harness.contracts import (
    Frames,
    ModelCard,
    Options,
    ProcessState,
    Request,
    Spans,
    TimedSpans,
    VideoModel,
    no_spans,
)
from harness.errors import ModelFault, NotAvailable, OptionError
from harness.system.stream_process import StreamProcess
from videomla_models.adapters.program import InFolder, ProgramOptions, digests


class ProcessCard(Options):
    """What a model says of itself beyond size and rate.

    Attributes:
        temporal_ratio: pixel frames per latent frame. parameters: weights of the video transformer. layers: blocks with
            a self-attention cache.
        window_frames, sink_frames: latent frames that attention sees in all, and that are never evicted.
        tokens_per_frame: of a latent frame. cached_scalars: numbers kept per token and layer.
        cache_bytes: of one request's full window over all layers.
        forwards_per_chunk: network calls, clean pass and guidance included.
        weights: `trained`, `random` (speed and memory only) or `none`. licence: of the weights.
    """

    temporal_ratio: int = Field(default=1, ge=1)
    parameters: int | None = Field(default=None, ge=0)
    layers: int | None = Field(default=None, ge=0)
    window_frames: int | None = Field(default=None, ge=1)
    sink_frames: int | None = Field(default=None, ge=0)
    tokens_per_frame: int | None = Field(default=None, ge=1)
    cached_scalars: int | None = Field(default=None, ge=0)
    cache_bytes: int | None = Field(default=None, ge=0)
    forwards_per_chunk: int | None = Field(default=None, ge=1)
    weights: Literal["trained", "random", "none"] = "none"
    licence: str = ""


class ProcessOptions(ProgramOptions):
    """The file that streams, and what its clips are like.

    Attributes:
        file: a Python file that calls `harness_stream.serve`, as `harness new process` writes it. Its digest is part of
            every key, beside those of `files`. It lies in `folder`; without that its path is as any other.
        options: what its `load` is given.
        first_chunk: pixel frames of the first chunk, where it is not `chunk`.
        takes: `switches` where it follows prompt switches, `prefixes` where it continues an image or a video.
        card: what is known of the model.
        start_timeout: seconds until its imports are done. load_timeout: until it has loaded.
        timeout: until it gives the next chunk, or says that there is none.
    """

    file: InFolder = Field(min_length=1)
    options: Mapping[str, Any] = Field(default_factory=dict)
    first_chunk: int | None = Field(None, ge=1)
    takes: tuple[Literal["switches", "prefixes"], ...] = ()
    card: ProcessCard = ProcessCard()
    start_timeout: float = Field(default=300, gt=0)
    load_timeout: float = Field(default=1800, gt=0)
    timeout: float = Field(default=600, gt=0)
    family: str = "process"


class ProcessModel(VideoModel):
    """A program that streams. It starts when the model is loaded, and again for the next request after it ended.

    Prompts, seeds and switches go in; chunks and the names of stages come out. The program works on the next chunk once
    it is asked for, as a model in this process does.
    """

    schema = ProcessOptions
    unkeyed: ClassVar[tuple[str, ...]] = (
        "python",
        "folder",
        "file",
        "files",
        "start_timeout",
        "load_timeout",
        "timeout",
    )

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._device = ""
        self._process: StreamProcess | None = None

    def describe(self) -> ModelCard:
        """The card, as the options give it."""
        options: ProcessOptions = self.options
        return ModelCard(
            family=options.family,
            height=options.height,
            width=options.width,
            frame_rate=options.frame_rate,
            frames_per_chunk=options.chunk,
            weight_digests=self._digests,
            **options.card.model_dump(),
        )

    @functools.cached_property
    def _digests(self) -> Mapping[str, str]:
        return digests(self.options.folder, (self.options.file, *self.options.files))

    def check_request(self, request: Request) -> None:
        """It takes the switches and the prefixes that `takes` names."""
        parts = {"switches": request.switches, "prefixes": request.prefixes}
        for word, part_of_request in parts.items():
            if part_of_request and word not in self.options.takes:
                raise OptionError(f"the program takes no {word}", f"put {word} into `takes` where it does")

    def switch_frames(self, request: Request) -> Sequence[int | None]:
        """The first frame of the first chunk at or after each frame asked for."""
        chunk, first = self.options.chunk, self.options.first_chunk or self.options.chunk
        return [
            0 if switch.frame <= 0 else first + chunk * max(0, math.ceil((switch.frame - first) / chunk))
            for switch in request.switches
        ]

    def load(self, device: str) -> None:
        """Start the program and have it load. Raises `NotAvailable` without it, `ModelFault` where it fails."""
        self._device = device
        options: ProcessOptions = self.options
        if not (Path(options.folder) / options.file).is_file():
            raise NotAvailable(f"file {Path(options.folder) / options.file} is not here", "correct `file` or `folder`")
        self._started()

    def unload(self) -> None:
        """End the program."""
        process, self._process = self._process, None
        if process is not None:
            process.stop()

    def _started(self) -> StreamProcess:
        """The program with its model loaded; another one where it has ended."""
        if not self._device:
            raise ModelFault("the model is not loaded", "call load() first")
        if self._process is not None and self._process.alive:
            return self._process
        self.unload()
        options: ProcessOptions = self.options
        python = shutil.which(options.python)
        if python is None:
            raise NotAvailable(f"interpreter {options.python!r} is not here", "correct `python`")
        # From here, as `folder` would lead a relative path elsewhere; no link is followed, which leads out of a venv.
        process = StreamProcess([os.path.abspath(python), options.file], options.folder, options.environment)
        try:
            process.greet(options.start_timeout)
            process.send(options.start_timeout, op="load", device=self._device, options=dict(options.options))
            process.receive(options.load_timeout, "loading", "ready")
        except BaseException:
            process.kill()
            raise
        self._process = process
        return process

    def process_state(self, reset_peaks: bool = False) -> ProcessState | None:
        """Readings of the program."""
        process, seconds = self._started(), self.options.timeout
        process.send(seconds, op="state", reset=reset_peaks)
        message = process.receive(seconds, "reading its state", "state")
        try:
            cuda = message["cuda"]
            allocator = None if cuda is None else {name: int(cuda[name]) for name in ("allocated", "peak", "reserved")}
            return ProcessState(
                process.pid, process.base_bytes, process.shared_bytes, int(message["compilations"]), allocator
            )
        except (KeyError, TypeError, ValueError, OverflowError):
            process.fail("the program's state is none of harness_stream")

    def stream(self, request: Request, spans: Spans = no_spans) -> Iterator[Frames]:
        """Chunks as the program gives them."""
        self.check_request(request)
        process, seconds, card = self._started(), self.options.timeout, self.describe()
        clips = [prefix.read() for prefix in request.prefixes]
        size = max(request.batch * request.frames * card.height * card.width * 3, sum(clip.nbytes for clip in clips))
        slot = process.slot(size)
        slot.put(clips)
        # What the program does: it owes an answer, holds the next chunk back until it is asked for, or does nothing.
        program: Literal["owes", "holds", "idles"] = "owes"
        number = frames = 0
        try:
            process.send(
                seconds,
                op="stream",
                prompts=request.prompts,
                seeds=request.seeds,
                frames=request.frames,
                height=card.height,
                width=card.width,
                switches=[[switch.frame, switch.prompts] for switch in request.switches],
                prefixes=[clip.shape for clip in clips],
                slot=slot.to_json(),
            )
            while True:
                try:
                    message = process.receive(seconds, f"chunk {number}", "chunk", "done")
                except ModelFault:
                    program = "idles"  # after an exception; after anything else it is gone
                    raise
                if message["op"] == "done":
                    program = "idles"
                    _hand_on(process, message.get("spans"), spans)
                    return
                program = "holds"
                chunk = process.chunk(slot, number)
                if message.get("open"):
                    raise ModelFault(f"a span is still open as chunk {number} is yielded", "close it before the yield")
                frames += chunk.shape[1] if chunk.ndim > 1 else 0
                self._check_length(request, number, frames)
                number += 1
                yield chunk
                del chunk
                slot = process.slot(size)
                program = "owes"
                process.send(seconds, op="next", slot=slot.to_json())
        finally:
            if program == "owes":
                process.kill()  # it would answer the next request with what it makes now
            elif program == "holds":
                _leave(process, seconds)

    def _check_length(self, request: Request, number: int, frames: int) -> None:
        """Raise `ModelFault` where chunks do not begin where `switch_frames` says that they do."""
        due = (self.options.first_chunk or self.options.chunk) + number * self.options.chunk
        if request.switches and frames != due and frames < request.frames:
            raise ModelFault(
                f"chunk {number} ends at frame {frames}, not at {due}, so its switches are not where it says",
                "set `chunk`, and `first_chunk` where the first is another",
            )


def _leave(process: StreamProcess, seconds: float) -> None:
    """Have the program give up a clip; where it does not, it is ended."""
    if not process.alive:
        return
    try:
        process.send(seconds, op="leave")
        process.receive(seconds, "leaving a clip", "left")
    except ModelFault:
        return
    except BaseException:
        process.kill()
        raise


def _hand_on(process: StreamProcess, stages: object, spans: Spans) -> None:
    """The stages of a request, with their times where those are wanted. Raises `ModelFault` for what is none."""
    for stage in stages if isinstance(stages, list) else [None]:
        match stage:
            case [str(name), int() | float() as seconds, int(depth), int(chunk)] if 0 <= seconds < math.inf:
                if isinstance(spans, TimedSpans):
                    spans.took(name, float(seconds), depth, chunk)
                else:
                    with spans(name):
                        continue
            case _:
                process.fail(f"the program's stages are none of harness_stream: {str(stage)[:80]}")
