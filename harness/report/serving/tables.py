"""Tables of what a viewer sees by buffer and frame rate, and of what an operator pays, from records of chunk times."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from harness.contracts import Direction
from harness.report.cells import UNDEFINED_TEXT, cell_of
from harness.report.samples import doubts
from harness.report.serving.player import Playback, play
from harness.report.switching import frames_of
from harness.report.table import AT_LEAST, RANDOM_WEIGHTS, Cell, Heading, Row, Table, numeral
from harness.report.view import View
from harness.runs.line import Record
from harness.runs.plan import Group
from harness.suite.sampled import Serving
from harness.suite.schema import MeasureSection

NOT_RECORDED = Cell("not recorded")


@dataclass(frozen=True, slots=True)
class Stream:
    """The chunk times of one measurement.

    Attributes:
        clips: seconds of each chunk, of each clip. frames: of each chunk of a clip.
        switch_extra_s: by which the chunk after a prompt switch takes longer; None where no prompt switched.
    """

    clips: Sequence[Sequence[float]]
    frames: Sequence[int]
    switch_extra_s: float | None


def stream_of(record: Record) -> Stream | None:
    """The chunk times of a record of the streaming probe; None where it holds none that fit together."""
    gaps, frames = record.samples.get("gap_s", ()), record.notes.get("frames_per_chunk")
    if not (isinstance(frames, list) and frames and all(isinstance(count, int) and count > 0 for count in frames)):
        return None
    if not gaps or len(gaps) % len(frames) or not all(math.isfinite(gap) and gap >= 0 for gap in gaps):
        return None
    clips = [list(gaps[start : start + len(frames)]) for start in range(0, len(gaps), len(frames))]
    places = _switch_chunks(record.notes.get("switches"), frames)
    if not places:
        return Stream(clips, frames, None)
    extras = []
    for clip in clips:
        usual = float(np.median([seconds for place, seconds in enumerate(clip) if place and place not in places]))
        extras += [clip[place] - usual for place in places]
        # The time of the chunk itself is that of any other, so that a switch is counted once.
        for place in places:
            clip[place] = usual
    return Stream(clips, frames, max(0.0, float(np.median(extras))))


def _switch_chunks(switches: Any, frames: Sequence[int]) -> list[int]:
    """The chunks that first show each prompt. None of them is the first, and one other is left to compare with."""
    if len(frames) < 3:
        return []
    ends = np.cumsum(frames)
    places = [int(np.searchsorted(ends, frame, side="right")) for frame in frames_of(switches)]
    return [place for place in dict.fromkeys(places) if 0 < place < len(frames)][: len(frames) - 2]


def tables(views: Sequence[View]) -> Iterator[Table]:
    """Both tables of every entry of `serving` in the suites of `views`; of several runs with the folder's name."""
    for view in views:
        prefix = f"{view.run.folder.name}-" if len(views) > 1 else ""
        for serving in view.run.suite.serving:
            section = next(each for each in view.run.suite.measure if each.name == serving.section)
            groups = {
                group.arm: group
                for group in view.run.groups
                if group.section == section.name and (serving.models is None or group.arm in serving.models)
            }
            yield _player(view, serving, section, groups, prefix)
            yield _operator(view, serving, section, groups, prefix)


# ------------------------------------------------------------------------------------------- the viewer

VIEWER: Sequence[tuple[str, str, Direction, Callable[[Playback], float]]] = (
    ("start-up", "s", "lower", lambda played: played.startup_s),
    ("stalls", "per minute", "lower", lambda played: 60 * len(played.stalls_s) / played.played_s),
    ("stalled", "s per minute", "lower", lambda played: 60 * float(played.stalls_s.sum()) / played.played_s),
    ("longest stall", "s", "lower", lambda played: float(max(played.stalls_s, default=0.0))),
    ("frames late", "share", "lower", lambda played: played.late),
)
"""Columns of the viewer: label, unit, better direction, and the number of one clip."""


def _player(view: View, serving: Serving, section: MeasureSection, groups: Mapping[str, Group], prefix: str) -> Table:
    columns = [Heading(label, unit, direction) for label, unit, direction, _ in VIEWER]
    columns += [Heading("switch to screen, mean", "s", "lower"), Heading("switch to screen, worst", "s", "lower")]
    rows, without_cost = [], []
    for label, group in groups.items():
        card = view.arms[label].card
        records = list(view.rounds(group).values())
        judgements = view.samples(section, group).judgements
        streams = [stream for record in records if (stream := stream_of(record)) is not None]
        if streams and all(stream.switch_extra_s is None for stream in streams):
            without_cost.append(label)
        for rate in serving.frame_rates or [card.frame_rate]:
            for buffer in serving.buffers_s:
                cells = _viewed(streams, rate, buffer, serving.ahead_s, len(columns)) if records else None
                of_row = (RANDOM_WEIGHTS,) * (card.weights == "random") + doubts(judgements)
                name = f"{label}, {rate:g} frames/s, buffer {buffer:g} s"
                rows.append(Row(name, cells or (Cell("not measured"),) * len(columns), marks=of_row))
    remarks = [
        f"A player that starts when its buffer is there and stalls where a frame is not; the generator waits while "
        f"more than {serving.ahead_s:g} s are ahead. The median over clips of their number in {serving.section}; a "
        "switch to screen is over prompts given as each frame appears, its worst of all clips."
    ]
    if without_cost:
        names = ", ".join(without_cost)
        remarks.append(f"{names}: no prompt switches in {serving.section}, so that a switch costs no time of its own.")
    title = f"{serving.title or serving.name}: a viewer, by frame rate and buffer"
    return Table(f"{prefix}{serving.name}-viewer", title, tuple(columns), tuple(rows), remarks=tuple(remarks))


