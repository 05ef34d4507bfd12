"""The metric of the marked world: what a clip says of its caption, and what it keeps of its own first chunk."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from harness.contracts import Clip, Curve, Metric, Options, Value
from harness.errors import ClipError
from videomla_models.small_world.marked import FIRST, Caption
from videomla_models.small_world.marked_judge import PARTS, judge


class MarkedWorld(Metric):
    """Whether a clip keeps the mark and the background of its first chunk, and shows what its caption says, by rule.

    A foreign mark is right by chance in 1/16 of the frames, a foreign background in 1/2 of the squares. A model that
    draws the same of all clips keeps it without a cache: `mark_light` and `pattern_light` are 1/2 where it does not.
    One that draws no mark can keep none, whatever its cache: `mark_drawn` is 7/8 of true renders.
    """

    version: ClassVar[str] = "2"
    values: ClassVar[tuple[Value, ...]] = (
        Value("kept", label="frames that keep all", share=True),
        Value("mark_kept", label="mark kept", share=True),
        Value("background_kept", label="background kept", share=True),
        Value("kept_after_occlusion", label="mark kept after the lid", share=True),
        Value("mark_kept_late", label="mark kept, last quarter", share=True),
        Value("background_kept_late", label="background kept, last quarter", share=True),
        Value("frame_accuracy", label="frame accuracy", share=True),
        *(Value(f"{part}_frames", label=f"{part}, share of frames", share=True) for part in PARTS),
        Value("step_error", unit="px", direction="lower", label="error of a step", low=0.0),
        Value("mark_drawn", label="mark of two colours drawn", share=True),
        Value("mark_kept_drawn", label="mark kept where drawn", share=True),
        Value("kept_after_occlusion_drawn", label="mark kept after the lid where drawn", share=True),
        Value("mark_light", direction="none", label="light squares of the mark", share=True),
        Value("pattern_light", direction="none", label="light squares of the background", share=True),
    )
    curves: ClassVar[tuple[Curve, ...]] = (
        Curve(Value("mark_kept_by_frame", label="mark kept", share=True)),
        Curve(Value("background_kept_by_frame", label="background kept", share=True)),
        Curve(Value("frame_accuracy_by_frame", label="frame accuracy", share=True), "adherence"),
    )

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._by_frame: dict[str, list[float]] = {}

    def samples(self) -> Mapping[str, Sequence[float]]:
        """Of each frame whether it has the first chunk's mark, how much of its background, and all of its caption.

        NaN where the shape is covered, or no square of the background can be compared.
        """
        return self._by_frame

    def score(self, clip: Clip) -> Mapping[str, float]:
        """The values of the whole clip; what is kept, over the frames after the first chunk.

        `mark_kept` is the share of the frames whose shape lies open that have the whole mark, `background_kept` the
        share of the squares, `kept` the share of the frames that have both whole and show all of their caption, with
        the step that leads to them. `kept_after_occlusion` is NaN where the caption has no lid. `mark_kept_drawn` and
        `kept_after_occlusion_drawn` are the same where the first chunk shows a mark of two colours, else NaN: what the
        cache loses, apart from what was never drawn.

        Raises:
            ClipError: the prompt is no caption or switches, the clip is not 32x32, or it is too short.
        """
        self._by_frame = {}
        if clip.switches:
            raise ClipError("the prompt switches", "score only clips of one caption with this metric")
        try:
            caption = Caption.parse(clip.prompt)
        except ValueError as error:
            raise ClipError(str(error), "score only clips whose prompts are captions of the marked world") from None
        verdict = judge(clip.read(), caption)
        self._by_frame = {
            "mark_kept_by_frame": verdict.mark.tolist(),
            "background_kept_by_frame": verdict.pattern.tolist(),
            "frame_accuracy_by_frame": verdict.correct.astype(float).tolist(),
        }
        after = verdict.after_occlusion() if caption.kind == "covered" else float("nan")
        late = max(FIRST, 3 * len(verdict.mark) // 4)
        return {
            "kept": float(verdict.kept[FIRST:].mean()),
            "mark_kept": _mean(verdict.mark[FIRST:]),
            "background_kept": _mean(verdict.pattern[FIRST:]),
            "kept_after_occlusion": after,
            "mark_kept_late": _mean(verdict.mark[late:]),
            "background_kept_late": _mean(verdict.pattern[late:]),
            "frame_accuracy": float(verdict.correct.mean()),
            **{f"{part}_frames": float(shown.mean()) for part, shown in verdict.parts.items()},
            "step_error": _mean(verdict.step_error),
            "mark_drawn": float(verdict.drawn),
            "mark_kept_drawn": _mean(verdict.mark[FIRST:]) if verdict.drawn else float("nan"),
            "kept_after_occlusion_drawn": after if verdict.drawn else float("nan"),
            "mark_light": verdict.light[0],
            "pattern_light": verdict.light[1],
        }


def _mean(numbers: np.ndarray) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # all may be NaN, and so is their mean
        return float(np.nanmean(numbers))
