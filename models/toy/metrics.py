"""Metrics of the small world: a clip against its caption, and how long a rollout keeps to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import ClassVar

import numpy as np

from harness.contracts import Clip, Metric, Value
from harness.errors import ClipError
from models.toy.judge import MIN_FRAMES, Reading, Verdict, hold, read
from models.toy.world import SPEEDS, Caption

Part = tuple[Reading, Caption]
"""Frames that one caption holds for, and that caption."""


def _captions(clip: Clip) -> list[tuple[int, Caption]]:
    captions = []
    for frame, text in ((0, clip.prompt), *clip.switches):
        try:
            captions.append((frame, Caption.parse(text)))
        except ValueError as error:
            raise ClipError(str(error), "score only clips whose prompts are captions of the small world") from None
    return captions


def _parts(clip: Clip, reading: Reading, start: int, stop: int) -> list[Part]:
    """Frames `start` to `stop` of a clip, cut where the prompt switches; pieces too short for a verdict are left out.

    Raises `ClipError` when no piece is long enough, or a prompt is no caption.
    """
    captions = _captions(clip)
    ends = [frame for frame, _ in captions[1:]] + [len(reading)]
    cut = [(max(begin, start), min(end, stop), caption) for (begin, caption), end in zip(captions, ends, strict=True)]
    parts = [(reading[begin:end], caption) for begin, end, caption in cut if end - begin >= MIN_FRAMES]
    if not parts:
        raise ClipError(
            f"frames {start} to {stop} of the clip hold no caption for the {MIN_FRAMES} frames that a verdict needs",
            "ask for longer clips, or for switches that are further apart",
        )
    return parts


def _caption_accuracy(verdicts: Sequence[Verdict]) -> float:
    return float(np.mean([verdict.correct for verdict in verdicts]))


class ToyWorld(Metric):
    """Whether a clip shows what its caption says: each part, and all of them at once, by rule.

    A clip with prompt switches is cut at them, each piece is held to its own caption, and the pieces are averaged.
    """

    values: ClassVar[tuple[Value, ...]] = (
        Value("caption_accuracy", label="caption accuracy", share=True),
        Value("colour", label="colour", share=True),
        Value("shape", label="shape", share=True),
        Value("direction", label="direction", share=True),
        Value("speed", label="speed", share=True),
        Value("background", label="background", share=True),
        Value("shape_iou", label="shape IoU"),
        Value("speed_measured", unit="px/frame", direction="none", label="measured speed"),
        Value("speed_error", unit="px/frame", direction="lower", label="speed error"),
    )

    def score(self, clip: Clip) -> Mapping[str, float]:
        """The values of the whole clip; the parts of the caption are 1 or 0.

        Raises:
            ClipError: a prompt is no caption, the clip is not 32x32, or it is too short.
        """
        _captions(clip)
        reading = read(clip.read())
        parts = _parts(clip, reading, 0, len(reading))
        verdicts = [hold(piece, caption) for piece, caption in parts]
        names = ("colour", "shape", "direction", "speed", "background", "shape_iou", "speed_measured")
        means = {name: float(np.mean([getattr(verdict, name) for verdict in verdicts])) for name in names}
        errors = [abs(v.speed_measured - SPEEDS[c.speed]) for v, (_, c) in zip(verdicts, parts, strict=True)]
        return {"caption_accuracy": _caption_accuracy(verdicts), **means, "speed_error": float(np.mean(errors))}


class ToySurvival(Metric):
    """Caption accuracy over each quarter of a rollout: whether the last still shows what the first did.

    A quarter is read as a clip of its own, against the caption in force there.
    """

    values: ClassVar[tuple[Value, ...]] = (
        Value("survival", label="survival", share=True),
        Value("quarter_1", label="first quarter", share=True),
        Value("quarter_2", label="second quarter", share=True),
        Value("quarter_3", label="third quarter", share=True),
        Value("quarter_4", label="last quarter", share=True),
        Value("shape_drift", direction="zero", label="shape IoU, last quarter less first"),
    )

    def score(self, clip: Clip) -> Mapping[str, float]:
        """`survival` is `quarter_4`; `shape_drift` is negative where the shape decays.

        Raises:
            ClipError: a prompt is no caption, the clip is not 32x32, or it has fewer than 16 frames.
        """
        _captions(clip)
        reading = read(clip.read())
        if len(reading) < 4 * MIN_FRAMES:
            raise ClipError(
                f"a rollout of {len(reading)} frames has no quarters of {MIN_FRAMES}",
                f"ask for {4 * MIN_FRAMES} frames or more where survival is scored",
            )
        edges = [quarter * len(reading) // 4 for quarter in range(5)]
        accuracy, overlap = [], []
        for start, stop in pairwise(edges):
            verdicts = [hold(piece, caption) for piece, caption in _parts(clip, reading, start, stop)]
            accuracy.append(_caption_accuracy(verdicts))
            overlap.append(float(np.mean([verdict.shape_iou for verdict in verdicts])))
        quarters = {f"quarter_{index}": value for index, value in enumerate(accuracy, 1)}
        return {"survival": accuracy[-1], **quarters, "shape_drift": overlap[-1] - overlap[0]}
