"""Write the sentence below a table that says at which frames prompts switched."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from harness.runs.records import Run
from harness.suite.schema import GenerateSection


def remarks(run: Run, sections: Collection[str]) -> Iterator[str]:
    """One sentence for each of `sections` whose prompts switch and that has clips of which this is known."""
    for section in run.suite.generate:
        if section.switches and section.name in sections:
            where = _where(run, section)
            asked = ", ".join(str(switch.frame) for switch in section.switches)
            parts = [f"{frames} ({', '.join(arms)})" for frames, arms in where.items()]
            if parts:
                yield f"{section.name}: prompt switches asked for at frame {asked} happen at: {'; '.join(parts)}."


def _where(run: Run, section: GenerateSection) -> dict[str, list[str]]:
    """Labels of the arms by the frames at which their prompts switch."""
    found: dict[str, list[str]] = {}
    for group in run.groups:
        if (group.section, group.kind) != (section.name, "generate"):
            continue
        entries = (run.index[key] for key in group.keys if key in run.index)
        said: Any = next(
            (entry.clip["switches"] for entry in entries if entry.status == "ok" and "switches" in entry.clip), []
        )
        if said:
            frames = [each["frame"] for each in said]
            text = "unknown, judged from there" if None in frames else ", ".join(map(str, frames))
            found.setdefault(text, []).append(group.arm)
    return found
