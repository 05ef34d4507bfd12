"""Every definition of drift by its name, as its source computes it, with what is wrong with it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from harness.contracts import Direction, Value
from harness.report.drift.series import Floats, Series
from harness.suite.sampled import DriftDefinition

PIECE_SECONDS = 2.0
HELIOS_SHARE = 0.15
"""DRIFT_RATIO of Helios' eval/5_get_drifting_aesthetic.py (PKU-YuanGroup/Helios at 2276f8f)."""
VDE_PARTS = 10
"""N_CHUNKS of LV-Bench's vde.py (alibaba-damo-academy/Inferix at 77170de)."""
ENDS_SECONDS = 5.0
"""CLIP_SECONDS of Forcing-KV's evaluation/VBench/drift/vbench_drift.sh (zju-jiyicheng/Forcing-KV at f50ed63)."""
PREFIX_STEP, PREFIX_MOST = 50, 700
"""Frames: --frame-step and --max-frames of scripts/04_eval_drift_curve.py (kv-quant-longhorizon at 937f118)."""
SWITCH_SECONDS = 5.0
"""Longest stretch before and after a switch that counts for its adherence. Chosen here."""
REGAINED = 0.9
"""Share of the level before a switch from which on its adherence counts as regained. Chosen here."""


@dataclass(frozen=True, slots=True)
class Track:
    """A curve of one clip, and what happens in it.

    Attributes:
        series: the values; of a `distance` curve its edges are the distances.
        seconds: length of a piece. switches: first frames of new prompts.
        borders: first frames of all chunks but the first.
        which: number of the one switch that counts, from 0; all of them unless given.
    """

    series: Series
    seconds: float = PIECE_SECONDS
    switches: tuple[int, ...] = ()
    borders: tuple[int, ...] = ()
    which: int | None = None


@dataclass(frozen=True, slots=True)
class Definition:
    """One way to make a number of a curve.

    Attributes:
        label: heading of its column. source: who defines it so.
        direction: better way; `curve` for that of the curve.
        unit: of the result; `curve` for that of the curve.
        of: the number of one clip; NaN where the clip does not define it, infinite where the source's code says so.
        share: whether it is a share whatever the curve is.
    """

    label: str
    source: str
    direction: Direction | Literal["curve"]
    unit: str
    of: Callable[[Track], float]
    share: bool = False

    def value(self, name: str, curve: Value) -> Value:
        """How to read the number of `curve`."""
        direction = curve.direction if self.direction == "curve" else self.direction
        # A level of shares is a share; a difference of two is none.
        share = (curve.share and self.direction == "curve") or self.share
        return Value(name, curve.unit if self.unit == "curve" else self.unit, direction, self.label, share)


# -------------------------------------------------------------------------------- along the whole clip


def spread(track: Track) -> float:
    """Population standard deviation over pieces."""
    pieces = track.series.pieces(track.seconds)
    defined = pieces[~np.isnan(pieces)]
    return float(np.std(defined)) if defined.size > 1 else math.nan


def first_last_share(track: Track) -> float:
    """|mean of the first 15 % of the frames - mean of the last 15 %|."""
    frames = track.series.frames
    count = max(1, int(frames * HELIOS_SHARE))
    return abs(track.series.change((0, count), (frames - count, frames)))


def vde(track: Track) -> float:
    """Sum over parts i = 2 to 10 of (10 - i + 1) |m_i - m_1| / m_1; infinite where m_1 is 0."""
    if track.series.frames < VDE_PARTS or np.count_nonzero(~np.isnan(track.series.values)) < 2:
        return math.nan
    parts = track.series.parts(VDE_PARTS)
    if np.isnan(parts).any():
        return math.nan
    if parts[0] == 0:
        return math.inf
    weights = np.arange(VDE_PARTS - 1, 0, -1)
    return float((weights * np.abs(parts[1:] - parts[0]) / parts[0]).sum())


def ends(track: Track) -> float:
    """Last 5 seconds less the first 5; the source subtracts the other way. NaN below 10 seconds, which it refuses."""
    series = track.series
    count = ENDS_SECONDS * series.frame_rate
    if series.frames < 2 * count:
        return math.nan
    return series.change((0, count), (series.frames - count, series.frames))


def prefix(track: Track) -> float:
    """The mean over the longest prefix of a multiple of 50 frames, at most 700, which the source calls terminal."""
    frames = min(track.series.frames, PREFIX_MOST) // PREFIX_STEP * PREFIX_STEP
    return track.series.mean(0, frames) if frames else math.nan


def last(track: Track) -> float:
    """The level of the last piece."""
    return float(track.series.pieces(track.seconds)[-1])


def halves(track: Track) -> float:
    """The second half less the first."""
    frames = track.series.frames
    return track.series.change((0, frames / 2), (frames / 2, frames))


# ------------------------------------------------------------------------------------- borders of chunks


def _border_and_inside(track: Track) -> tuple[Floats, Floats]:
    by_frame = track.series.by_frame()
    # Nothing leads to the first frame.
    inside = np.arange(len(by_frame)) > 0
    borders = [border for border in track.borders if 0 < border < len(by_frame)]
    inside[borders] = False
    at, between = by_frame[borders], by_frame[inside]
    return at[~np.isnan(at)], between[~np.isnan(between)]


