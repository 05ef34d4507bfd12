"""Write the sentences below a table on its prompts: the frames at which they switched, and lines that made no clip."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from harness.runs.records import Run
from harness.suite.schema import GenerateSection
from harness.suite.scripts import dropped, scripts_of, words


def frames_of(switches: Any) -> list[int]:
    """Frames at which the `switches` of a record count: where they happened, else where they were asked for.

    What is no switch is left out.
    """
    entries = [each for each in switches if isinstance(each, dict)] if isinstance(switches, list) else []
    frames = [each.get("asked") if each.get("frame") is None else each["frame"] for each in entries]
    return [frame for frame in frames if isinstance(frame, int)]


def remarks(run: Run, sections: Collection[str]) -> Iterator[str]:
    """Sentences for each of `sections` with dropped lines of prompts, or with prompt switches and finished clips."""
    for section in run.suite.generate:
        if section.name not in sections:
            continue
        if lost := dropped(run.suite, section):
            yield f"{section.name}: {len(scripts_of(run.suite, section)):,} prompts; {lost}."
        if section.switches:
            parts = [f"{frames} ({', '.join(arms)})" for frames, arms in _where(run, section).items()]
            if parts:
                yield f"{section.name}: prompt switches asked for at {points(section)} happen at: {'; '.join(parts)}."


def points(section: GenerateSection) -> str:
    """The points at which the switches of a section are asked for, each unit named once in a row."""
    parts: list[str] = []
    unit = ""
    for text in map(words, section.switches):
        name, _, number = text.rpartition(" ")
        parts.append(number if name and name == unit else text)
        unit = name
    return ", ".join(parts)


def _where(run: Run, section: GenerateSection) -> dict[str, list[str]]:
    """Labels of the arms by the frames at which their prompts switch, by a clip in which all of them do."""
    scripts = scripts_of(run.suite, section)
    whole = [place for place, script in enumerate(scripts) if all(script.later)] or range(len(scripts))
    arms_by_frames: dict[str, list[str]] = {}
    for group in run.groups:
        if (group.section, group.kind) != (section.name, "generate"):
            continue
        seeds = len(section.seeds)
        keys = (group.keys[place * seeds + seed] for place in whole for seed in range(seeds))
        entries = (run.index[key] for key in keys if key in run.index)
        switches: Any = next(
            (entry.clip["switches"] for entry in entries if entry.status == "ok" and "switches" in entry.clip), []
        )
        if switches:
            frames = [each.get("frame") if isinstance(each, dict) else None for each in switches]
            text = "unknown, judged from there" if None in frames else ", ".join(map(str, frames))
            arms_by_frames.setdefault(text, []).append(group.arm)
    return arms_by_frames
