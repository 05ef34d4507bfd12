"""Write the sentence below a table that names the frames at which prompts switched."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from harness.runs.records import Run
from harness.suite.schema import GenerateSection


def frames_of(switches: Any) -> list[int]:
    """Frames at which the `switches` of a record count: where they happened, else where they were asked for.

    What is no switch is left out.
    """
    entries = [each for each in switches if isinstance(each, dict)] if isinstance(switches, list) else []
    frames = [each.get("asked") if each.get("frame") is None else each["frame"] for each in entries]
    return [frame for frame in frames if isinstance(frame, int)]


def remarks(run: Run, sections: Collection[str]) -> Iterator[str]:
    """One sentence for each of `sections` with prompt switches and finished clips."""
    for section in run.suite.generate:
        if section.switches and section.name in sections:
            arms_by_frames = _where(run, section)
            requested = ", ".join(str(switch.frame) for switch in section.switches)
            parts = [f"{frames} ({', '.join(arms)})" for frames, arms in arms_by_frames.items()]
            if parts:
                yield f"{section.name}: prompt switches asked for at frame {requested} happen at: {'; '.join(parts)}."


def _where(run: Run, section: GenerateSection) -> dict[str, list[str]]:
    """Labels of the arms by the frames at which their prompts switch."""
    arms_by_frames: dict[str, list[str]] = {}
    for group in run.groups:
        if (group.section, group.kind) != (section.name, "generate"):
            continue
        entries = (run.index[key] for key in group.keys if key in run.index)
        switches: Any = next(
            (entry.clip["switches"] for entry in entries if entry.status == "ok" and "switches" in entry.clip), []
        )
        if switches:
            frames = [each.get("frame") if isinstance(each, dict) else None for each in switches]
            text = "unknown, judged from there" if None in frames else ", ".join(map(str, frames))
            arms_by_frames.setdefault(text, []).append(group.arm)
    return arms_by_frames
