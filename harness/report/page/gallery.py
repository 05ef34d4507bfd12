"""The clips of runs as a page shows them: rows are prompts and seeds, columns are arms, each clip with its scores."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from harness.contracts import Value, registry
from harness.errors import HarnessError, StorageError
from harness.report.notes import note_marks
from harness.report.page.media import LONG_SECONDS, Media
from harness.report.table import NOTES, RANDOM_WEIGHTS
from harness.report.view import View
from harness.runs.plan import Group
from harness.suite.attributes import Attributes
from harness.suite.schema import GenerateSection
from harness.suite.scripts import Script, scripts_of

SHORTEST_CURVE = 3
"""Numbers along a clip that make a curve."""
_NUMBERED = re.compile(r"(.*?)_?(\d+)(_.*)?")


def gallery(views: Sequence[View], media: Media, attributes: Attributes) -> dict[str, Any]:
    """The arms and sections of the runs as JSON; sections of one name are one, and so are prompts of one text and seed.

    A clip that is not there says why in its place. Raises `StorageError`.
    """
    labels = Counter(arm.label for view in views for arm in view.run.arms)
    arms: list[dict[str, Any]] = []
    sections: dict[str, _Section] = {}
    noted = note_marks(view.notes for view in views)
    for view in views:
        first = len(arms)
        for arm in view.run.arms:
            label = arm.label if labels[arm.label] == 1 else f"{view.run.folder.name}: {arm.label}"
            marks = [(RANDOM_WEIGHTS, NOTES[RANDOM_WEIGHTS])] if arm.card.weights == "random" else []
            marks += [(noted[text], text) for text in view.notes.get(arm.label, ())]
            arms.append({"label": label, "marks": marks})
        numbers = {arm.label: first + place for place, arm in enumerate(view.run.arms)}
        for section in view.run.suite.generate:
            shown = sections.setdefault(section.name, _Section(section.name, attributes))
            shown.add(view, section, numbers, media)
    return {"arms": arms, "sections": [section.body() for section in sections.values() if section.rows]}


class _Section:
    """The clips of one section, of all runs that have it."""

    def __init__(self, name: str, attributes: Attributes) -> None:
        self.name = name
        self.attributes = attributes
        self.values: dict[str, Value] = {}
        self.curves: dict[str, None] = {}
        self.rows: dict[tuple[str, int, int], dict[str, Any]] = {}

    def body(self) -> dict[str, Any]:
        values = [
            {"label": value.label or value.name.replace("_", " "), "unit": value.unit, "direction": value.direction}
            for value in self.values.values()
        ]
        return {"name": self.name, "values": values, "curves": list(self.curves), "rows": list(self.rows.values())}

    def add(self, view: View, section: GenerateSection, numbers: Mapping[str, int], media: Media) -> None:
        """The clips of one run."""
        prompts = view.run.suite.prompts[section.prompts]
        scripts = scripts_of(view.run.suite, section)
        for label, number in numbers.items():
            group = view.groups.get((section.name, "", label))
            if group is None:
                continue
            cells = [_cell(view, key, media) for key in group.keys]
            for place, cell in enumerate(cells):
                if "file" in cell and section.switches:
                    later = filter(None, scripts[place // len(section.seeds)].later)
                    frames = _switch_frames(view, group.keys[place])
                    cell["switches"] = [list(switch) for switch in zip(frames, later, strict=False)]
            self._score(view, section, label, cells)
            for place, cell in enumerate(cells):
                at, seed = place // len(section.seeds), section.seeds[place % len(section.seeds)]
                script = scripts[at] if at < len(scripts) else Script(0, "", (), "")
                text = script.text
                about = dict(self.attributes.get(text, {}))
                about |= {"known as": [script.identity]} if script.identity != text else {}
                again = sum(earlier.text == text for earlier in scripts[:at])
                row = self.rows.setdefault(
                    (text, again, seed), {"prompt": text, "seed": seed, "about": about, "cells": {}}
                )
                row["about"] |= {"seed": [str(seed)]} if len(section.seeds) > 1 else {}
                row["about"] |= {"continues": [prompts.prefixes[script.number].file]} if prompts.prefixes else {}
                row["cells"][number] = cell

    def _score(self, view: View, section: GenerateSection, label: str, cells: list[dict[str, Any]]) -> None:
        """Give each cell its scores, in the order of `values`, and a long one its curves."""
        for plugin, values in view.given(section).items():
            group = view.groups.get((section.name, plugin, label))
            if group is None:
                continue
            samples = view.samples(section, group)
            names = {f"{plugin}:{name}": name for name in samples.values}
            for value in values:
                if value.name in samples.values:
                    self.values.setdefault(f"{plugin}:{value.name}", value)
            for row, place in enumerate(samples.places.tolist()):
                numbers = {key: float(samples.values[name][row]) for key, name in names.items()}
                cells[place].setdefault("scores", {}).update(
                    {str(list(self.values).index(key)): _short(x) for key, x in numbers.items() if math.isfinite(x)}
                )
                if _long(cells[place]):
                    self._draw(cells[place], view, group, place, {names[key]: x for key, x in numbers.items()})

    def _draw(self, cell: dict[str, Any], view: View, group: Group, place: int, scores: Mapping[str, float]) -> None:
        """Curves along a clip: the samples of a score, or values that are numbered through."""
        record = view.records.at(view.run.index[group.keys[place]].offset)
        declared = registry.metrics.get(group.plugin).curves
        # A metric that says which of its samples follow the clip has others that do not.
        along = [curve.value.name for curve in declared if curve.kind != "distance"] if declared else record.samples
        curves = {name: list(map(float, record.samples.get(name, ()))) for name in along} | numbered(scores)
        for name, numbers in curves.items():
            if len(numbers) >= SHORTEST_CURVE:
                self.curves.setdefault(name)
                cell.setdefault("curves", {})[name] = [_short(x) if math.isfinite(x) else None for x in numbers]


def numbered(scores: Mapping[str, float]) -> dict[str, list[float]]:
    """Values named alike but for a number, as `quarter_1` to `quarter_4`, as one list under the name without it."""
    found: dict[str, dict[int, float]] = {}
    for name, score in scores.items():
        if match := _NUMBERED.fullmatch(name):
            stem = f"{match[1]}{match[3] or ''}".replace("_", " ")
            found.setdefault(stem, {})[int(match[2])] = score
    return {
        stem: [by_number[number] for number in sorted(by_number)]
        for stem, by_number in found.items()
        if len(by_number) >= SHORTEST_CURVE and max(by_number) - min(by_number) == len(by_number) - 1
    }


def _cell(view: View, key: str, media: Media) -> dict[str, Any]:
    """One clip, or under `reason` why there is none to see."""
    entry = view.run.index.get(key)
    if entry is None:
        return {"reason": "not made yet"}
    if entry.status != "ok":
        record = view.records.at(entry.offset)
        why = record.error.get("message", "") if entry.status == "failed" else record.notes.get("reason", "")
        return {"reason": f"{entry.status}: {' '.join(str(why).split())[:300]}"}
    try:
        return {"key": key, **media.place(view.run.folder, key, entry.clip)}
    except (HarnessError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, StorageError):
            raise
        return {"key": key, "reason": error.message if isinstance(error, HarnessError) else "its record is damaged"}


def _switch_frames(view: View, key: str) -> list[int]:
    """Where the prompt of a clip switched, or was asked to where the model does not say."""
    said = view.run.index[key].clip.get("switches")
    if said is None:
        spec: Any = view.records.at(view.run.index[key].offset).preimage
        return [int(frame) for frame, _ in spec["switches"]]
    return [int(switch["asked"] if switch["frame"] is None else switch["frame"]) for switch in said]


def _long(cell: Mapping[str, Any]) -> bool:
    return "file" in cell and cell["frames"] / cell["rate"] > LONG_SECONDS


def _short(number: float) -> float:
    """As many digits as a reader of a page can use."""
    return float(f"{number:.5g}")