def border_ratio(track: Track) -> float:
    """Mean step over a border over the mean step inside chunks."""
    at, inside = _border_and_inside(track)
    return float(at.mean() / inside.mean()) if at.size and inside.size and inside.mean() > 0 else math.nan


def border_excess(track: Track) -> float:
    """Mean step over a border less the mean step inside chunks."""
    at, inside = _border_and_inside(track)
    return float(at.mean() - inside.mean()) if at.size and inside.size else math.nan


def peak(track: Track) -> float:
    """The largest step over the mean step, wherever it is; the source's code looks at no border."""
    at, inside = _border_and_inside(track)
    steps = np.concatenate([at, inside])
    return float(steps.max() / steps.mean()) if steps.size and steps.mean() > 0 else math.nan


# -------------------------------------------------------------------------------------- frame distances


def decay_mean(track: Track) -> float:
    """Mean similarity over the distances."""
    defined = track.series.values[~np.isnan(track.series.values)]
    return float(defined.mean()) if defined.size else math.nan


def decay_drop(track: Track) -> float:
    """Similarity at the shortest distance less that at the longest."""
    defined = track.series.values[~np.isnan(track.series.values)]
    return float(defined[0] - defined[-1]) if defined.size > 1 else math.nan


# -------------------------------------------------------------------------------------- prompt switches


def _stretches(track: Track) -> list[tuple[float, float, float]]:
    """For each switch that counts (from, at, to): the stretches before and after it, cut at its neighbours."""
    reach, frames = SWITCH_SECONDS * track.series.frame_rate, track.series.frames
    happened = [(number, frame) for number, frame in enumerate(track.switches) if 0 < frame < frames]
    places = [0, *(frame for _, frame in happened), frames]
    stretches = [
        (max(before, at - reach), at, min(after, at + reach))
        for (before, at), (_, after) in zip(pairwise(places), pairwise(places[1:]), strict=False)
    ]
    numbered = zip((number for number, _ in happened), stretches, strict=True)
    return [stretch for number, stretch in numbered if track.which in (None, number)]


def _over_switches(one: Callable[[Series, tuple[float, float, float]], float]) -> Callable[[Track], float]:
    """The mean over the switches of a clip that define it."""

    def mean(track: Track) -> float:
        numbers = [one(track.series, stretch) for stretch in _stretches(track)]
        defined = [number for number in numbers if not math.isnan(number)]
        return float(np.mean(defined)) if defined else math.nan

    return mean


def _regained(series: Series, stretch: tuple[float, float, float]) -> float:
    """Seconds from the switch to the first frame that is at the level before it again; infinite where none is."""
    level = REGAINED * series.mean(stretch[0], stretch[1])
    if not level > 0:
        return math.nan
    at, to = int(stretch[1]), math.ceil(stretch[2])
    reached = np.flatnonzero(series.by_frame()[at:to] >= level)
    return float(reached[0]) / series.frame_rate if reached.size else math.inf


def _regained_within(series: Series, stretch: tuple[float, float, float]) -> float:
    seconds = _regained(series, stretch)
    return math.nan if math.isnan(seconds) else float(math.isfinite(seconds))


def _regained_seconds(series: Series, stretch: tuple[float, float, float]) -> float:
    seconds = _regained(series, stretch)
    return seconds if math.isfinite(seconds) else math.nan


OURS = "this project"
DEFINITIONS: Mapping[DriftDefinition, Definition] = {
    "spread": Definition("spread over pieces", "Reward Forcing, arXiv 2512.04678", "lower", "curve", spread),
    "first_last_share": Definition(
        "first to last 15 %", "Helios, PKU-YuanGroup/Helios", "lower", "curve", first_last_share
    ),
    "vde": Definition("VDE", "LV-Bench, vde.py of alibaba-damo-academy/Inferix", "lower", "", vde),
    "ends": Definition("last 5 s less first", "Forcing-KV, vbench_drift.sh", "zero", "curve", ends),
    "prefix": Definition("terminal drift", "arXiv 2603.27469, 04_eval_drift_curve.py", "curve", "curve", prefix),
    "last": Definition("last piece", OURS, "curve", "curve", last),
    "halves": Definition("second half less first", OURS, "zero", "curve", halves),
    "border_ratio": Definition("border over inside", OURS, "lower", "", border_ratio),
    "border_excess": Definition("border less inside", OURS, "zero", "curve", border_excess),
    "peak": Definition("largest over mean", "Forcing-KV, optical_difference.py", "lower", "", peak),
    "decay_mean": Definition("mean over distances", "issue 206 of Vchitect/VBench", "higher", "curve", decay_mean),
    "decay_drop": Definition("nearest less farthest", OURS, "lower", "curve", decay_drop),
    "before_switch": Definition(
        "before a switch", OURS, "curve", "curve", _over_switches(lambda s, at: s.mean(at[0], at[1]))
    ),
    "after_switch": Definition(
        "after a switch", OURS, "curve", "curve", _over_switches(lambda s, at: s.mean(at[1], at[2]))
    ),
    "over_switch": Definition(
        "after less before a switch",
        OURS,
        "zero",
        "curve",
        _over_switches(lambda s, at: s.change(at[:2], at[1:])),
    ),
    "regained_s": Definition("switch to regained", OURS, "lower", "s", _over_switches(_regained_seconds)),
    "regained": Definition("switches regained", OURS, "higher", "", _over_switches(_regained_within), True),
}
"""The definitions in the order of their columns."""
