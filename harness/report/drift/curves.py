"""Read the curves of the clips of an arm from the samples in the records of their scores."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.contracts import Curve, Metric, ModelCard, registry
from harness.report.drift.definitions import DEFINITIONS, Definition, Track
from harness.report.drift.series import Series, of_equal_parts, of_frames, of_pieces
from harness.report.samples import Samples
from harness.report.switching import frames_of
from harness.report.view import View
from harness.runs.index import IndexEntry
from harness.runs.plan import Group
from harness.suite.sampled import Drift, DriftDefinition, suits
from harness.suite.schema import GenerateSection

MOST_FRAMES = 1_000_000
"""Frames of a clip, as a suite allows; a record that says more is not believed."""


@dataclass(frozen=True, slots=True)
class Tracks:
    """One curve of every scored clip of an arm.

    Attributes:
        samples: of the metric on these clips, whose order `tracks` has.
        tracks: None for a clip whose record holds no such samples, or ones that do not fit the clip.
    """

    samples: Samples
    tracks: Sequence[Track | None]

    def numbers(self, definition: Definition) -> NDArray[np.float64]:
        """The definition of each clip, [n]; NaN where the clip does not define it."""
        return np.array([np.nan if track is None else definition.of(track) for track in self.tracks])

    @property
    def recorded(self) -> bool:
        """Whether any record holds the curve."""
        return any(track is not None for track in self.tracks)


def chosen_curves(drift: Drift, section: GenerateSection) -> Iterator[tuple[str, Curve]]:
    """The metric and curve of each that `drift` asks for."""
    for use in section.metrics:
        if drift.metric in ("", use.name):
            for curve in registry.metrics.get(use.name).curves:
                if not drift.curves or curve.value.name in drift.curves:
                    yield use.name, curve


def title_of(metric: str, curve: Curve, section: GenerateSection) -> str:
    """What tables and pictures call a curve: with its metric where another one of the section has one of that name."""
    own = curve.value.label or curve.value.name.replace("_", " ")
    return f"{own}, {metric}" if _shared(curve, section) else own


def file_of(metric: str, curve: Curve, section: GenerateSection) -> str:
    """A file name for the same."""
    own = f"{metric}-{curve.value.name}" if _shared(curve, section) else curve.value.name
    return re.sub(r"[^A-Za-z0-9_.+\-]", "_", own)


def _shared(curve: Curve, section: GenerateSection) -> bool:
    owners = [
        use.name
        for use in section.metrics
        for each in registry.metrics.get(use.name).curves
        if each.value.name == curve.value.name
    ]
    return len(owners) > 1


def chosen_definitions(drift: Drift, curve: Curve, switches: bool) -> list[tuple[DriftDefinition, Definition]]:
    """Those that suit the curve, in the order asked for; the ones of prompt switches where a section has some."""
    names: Sequence[DriftDefinition] = drift.definitions or tuple(DEFINITIONS)
    return [(name, DEFINITIONS[name]) for name in names if suits(name, curve.kind, switches)]


def read_tracks(view: View, section: GenerateSection, group: Group, seconds: float) -> dict[str, Tracks]:
    """Every curve of the group's metric, by the name of its samples. Each record is read once."""
    metric: type[Metric] = registry.metrics.get(group.plugin)
    samples = view.samples(section, group)
    clips = view.groups[section.name, "", group.arm]
    card, prefixed = view.arms[group.arm].card, bool(view.run.suite.prompts[section.prompts].prefixes)
    by_curve: dict[str, list[Track | None]] = {curve.value.name: [] for curve in metric.curves}
    for place in samples.places.tolist():
        lists = view.records.at(view.run.index[group.keys[place]].offset).samples
        entry = view.run.index.get(clips.keys[place])
        facts = None if entry is None else _facts(view, entry, card, prefixed)
        for curve in metric.curves:
            by_curve[curve.value.name].append(_track(curve, lists, facts, seconds) if facts else None)
    return {name: Tracks(samples, tracks) for name, tracks in by_curve.items()}


@dataclass(frozen=True, slots=True)
class _Facts:
    """What the record of a clip says of its time."""

    frames: int
    frame_rate: float
    switches: tuple[int, ...]
    borders: tuple[int, ...]


def _facts(view: View, entry: IndexEntry, card: ModelCard, prefixed: bool) -> _Facts | None:
    clip = entry.clip
    frames, rate = clip.get("frames"), clip.get("frame_rate")
    if not (isinstance(frames, int) and isinstance(rate, int | float) and 0 < frames <= MOST_FRAMES and rate > 0):
        return None
    record = view.records.at(entry.offset)
    preimage: Any = record.preimage
    stated = clip.get("switches") or [{"asked": frame, "frame": None} for frame, _ in preimage.get("switches", ())]
    return _Facts(
        frames,
        float(rate),
        tuple(frames_of(stated)),
        tuple(_borders(frames, record.notes.get("chunks"), card, prefixed)),
    )


def _borders(frames: int, chunks: object, card: ModelCard, prefixed: bool) -> Iterator[int]:
    """First frames of the chunks but the first: by the record, or by the card where the record does not say.

    A causal decoder makes one pixel frame of the first latent one, unless a prefix came before.
    """
    if isinstance(chunks, list) and all(isinstance(count, int) and count > 0 for count in chunks):
        yield from (border for border in accumulate(chunks) if border < frames)
        return
    first = card.frames_per_chunk - (0 if prefixed else card.temporal_ratio - 1)
    if first > 0:
        yield from range(first, frames, card.frames_per_chunk)


def _track(curve: Curve, lists: Mapping[str, Sequence[float]], facts: _Facts, seconds: float) -> Track | None:
    values = lists.get(curve.value.name, ())
    at, starts = lists.get(curve.frames, ()), lists.get(curve.starts, ())
    if curve.kind == "distance":
        series = _of_distances(values, at)
    elif curve.kind == "step" and not at:
        # Nothing leads to the first frame, or the first step would count twice.
        steps = [np.nan, *values] if values else ()
        series = of_frames(steps, range(len(steps)), facts.frames, facts.frame_rate)
    elif at:
        series = of_frames(values, at, facts.frames, facts.frame_rate)
    elif starts:
        series = of_pieces(values, starts, facts.frames, facts.frame_rate)
    else:
        series = of_equal_parts(values, facts.frames, facts.frame_rate)
    return None if series is None else Track(series, seconds, facts.switches, facts.borders)


def _of_distances(values: Sequence[float], distances: Sequence[float]) -> Series | None:
    """A series whose edges are distances in frames; its value k is of pairs `edges[k]` apart."""
    if not values or len(values) != len(distances) or not (np.diff(distances) > 0).all():
        return None
    return Series(np.array([*distances, distances[-1] + 1.0]), np.array(values, np.float64), 1.0)