def _viewed(streams: Sequence[Stream], rate: float, buffer: float, ahead: float, width: int) -> tuple[Cell, ...]:
    """The cells of one arm at one frame rate and buffer."""
    clips = [
        (play(clip, stream.frames, rate, buffer, max(ahead, buffer)), stream.switch_extra_s or 0.0)
        for stream in streams
        for clip in stream.clips
    ]
    if not clips:
        return (NOT_RECORDED,) * width
    numbers = [float(np.median([number(played) for played, _ in clips])) for *_, number in VIEWER]
    waits = [played.switch_s(extra) for played, extra in clips]
    every = np.concatenate(waits)
    numbers += [float(every.mean()), float(every.max())] if every.size else [math.nan, math.nan]
    return tuple(_cell(number) for number in numbers)


def _cell(number: float, spec: str = "") -> Cell:
    return Cell(numeral(number, number, spec), number) if math.isfinite(number) else Cell(UNDEFINED_TEXT)


# ----------------------------------------------------------------------------------------- the operator


def _operator(view: View, serving: Serving, section: MeasureSection, groups: Mapping[str, Group], prefix: str) -> Table:
    price = serving.price_per_hour
    headings = [
        Heading("video made", "s of video per s", "higher"),
        Heading("energy", "J per s of video", "lower"),
        Heading("one request at a time", f"{serving.currency} per minute of video", "lower"),
    ]
    if serving.sessions:
        headings += [
            Heading("sessions in real time", "", "higher"),
            Heading("all of them", f"{serving.currency} per minute of video", "lower"),
        ]
    rows = []
    for label, group in groups.items():
        card = view.arms[label].card
        speed = _value(view, section, group, "end_to_end_fps")
        video_rate = _in_other_units(speed, partial(_divided, by=card.frame_rate))
        energy = _value(view, section, group, "joules_per_video_s")
        cells = [video_rate, energy, _in_other_units(video_rate, partial(_cost, price))]
        if serving.sessions:
            at = next(each for each in view.run.suite.measure if each.name == serving.sessions)
            other = view.groups.get((at.name, at.probe, label))
            count = Cell("not measured") if other is None else _value(view, at, other, "sessions")
            cells += [count, _in_other_units(count, partial(_cost, price))]
        random = (RANDOM_WEIGHTS,) * (card.weights == "random")
        rows.append(Row(label, tuple(cells), label == view.run.suite.reference, random))
    remarks = [f"Video made and energy are those of {section.name}, at its batch of {section.batch}."]
    if serving.sessions:
        remarks.append(_session_rate(view, serving.sessions))
    if price is None:
        remarks.append("The suite states no `price_per_hour`, so that nothing has a cost.")
    else:
        remarks.append(f"The device costs {price:g} {serving.currency} per hour, as the suite states.")
    title = f"{serving.title or serving.name}: an operator"
    return Table(f"{prefix}{serving.name}-operator", title, tuple(headings), tuple(rows), remarks=tuple(remarks))


def _session_rate(view: View, name: str) -> str:
    """How fast the sessions of section `name` play, which says what a minute of their video is."""
    section = next(each for each in view.run.suite.measure if each.name == name)
    rate = section.options.get("frame_rate")
    speed = "at the frame rate of the model" if rate is None else f"at {rate:g} frames/s, whatever that of the model is"
    return f"Sessions are those of {name}; each plays a minute of video in a minute, {speed}."


def _value(view: View, section: MeasureSection, group: Group, name: str) -> Cell:
    records = view.rounds(group).values()
    if records and not any(name in record.values for record in records):
        return NOT_RECORDED
    value = next(each for values in view.given(section).values() for each in values if each.name == name)
    return cell_of(view, section, group, value, "", [])


def _in_other_units(cell: Cell, number: Callable[[float], float | None]) -> Cell:
    """`cell` with another number in place of its own; as it is where it has none, `not stated` for None."""
    if cell.value is None:
        return cell
    other = number(cell.value)
    if other is None:
        return Cell("not stated")
    # What is divided by at least so much is at most so much.
    bound = "<= " * (AT_LEAST in cell.marks and math.isfinite(other))
    text, value = bound + _cell(other).text, other if math.isfinite(other) else None
    return Cell(text, value, rounds=cell.rounds, marks=cell.marks)


def _divided(number: float, by: float) -> float:
    return number / by


def _cost(price_per_hour: float | None, per_second: float) -> float | None:
    """What a minute of video costs where so many seconds of it are made a second."""
    if price_per_hour is None:
        return None
    return price_per_hour / 60 / per_second if per_second > 0 else math.nan
