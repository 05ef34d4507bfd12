"""Draw a `complexity` measurement log-log: FLOPs, bytes and time against window and clip length. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from harness.errors import RecordError
from harness.report.plots.chart import Axis, Line, Panel, spaced

SWEEPS = (
    ("window_frames", "window_attention_flops", "window (latent frames)", "attention FLOPs of the last chunk", ""),
    ("window_frames", "window_bytes", "window (latent frames)", "cache bytes", "B"),
    ("window_frames", "window_s", "window (latent frames)", "time of the last chunk", "s"),
    ("clip_frames", "clip_attention_flops", "clip (latent frames)", "attention FLOPs of the last chunk", ""),
    ("clip_frames", "clip_bytes", "clip (latent frames)", "cache bytes", "B"),
    ("clip_frames", "clip_s", "clip (latent frames)", "time of the clip", "s"),
)
"""Samples on either axis of each panel, the axes' names, and the unit of the upper one. Records of version 1 of the
probe hold no FLOPs and bytes by clip, and have no such panels."""


def panels(samples: Mapping[str, Sequence[float]]) -> tuple[Panel, ...]:
    """A panel for every sweep that was measured, with a line for every form of attention.

    Raises `RecordError` when the samples are not those of a `complexity` record.
    """
    forms = [name.partition(":")[0] for name in samples if name.endswith(":window_flops")]
    if not forms:
        raise RecordError("the record holds no sweep over attention forms", "give a record of `complexity`")
    result = []
    for across, up, across_label, up_label, unit in SWEEPS:
        if not any(_measured(samples.get(f"{form}:{up}", ())) for form in forms):
            continue
        x = tuple(samples[across])
        heights = [tuple(y if y > 0 else math.nan for y in samples[f"{form}:{up}"]) for form in forms]
        lines = tuple(
            Line(
                form.replace("_", " "),
                number,
                x,
                heights[number],
                under=_covered(heights[number], heights[number + 1 :]),
            )
            for number, form in enumerate(forms)
        )
        result.append(Panel(Axis(across_label, log=True, ticks=spaced(x)), Axis(up_label, unit, log=True), lines))
    return tuple(result)


def _measured(numbers: Sequence[float]) -> bool:
    return any(number > 0 and math.isfinite(number) for number in numbers)


def _covered(line: Sequence[float], later: Sequence[Sequence[float]]) -> bool:
    """Whether a line drawn later runs over `line`, within a percent, for half of it or more."""
    return any(
        sum(math.isclose(a, b, rel_tol=0.01) for a, b in zip(line, other, strict=True)) * 2 >= len(line)
        for other in later
    )
