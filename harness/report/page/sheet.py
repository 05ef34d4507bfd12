"""A contact sheet for papers: frames of clips side by side as one PNG, a row an arm, each prompt above its rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, prod
from textwrap import wrap
from typing import Any

import numpy as np

from harness.contracts import Frames
from harness.errors import ClipError, RecordError, nearest
from harness.report.plots import style
from harness.runs.folder import agrees, inside
from harness.runs.index import IndexEntry
from harness.runs.records import Run
from harness.suite.schema import ALL, GenerateSection
from harness.suite.scripts import scripts_of
from harness.system import video

MOST_PIXELS = 64_000_000
LETTER, LINE, GAP, MARGIN = 7.2, 17, 4, 12
"""Pixels: of an average letter of the captions, of a line, between pictures, around all."""
MOST_LINES = 4
"""Lines of a prompt; a longer one ends in an ellipsis."""
DPI, POINTS = 100, 9


@dataclass(frozen=True, slots=True)
class Choice:
    """What a sheet shows.

    Attributes:
        prompts: numbers from 0, ranges as `2-5`, lists as `0,3`, or words that a prompt contains; the first four if
            none. frames: numbers from 0, negative ones from the end; six through the whole clip if none.
        arms: labels; all if none. section: of `generate`; the first if empty. seed: the section's first if None.
        width: pixels of a picture; small ones are enlarged by a whole factor that stays below it.
    """

    prompts: Sequence[str] = ()
    frames: Sequence[int] = ()
    arms: Sequence[str] = ()
    section: str = ""
    seed: int | None = None
    width: int = 200


def sheet(run: Run, choice: Choice) -> bytes:
    """The PNG. A clip or frame that is not there is a marked place.

    Raises `RecordError` where the choice names what the run has not, or makes a sheet too large.
    """
    section = _section(run, choice.section)
    texts = [script.text for script in scripts_of(run.suite, section)]
    numbers = _numbers(choice.prompts, texts)
    seed = section.seeds[0] if choice.seed is None else choice.seed
    if seed not in section.seeds:
        raise RecordError(f"section {section.name!r} has no seed {seed}", nearest(str(seed), map(str, section.seeds)))
    labels = _arms(run, section, choice.arms)
    length = _length(run, section)
    frames = list(choice.frames) or [int((place + 0.5) * length / 6) for place in range(6)]
    rows: list[tuple[str, list[_Places]]] = []
    room = MOST_PIXELS
    for number in numbers:
        key_place = number * len(section.seeds) + section.seeds.index(seed)
        rows.append((texts[number], []))
        for label in labels:
            entry = _entry(run, section, label, key_place)
            # Refused before the frames are read, as they may not fit in memory.
            room -= len(frames) * prod(_size(entry.clip, choice.width)) if entry and entry.clip else 0
            if room < 0:
                raise RecordError(
                    f"the sheet would have more than {MOST_PIXELS} pixels", "choose fewer prompts, models or frames"
                )
            rows[-1][1].append(_pictures(run, entry, frames, choice.width))
    return _draw(rows, labels, [frame if frame >= 0 else length + frame for frame in frames], choice.width)


def _section(run: Run, name: str) -> GenerateSection:
    if not run.suite.generate:
        raise RecordError(f"{run.folder} has no clips to show")
    for section in run.suite.generate:
        if name in ("", section.name):
            return section
    raise RecordError(f"no section {name!r}", nearest(name, [section.name for section in run.suite.generate]))


def _length(run: Run, section: GenerateSection) -> int:
    """Frames of a clip; of clips as long as each is, those of the shortest one."""
    if section.frames != ALL:
        return section.frames
    keys = [key for g in run.groups if (g.section, g.kind) == (section.name, "generate") for key in g.keys]
    entries = [entry for key in keys if (entry := run.index.get(key)) is not None and entry.status == "ok"]
    return min((int(entry.clip["frames"]) for entry in entries), default=1)


def _numbers(asked: Sequence[str], texts: Sequence[str]) -> list[int]:
    chosen: dict[int, None] = {}
    for item in asked or [f"0-{min(4, len(texts)) - 1}"]:
        if item and set(item) <= set("0123456789,- "):
            for part in item.split(","):
                chosen.update(dict.fromkeys(_range(part.strip(), item, len(texts))))
        else:
            matching = [number for number, text in enumerate(texts) if item.lower() in text.lower()]
            if not matching:
                raise RecordError(f"no prompt contains {item!r}", "name another word, or numbers such as 0,3 or 2-5")
            chosen.update(dict.fromkeys(matching))
    return list(chosen)


def _range(part: str, item: str, count: int) -> range:
    first, dash, last = part.partition("-")
    try:
        ends = int(first), int(last if dash else first)
    except ValueError:
        raise RecordError(f"--prompts {item}: expected numbers such as 0,3 or 2-5, or words") from None
    if max(ends) >= count:
        raise RecordError(f"there is no prompt {max(ends)}", f"they are numbered from 0 to {count - 1}")
    return range(ends[0], ends[1] + 1)


def _arms(run: Run, section: GenerateSection, asked: Sequence[str]) -> list[str]:
    present = [group.arm for group in run.groups if group.kind == "generate" and group.section == section.name]
    for label in asked:
        if label not in present:
            raise RecordError(f"section {section.name!r} has no model {label!r}", nearest(label, present))
    return list(asked) or present


_Places = list[Frames | str]
"""A picture for each frame, or why there is none."""


def _entry(run: Run, section: GenerateSection, label: str, place: int) -> IndexEntry | None:
    group = next(g for g in run.groups if (g.section, g.kind, g.arm) == (section.name, "generate", label))
    return run.index.get(group.keys[place])


def _pictures(run: Run, entry: IndexEntry | None, frames: Sequence[int], width: int) -> _Places:
    if entry is None or entry.status != "ok":
        return ["not made" if entry is None else entry.status] * len(frames)
    if not agrees(run.folder, entry.clip):
        return ["clip is gone"] * len(frames)
    path, count = inside(run.folder, str(entry.clip["path"])), int(entry.clip["frames"])
    numbers = [frame if frame >= 0 else count + frame for frame in frames]
    present = {number for number in numbers if 0 <= number < count}
    shown: dict[int, Frames] = {}
    try:
        if present:
            shown = {number: _sized(pixels, width) for number, pixels in video.frames_at(path, present)}
    except ClipError as error:
        return [error.message] * len(frames)
    return [shown.get(number, f"no frame {number}") for number in numbers]


def _size(clip: Mapping[str, Any], width: int) -> tuple[int, int]:
    """Height and width of a clip's pictures: a smaller clip becomes a whole number of times as large."""
    tall, wide = int(clip["height"]), int(clip["width"])
    if wide > width:
        return max(1, round(tall * width / wide)), width
    return tall * (width // wide), wide * (width // wide)


def _sized(frame: Frames, width: int) -> Frames:
    tall, wide = _size({"height": frame.shape[0], "width": frame.shape[1]}, width)
    if wide <= frame.shape[1]:
        return video.scaled(frame, tall, wide) if wide < frame.shape[1] else frame
    times = wide // frame.shape[1]
    return frame.repeat(times, axis=0).repeat(times, axis=1)


def _draw(rows: Sequence[tuple[str, list[_Places]]], labels: Sequence[str], frames: Sequence[int], width: int) -> bytes:
    sizes = [place.shape for _, arms in rows for places in arms for place in places if not isinstance(place, str)]
    if not sizes:
        raise RecordError("no clip of the choice is there", "run the suite, or choose others")
    tall, wide = max(size[0] for size in sizes), max(size[1] for size in sizes)
    left = MARGIN + ceil(min(24, max(map(len, labels))) * LETTER) + 2 * GAP
    across = left + len(frames) * (wide + GAP) + MARGIN
    captions = [_wrapped(text, across - 2 * MARGIN) for text, _ in rows]
    down = (
        2 * MARGIN
        + LINE
        + GAP
        + sum(len(lines) * LINE + GAP + len(labels) * (tall + GAP) + MARGIN for lines in captions)
    )
    if across * down > MOST_PIXELS:
        raise RecordError(f"the sheet would have {across} x {down} pixels", "choose fewer prompts, models or frames")

    from matplotlib.figure import Figure

    canvas = np.full((down, across, 3), 255, dtype=np.uint8)
    with style.styled():
        figure = Figure(figsize=(across / DPI, down / DPI), dpi=DPI)

        def write(x: float, y: float, text: str, **looks: Any) -> None:
            figure.text(x / across, 1 - y / down, text, fontsize=POINTS, va="top", **looks)

        y = MARGIN
        for column, number in enumerate(frames):
            write(left + column * (wide + GAP) + wide / 2, y, f"frame {number}", ha="center", color=style.GREY)
        y += LINE + GAP
        for lines, (_, arms) in zip(captions, rows, strict=True):
            write(MARGIN, y, "\n".join(lines))
            y += len(lines) * LINE + GAP
            for label, places in zip(labels, arms, strict=True):
                write(
                    MARGIN, y + tall / 2 - LINE / 2, label if len(label) <= 24 else f"{label[:23]}…", color=style.GREY
                )
                for column, place in enumerate(places):
                    x = left + column * (wide + GAP)
                    if isinstance(place, str):
                        canvas[y : y + tall, x : x + wide] = 238
                        write(
                            x + GAP, y + GAP, "\n".join(wrap(place, max(8, int(wide / LETTER)))[:3]), color=style.GREY
                        )
                    else:
                        canvas[y : y + place.shape[0], x : x + place.shape[1]] = place
                y += tall + GAP
            y += MARGIN
        figure.figimage(canvas, zorder=-1)
        # The picture is as large as its pixels: the style's own resolution would scale them.
        return style.encoded(figure, ".png", DPI)


def _wrapped(text: str, width: float) -> list[str]:
    lines = wrap(text, max(20, int(width / LETTER))) or [""]
    return lines if len(lines) <= MOST_LINES else [*lines[: MOST_LINES - 1], f"{lines[MOST_LINES - 1][:-1]}…"]
