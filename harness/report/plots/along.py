"""Draw how values hold along the clips of a section: mean and 95 % band of each arm, a panel a curve."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from harness.contracts import Curve
from harness.report.drift.curves import Tracks, chosen_curves, read_tracks, title_of
from harness.report.drift.definitions import Track
from harness.report.plots.chart import Axis, Line, Panel, Picture, Rule
from harness.report.table import NOTES, RANDOM_WEIGHTS
from harness.report.view import View
from harness.runs.records import Run
from harness.stats.estimates import Estimate, clustered_mean
from harness.suite.sampled import Drift


def picture(drift: Drift, run: Run) -> Picture:
    """The curves of one entry of `drift`, in pieces of its `seconds`; of frame distances over those."""
    view = View(run)
    section = next(each for each in run.suite.generate if each.name == drift.section)
    read: dict[tuple[str, str], dict[str, Tracks]] = {}
    panels, marked = [], False
    for metric, curve in chosen_curves(drift, section):
        lines, switches = [], set[float]()
        for number, label in enumerate(view.arms):
            group = view.groups.get((section.name, metric, label))
            if group is None or (drift.models is not None and label not in drift.models):
                continue
            if (metric, label) not in read:
                read[metric, label] = read_tracks(view, section, group, drift.seconds)
            tracks = read[metric, label][curve.value.name]
            random = view.arms[label].card.weights == "random"
            marked = marked or random
            lines.append(_line(tracks, curve, label + RANDOM_WEIGHTS * random, number))
            switches |= {at / track.series.frame_rate for track in tracks.tracks if track for at in track.switches}
        rules = tuple(Rule(" switch", x=at) for at in sorted(switches)) if curve.kind != "distance" else ()
        panels.append(_panel(title_of(metric, curve, section), curve, lines, rules))
    remarks = ["Bands: 95 % interval of the mean over clips, clustered by prompt."]
    remarks += [f"{RANDOM_WEIGHTS} {NOTES[RANDOM_WEIGHTS]}."] * marked
    return Picture(drift.name, drift.title or drift.name, tuple(panels), tuple(remarks))


def _panel(name: str, curve: Curve, lines: Sequence[Line], rules: tuple[Rule, ...]) -> Panel:
    across = Axis("frames between") if curve.kind == "distance" else Axis("time in the clip", "s")
    return Panel(across, Axis(name, curve.value.unit), tuple(line for line in lines if line.x), rules)


def _line(tracks: Tracks, curve: Curve, label: str, look: int) -> Line:
    """The mean of each piece over the clips that reach it, with its interval."""
    by_place: dict[float, list[tuple[float, int]]] = {}
    for track, prompt in zip(tracks.tracks, tracks.samples.prompts.tolist(), strict=True):
        if track is not None:
            for place, number in _points(track, curve):
                if not math.isnan(number):
                    by_place.setdefault(place, []).append((number, prompt))
    places = sorted(by_place)
    means = [_mean(by_place[place], curve.value.share) for place in places]
    low = tuple(mean.low if mean.bounded else mean.value for mean in means)
    high = tuple(mean.high if mean.bounded else mean.value for mean in means)
    y = tuple(mean.value for mean in means)
    return Line(label, look, tuple(places), y, low, high, marked=len(places) <= 20, band=True)


def _mean(numbers: Sequence[tuple[float, int]], share: bool) -> Estimate:
    values, prompts = zip(*numbers, strict=True)
    return clustered_mean(np.array(values), np.array(prompts), share=share)


def _points(track: Track, curve: Curve) -> list[tuple[float, float]]:
    """(place, value): seconds of the middle of each piece, or frames of each distance."""
    series = track.series
    if curve.kind == "distance":
        return list(zip(series.edges[:-1].tolist(), series.values.tolist(), strict=True))
    pieces = series.pieces(track.seconds).tolist()
    spans = series.ranges(track.seconds)
    if len(spans) != len(pieces):
        spans = list(zip(series.edges[:-1], series.edges[1:], strict=True))
    # Pieces of clips of one length fall on one place.
    return [(round((a + b) / 2 / series.frame_rate, 3), number) for (a, b), number in zip(spans, pieces, strict=True)]
