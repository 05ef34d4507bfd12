"""The contract of a metric: numbers of one clip, and their aggregate over clips."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from harness.contracts.base import Availability, Direction, Frames, Json, Options

# --------------------------------------------------------------------------------------------- metrics


@dataclass(frozen=True, slots=True)
class Value:
    """One number that a metric or a probe gives, and how to read it.

    `low`, `high`: the least and the greatest that it can be, where there are any; its interval stays between them.

    `at_least_unless`: another value of the same probe. Where that one is 0, this one is a lower bound alone, as of a
    search that ended before it met a limit.

    `share`: a clip passes (1) or not (0), or a part of it does, so that a mean is a share; its interval then stays
    between 0 and 1, and neither it nor that of a difference shrinks to a point where every clip passed.
    """

    name: str
    unit: str = ""
    direction: Direction = "higher"
    label: str = ""
    share: bool = False
    low: float | None = None
    high: float | None = None
    at_least_unless: str = ""


CurveKind = Literal["quality", "adherence", "motion", "step", "distance"]
"""What a curve follows: how good the pieces of a clip are; how well they show the prompt in force; how much they move;
how far each frame is from the one before; or how alike frames are that lie so far apart."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Samples of a score that follow its clip, from which tables take drift.

    Each number is of one piece of the clip, in their order: of one that begins at a frame (`starts`), of the frames
    nearest to one (`frames`), or, where neither is named, of one of equal parts. Those of a `step` are then of every
    frame but the first.

    Attributes:
        value: name of the samples, their unit and better direction, and a label.
        starts: name of the samples that hold the first pixel frame of each piece.
        frames: name of the samples that hold the pixel frame of each number; of a `step` the later frame of the two, of
            a `distance` how many frames lie between.
    """

    value: Value
    kind: CurveKind = "quality"
    starts: str = ""
    frames: str = ""


@dataclass(frozen=True, slots=True)
class Clip:
    """A finished clip as a metric sees it.

    Attributes:
        path: the video file.
        prompt: the text it was made from (the first one, when it switches).
        known_as: the text that identifies it, as VBench's short prompt, where that is not the one that made it.
        seed: its seed; `index` counts the samples of one prompt from 0.
        frames, height, width, frame_rate: as in the file, whose frame 0 is the first that the model made.
        digest: SHA-256 of the decoded frames.
        switches: later prompts as (pixel frame, text): the frame at which the switch happened, or the one that was
            asked for where the model cannot say.
        read: decodes the whole clip, uint8 [frames, height, width, 3].
        reference: the clip of the same prompt and seed that it is held against, of the same frames, size and rate;
            for a metric that takes one.
    """

    path: Path
    prompt: str
    seed: int
    index: int
    frames: int
    height: int
    width: int
    frame_rate: float
    digest: str
    read: Callable[[], Frames]
    switches: tuple[tuple[int, str], ...] = ()
    reference: Clip | None = None
    known_as: str = ""


def token_limit(samples: Mapping[str, Sequence[float]], usual: int) -> float:
    """Tokens of a prompt that a score read: its sample `prompt_limit`, else `usual`."""
    return (samples.get("prompt_limit") or [usual])[0]


def tokens_left_out(samples: Mapping[str, Sequence[float]], usual: int) -> int:
    """How many prompts a score read in part: those with more `prompt_tokens` than its `token_limit`."""
    return sum(count > token_limit(samples, usual) for count in samples.get("prompt_tokens", ()))


class Metric(ABC):
    """Numbers of one clip, and their aggregate over clips.

    `score` may need the metric's own packages; `aggregate` is pure, so totals can be recomputed without them.

    Attributes:
        version: changes whenever a score could change.
        values: every number that `score` gives.
        derived: every number that `derive` makes from the aggregates of `values`.
        curves: those of its samples that follow a clip.
        takes_reference: it holds each clip against one of another arm (`Clip.reference`), which its entry in a suite
            names with `against`.
        environment: name of the environment that `score` runs in; `core` is this process.
        reads_tokens: tokens of a prompt that it reads, leaving out the rest, where its samples `prompt_tokens` count
            those of each; 0 where it reads all. One that reads more or fewer by its options says so in the sample
            `prompt_limit`.
    """

    version: ClassVar[str] = "1"
    schema: ClassVar[type[Options]] = Options
    values: ClassVar[tuple[Value, ...]]
    derived: ClassVar[tuple[Value, ...]] = ()
    curves: ClassVar[tuple[Curve, ...]] = ()
    takes_reference: ClassVar[bool] = False
    environment: ClassVar[str] = "core"
    reads_tokens: ClassVar[int] = 0

    def __init__(self, options: Options) -> None:
        self.options: Any = options

    def available(self) -> Availability:
        """Whether environment and weights are here. Cheap; imports nothing heavy."""
        return Availability(True)

    def identity(self) -> Mapping[str, Json]:
        """What decides a score beyond name, version, options and clip: weight digests, the environment's lock."""
        return {}

    def tiny(self) -> Mapping[str, Json]:
        """Options that, set over these, score with random weights in place of the ones that are not here.

        `harness rehearse` scores by them. Empty, as for every metric that does not override this: it scores as it is.
        """
        return {}

    def shortest(self, frame_rate: float) -> int:
        """Frames of the shortest clip that every value is defined on; 2 unless overridden."""
        return 2

    def smallest(self) -> int:
        """Pixels of the shorter side of the smallest frames that every value is defined on; 1 unless overridden."""
        return 1

    def to_try(self, prompts: Sequence[str]) -> Sequence[int]:
        """Which prompts, by number, a rehearsal needs so that every value is defined once; none unless overridden.

        `prompts` are what the clips are known by.
        """
        return ()

    def asked_for(self) -> Collection[str]:
        """The names among `values` and `derived` that these options ask for: all, unless overridden."""
        return [value.name for value in (*self.values, *self.derived)]

    def setup(self, device: str) -> None:
        """Import packages and load weights, once, before the first `score`."""
        return

    @abstractmethod
    def score(self, clip: Clip) -> Mapping[str, float]:
        """One float for each of `values`; NaN where the clip does not define it. Raises `ClipError`."""

    def samples(self) -> Mapping[str, Sequence[float]]:
        """The numbers behind the last score, by name, for its record; empty unless the metric keeps some."""
        return {}

    def notes(self) -> Mapping[str, Json]:
        """Further facts for the record of the last score, as the versions of the packages behind it."""
        return {}

    def close(self) -> None:
        """Free what `setup` took, when no more clips need the metric."""
        return

    def aggregate(self, name: str, scores: Sequence[float]) -> float:
        """The value `name` over clips. Pure: floats in, a float out. The mean unless overridden."""
        return float(np.mean(scores)) if len(scores) else float("nan")

    def keep(self, name: str, prompts: Sequence[int], scores: Sequence[float]) -> Sequence[bool]:
        """Which clips count for the value `name`: those that define it, unless overridden. Pure.

        `prompts` numbers each clip's prompt; clips of one prompt come in the order of their seeds.
        """
        return [score == score for score in scores]

    def derive(self, means: Mapping[str, float]) -> Mapping[str, float]:
        """Each of `derived` from the aggregates of `values`; one that cannot be made is left out. Pure."""
        return {}
