"""Metrics of the small world: a clip against its caption, and how long a rollout keeps to it.

Version 2. Version 1 passed a part that 0.8 of the frames showed and a motion whose steps were right on average; its
records say so, as every record names its metric's version.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import ClassVar

import numpy as np

from harness.contracts import Clip, Curve, Metric, Options, Value
from harness.errors import ClipError
from videomla_models.small_world.judge import MIN_FRAMES, PARTS, Reading, Verdict, hold, read, shown
from videomla_models.small_world.world import SHAPES, SPEEDS, Caption

Part = tuple[Reading, Caption, slice]
"""Frames that one caption holds for, that caption, and which of them are judged."""


def _captions(clip: Clip) -> list[tuple[int, Caption]]:
    captions = []
    for frame, text in ((0, clip.prompt), *clip.switches):
        try:
            captions.append((frame, Caption.parse(text)))
        except ValueError as error:
            raise ClipError(str(error), "score only clips whose prompts are captions of the small world") from None
    return captions


def _parts(clip: Clip, reading: Reading, start: int, stop: int) -> list[Part]:
    """Frames `start` to `stop` of a clip, cut where the prompt switches.

    A piece too short for a verdict takes in neighbours of its own prompt; where that has too few, it is left out.
    Raises `ClipError` when no piece is long enough, or a prompt is no caption.
    """
    captions = _captions(clip)
    ends = [frame for frame, _ in captions[1:]] + [len(reading)]
    parts = []
    for (first, caption), last in zip(captions, ends, strict=True):
        begin, end = max(first, start), min(last, stop)
        if begin < end and last - first >= MIN_FRAMES:
            begin = max(first, min(begin, end - MIN_FRAMES))
            parts.append((reading[first:last], caption, slice(begin - first, max(end, begin + MIN_FRAMES) - first)))
    if not parts:
        raise ClipError(
            f"frames {start} to {stop} of the clip hold no caption for the {MIN_FRAMES} frames that a verdict needs",
            "ask for longer clips, or for switches that are further apart",
        )
    return parts


def _mean(verdicts: Sequence[Verdict], name: str) -> float:
    return float(np.mean([getattr(verdict, name) for verdict in verdicts]))


class _ToyMetric(Metric):
    """The part that both metrics share: numbers of every frame, each against the caption in force at it.

    They came after version 2; they change none of its scores, so that records without them are as good.
    """

    curves: ClassVar[tuple[Curve, ...]] = (
        Curve(Value("frame_accuracy_by_frame", label="frame accuracy", share=True), "adherence"),
        Curve(Value("shape_iou_by_frame", label="shape IoU")),
        Curve(Value("motion_by_frame", unit="px/frame", direction="none", label="motion"), "motion"),
        *(Curve(Value(f"{part}_by_frame", label=part, share=True), "adherence") for part in PARTS),
    )

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._by_frame: dict[str, list[float]] = {}

    def samples(self) -> Mapping[str, Sequence[float]]:
        """Of each frame whether it shows all of its caption and each part, its overlap with the shape, and its step.

        The step is the one that led to it. NaN where a frame does not define it.
        """
        return self._by_frame

    def _read(self, clip: Clip) -> Reading:
        """What the clip shows. Keeps the samples. Raises `ClipError`."""
        self._by_frame = {}
        captions = _captions(clip)
        reading = read(clip.read())
        ends = [frame for frame, _ in captions[1:]] + [len(reading)]
        overlap = np.full(len(reading), np.nan)
        by_part = {part: np.full(len(reading), np.nan) for part in PARTS}
        for (first, caption), last in zip(captions, ends, strict=True):
            piece = slice(first, last)
            overlap[piece] = reading.overlap[piece, SHAPES.index(caption.shape)]
            if len(reading[piece]) > 1:
                for part, right in shown(reading[piece], caption).items():
                    by_part[part][piece] = right
        curves = {
            "frame_accuracy": np.min(list(by_part.values()), axis=0),
            "shape_iou": overlap,
            "motion": np.concatenate([[np.nan], np.linalg.norm(reading.steps(), axis=1)]),
            **by_part,
        }
        self._by_frame = {f"{name}_by_frame": numbers.tolist() for name, numbers in curves.items()}
        return reading


class ToyWorld(_ToyMetric):
    """Whether a clip shows what its caption says: each part, and all of them at once, by rule, in every frame.

    A clip with prompt switches is cut at them, each piece is held to its own caption, and the pieces are averaged.
    """

    version: ClassVar[str] = "2"
    values: ClassVar[tuple[Value, ...]] = (
        Value("caption_accuracy", label="caption accuracy", share=True),
        *(Value(part, label=part, share=True) for part in PARTS),
        Value("frame_accuracy", label="frame accuracy", share=True),
        *(Value(f"{part}_frames", label=f"{part}, share of frames", share=True) for part in PARTS),
        Value("shape_iou", label="shape IoU", low=0.0, high=1.0),
        Value("shape_iou_worst", label="shape IoU, worst frame", low=0.0, high=1.0),
        Value("speed_measured", unit="px/frame", direction="none", label="measured speed", low=0.0),
        Value("speed_error", unit="px/frame", direction="lower", label="error of the mean speed", low=0.0),
        Value("step_error", unit="px", direction="lower", label="error of a step", low=0.0),
    )

    def score(self, clip: Clip) -> Mapping[str, float]:
        """The values of the whole clip.

        `caption_accuracy` and the parts of the caption are 1 where every frame shows them, else 0; `frame_accuracy` is
        the share of the frames that show all parts at once, `colour_frames` and so on of those that show the part.

        Raises:
            ClipError: a prompt is no caption, the clip is not 32x32, or it is too short.
        """
        reading = self._read(clip)
        parts = _parts(clip, reading, 0, len(reading))
        verdicts = [hold(*part) for part in parts]
        names = (*PARTS, "shape_iou", "shape_iou_worst", "speed_measured", "step_error")
        errors = [abs(v.speed_measured - SPEEDS[c.speed]) for v, (_, c, _) in zip(verdicts, parts, strict=True)]
        return {
            "caption_accuracy": _mean(verdicts, "correct"),
            "frame_accuracy": _mean(verdicts, "frames_correct"),
            **{name: _mean(verdicts, name) for name in names},
            **{f"{part}_frames": float(np.mean([v.frames[part] for v in verdicts])) for part in PARTS},
            "speed_error": float(np.mean(errors)),
        }


class ToySurvival(_ToyMetric):
    """Caption accuracy over each quarter of a rollout: whether the last still shows what the first did.

    A quarter is read as a clip of its own, against the caption in force there, with the step that leads into it.
    """

    version: ClassVar[str] = "2"
    values: ClassVar[tuple[Value, ...]] = (
        Value("survival", label="survival", share=True),
        Value("quarter_1", label="first quarter", share=True),
        Value("quarter_2", label="second quarter", share=True),
        Value("quarter_3", label="third quarter", share=True),
        Value("quarter_4", label="last quarter", share=True),
        Value("quarter_1_frames", label="first quarter, share of frames", share=True),
        Value("quarter_2_frames", label="second quarter, share of frames", share=True),
        Value("quarter_3_frames", label="third quarter, share of frames", share=True),
        Value("quarter_4_frames", label="last quarter, share of frames", share=True),
        Value("shape_drift", direction="zero", label="shape IoU, last quarter less first", low=-1.0, high=1.0),
    )

    def score(self, clip: Clip) -> Mapping[str, float]:
        """`quarter_1` and so on are 1 where every frame shows all of its caption, `quarter_1_frames` the share that do.

        `survival` is `quarter_4`; `shape_drift` is negative where the shape decays.

        Raises:
            ClipError: a prompt is no caption, the clip is not 32x32, or it has fewer than 16 frames.
        """
        reading = self._read(clip)
        if len(reading) < 4 * MIN_FRAMES:
            raise ClipError(
                f"a rollout of {len(reading)} frames has no quarters of {MIN_FRAMES}",
                f"ask for {4 * MIN_FRAMES} frames or more where survival is scored",
            )
        edges = [quarter * len(reading) // 4 for quarter in range(5)]
        scores, overlap = {}, []
        for number, (start, stop) in enumerate(pairwise(edges), 1):
            verdicts = [hold(*part) for part in _parts(clip, reading, start, stop)]
            scores[f"quarter_{number}"] = _mean(verdicts, "correct")
            scores[f"quarter_{number}_frames"] = _mean(verdicts, "frames_correct")
            overlap.append(_mean(verdicts, "shape_iou"))
        return {"survival": scores["quarter_4"], **scores, "shape_drift": overlap[-1] - overlap[0]}
