"""Time one generation: arrivals of chunks, stages, and the chunks for which the window is full."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from harness.contracts import Frames, ModelCard, Request, VideoModel, Workload, enforce
from harness.errors import ModelFault, OptionError
from harness.probes.timing.clock import SECOND, Clock, Recorder, Span, no_garbage_collection

DENOISE = ("chunk.denoise", "chunk.clean_pass")
"""Stages that make latents; the clean pass writes the cache and is part of every chunk's cost."""
DECODE = (*DENOISE, "decode")
"""Stages up to pixels on the device."""


@dataclass(frozen=True, slots=True)
class Generation:
    """One timed call of a model. Chunks are counted from 0.

    Attributes:
        seconds: from the request to the last chunk, between synchronise points; no file is written in it.
        arrivals: of each chunk on the host, seconds since the request.
        frames: pixel frames of each chunk, for one clip of the batch.
        spans: the model's stages.
        batch: clips made at once.
        switched: pixel frame at which each switch happened; the requested one where the model cannot say.
    """

    seconds: float
    arrivals: tuple[float, ...]
    frames: tuple[int, ...]
    spans: tuple[Span, ...]
    batch: int
    switched: tuple[int, ...] = ()

    @property
    def gaps(self) -> tuple[float, ...]:
        """Seconds between chunk i and the one before; for the first chunk, since the request."""
        return tuple(b - a for a, b in zip((0.0, *self.arrivals), self.arrivals, strict=False))

    def stage(self, stages: Sequence[str], chunks: Sequence[int]) -> float:
        """Seconds spent in `stages` for `chunks`; NaN when the model names none of them."""
        numbers = set(chunks)
        seconds = [s.seconds for s in self.spans if s.depth == 0 and s.stage in stages and s.index in numbers]
        return sum(seconds) if seconds else float("nan")

    def rate(self, seconds: float, chunks: Sequence[int]) -> float:
        """Pixel frames per second of the whole batch over `chunks` (rule T4); NaN without a positive duration."""
        count = self.batch * sum(self.frames[i] for i in chunks)
        return count / seconds if seconds > 0 else float("nan")

    @property
    def covered(self) -> float:
        """Share of the end-to-end time that named stages account for."""
        return sum(s.seconds for s in self.spans if s.depth == 0) / self.seconds if self.seconds > 0 else float("nan")

    @property
    def switch_chunks(self) -> list[int]:
        """The chunks that first show each new prompt.

        Where the model names its `switch` stage, the chunk at work in that stage; else the chunk that holds the frame
        at which the switch happened.
        """
        switch_stages = sorted({s.chunk for s in self.spans if s.stage == "switch" and s.chunk < len(self.frames)})
        return switch_stages or self._holding(self.switched)

    def _holding(self, frames: Sequence[int]) -> list[int]:
        """The chunk that holds each of these pixel frames."""
        # A frame that starts a chunk lies in that chunk, hence the right side.
        ends = np.cumsum(self.frames)
        return [int(np.searchsorted(ends, frame, side="right")) for frame in frames]

    def check_switches(self, stated: Sequence[int | None]) -> None:
        """Raise `ModelFault` where the model works on a switch for another chunk than holds the frame it stated."""
        worked_on = {s.chunk for s in self.spans if s.stage == "switch"}
        frames = [frame for frame in stated if frame is not None and frame < sum(self.frames)]
        for frame, chunk in zip(frames, self._holding(frames), strict=True):
            if worked_on and chunk not in worked_on:
                at = ", ".join(str(number) for number in sorted(worked_on))
                raise ModelFault(
                    f"the model states a switch at frame {frame}, in chunk {chunk}, and works on it for chunk {at}",
                    "mend its switch_frames()",
                )


def check_workload(probe: str, workload: Workload) -> None:
    """Raise `OptionError` for a workload that a streaming measurement cannot run."""
    if not workload.prompts or not workload.seeds:
        raise OptionError(f"probe {probe} needs prompts and seeds", "name a prompt set in the measure section")
    if workload.frames < 1 or workload.batch < 1:
        raise OptionError(f"probe {probe}: frames and batch must be at least 1")
    for switch in workload.switches:
        if not 0 < switch.frame < workload.frames:
            raise OptionError(f"probe {probe}: a switch at frame {switch.frame} lies outside {workload.frames} frames")


def _digest(request: Request, clip: int) -> tuple[str, ...]:
    return (request.prefixes[clip].digest,) if request.prefixes else ()


class _Clips:
    """Digests of the clips of one batch, chunk by chunk."""

    def __init__(self, request: Request) -> None:
        self._requests = [
            (
                prompt,
                seed,
                *((switch.frame, switch.prompts[clip]) for switch in request.switches),
                *_digest(request, clip),
            )
            for clip, (prompt, seed) in enumerate(zip(request.prompts, request.seeds, strict=True))
        ]
        self._digests = [hashlib.sha256() for _ in self._requests]

    def add(self, chunk: Frames) -> None:
        for digest, clip in zip(self._digests, chunk, strict=True):
            # Digests, as two clips of a batch need not fit in memory beside the model.
            digest.update(np.ascontiguousarray(clip).data)

    def check(self) -> None:
        """Raise `ModelFault` where two clips of different requests are alike."""
        first: dict[bytes, int] = {}
        for clip, digest in enumerate(self._digests):
            other = first.setdefault(digest.digest(), clip)
            if self._requests[other] != self._requests[clip]:
                raise ModelFault(
                    f"the model ignores the batch: clips {other} and {clip}, of different prompts or seeds, are alike",
                    "make every clip of a batch from its own prompt and seed",
                )


def generate(
    clock: Clock,
    model: VideoModel,
    request: Request,
    card: ModelCard,
    *,
    distinct: bool = False,
    after_chunk: Callable[[], object] | None = None,
) -> Generation:
    """Have `model` answer `wanted`, timing as it streams (rule T2). Pixels are checked for shape and dropped.

    With `distinct` the clips of the batch are compared too (rule T13), and `after_chunk` is called after each chunk.
    Both take time between the chunks, so they are for generations whose time does not count. Raises `ModelFault` when
    the chunks do not answer the request.
    """
    spans = Recorder(clock)
    clips = _Clips(request) if distinct and request.batch > 1 else None
    arrivals: list[int] = []
    frames: list[int] = []
    with no_garbage_collection():
        start = clock.point()
        for chunk in enforce.chunks(model, request, card, spans):
            # Without a synchronise: the chunk is on the host, and waiting would stop the work on the next one.
            arrivals.append(clock.now())
            spans.next_chunk()
            frames.append(int(chunk.shape[1]))
            if clips is not None:
                clips.add(chunk)
            if after_chunk is not None:
                after_chunk()
        end = clock.point()
    if clips is not None:
        clips.check()
    since = tuple((arrival - start) / SECOND for arrival in arrivals)
    stated = model.switch_frames(request)
    switched = tuple(
        switch.frame if frame is None else frame for switch, frame in zip(request.switches, stated, strict=True)
    )
    generation = Generation(
        (end - start) / SECOND, since, tuple(frames), tuple(spans.finish()), request.batch, switched
    )
    generation.check_switches(stated)
    return generation


def latents_in(frames: int, ratio: int) -> int:
    """Latent frames behind `frames` pixel frames: the first stands for one pixel frame, each other for `ratio`."""
    return frames if ratio <= 1 or frames == 0 else (frames - 1) // ratio + 1


def steady_chunks(frames: Sequence[int], card: ModelCard) -> tuple[list[int], str]:
    """Chunks for the headline, and the rule that chose them (rule T7).

    A chunk counts when the cache was at its cap before it began. A state of constant size is at its cap from the
    second chunk on. Where that leaves nothing, the last half of the chunks counts. A last chunk that the clip's length
    cuts short never counts: it takes the time of a whole one for fewer frames, and the headline would follow the
    clip's length.
    """
    whole, remark = len(frames), ""
    if whole > 1 and frames[-1] < max(*frames, card.frames_per_chunk):
        whole, remark = whole - 1, f"; the last chunk, cut short to {frames[-1]} frames, is left out"
    if card.cached_scalars == 0 and whole > 1:
        return list(range(1, whole)), f"constant state: every chunk after the first{remark}"
    if card.window_frames is not None:
        # Pixel frames before each chunk: the window counts when it was full as the chunk began.
        starts = np.cumsum(frames)[:whole] - np.asarray(frames[:whole])
        steady = [
            i for i, start in enumerate(starts) if latents_in(int(start), card.temporal_ratio) >= card.window_frames
        ]
        if steady:
            return (
                steady,
                f"window of {card.window_frames} latent frames full: chunks {steady[0]} to {steady[-1]}{remark}",
            )
    half = list(range(whole // 2, whole))
    why = "window never full before a whole chunk" if card.window_frames is not None else "cache without a cap"
    return half, f"{why}: last half, chunks {half[0]} to {half[-1]}{remark}"
