"""Index a run for its tables: arms, groups and metrics by name. The samples of each group are read once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.contracts import Metric, Value, enforce, registry
from harness.errors import PluginFault, shown
from harness.report.notes import read_notes
from harness.report.samples import Samples, read, uncleared
from harness.runs.index import IndexEntry
from harness.runs.line import Record, device_label
from harness.runs.plan import Arm, Group
from harness.runs.records import RecordFile, Run
from harness.suite.schema import GenerateSection, MeasureSection, Suite
from harness.suite.scripts import scripts_of

AnySection = GenerateSection | MeasureSection
MOST_ASKED = 64
"""Records of a group whose device is asked for: who goes on elsewhere does so for a stretch, and not for one clip."""

Place = tuple[int, str]
"""Number of a run and label of an arm."""


def sections(suite: Suite) -> list[AnySection]:
    """Every section of the suite."""
    return [*suite.generate, *suite.measure]


@dataclass(slots=True)
class View:
    """A run with its arms by label, its groups by (section, plugin, arm), and one instance of each metric.

    Attributes:
        common: by section the places of the planned clips that alone count; all where there is no entry.
        clips: by section the facts that tell its clips from another run's, as `harness.report.terms` has them.
    """

    run: Run
    arms: dict[str, Arm] = field(init=False)
    groups: dict[tuple[str, str, str], Group] = field(init=False)
    records: RecordFile = field(init=False)
    notes: dict[str, tuple[str, ...]] = field(init=False)
    common: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    clips: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    _metrics: dict[tuple[str, str], Metric] = field(default_factory=dict)
    _samples: dict[tuple[str, str, str], Samples] = field(default_factory=dict)
    _rounds: dict[tuple[str, str], Mapping[int, Record]] = field(default_factory=dict)
    _devices: dict[tuple[str, str, str], tuple[str, ...]] = field(default_factory=dict)
    _preimages: dict[tuple[str, str, str], Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.arms = {arm.label: arm for arm in self.run.arms}
        self.groups = {(group.section, group.plugin, group.arm): group for group in self.run.groups}
        self.records = self.run.records
        self.notes = read_notes(self.run)

    def only(self, where: Mapping[str, str]) -> View:
        """The same run with those clips alone whose prompts have these values of their attributes."""
        view = View(self.run)
        for section in self.run.suite.generate:
            prompts = self.run.suite.prompts[section.prompts]
            numbers = [script.number for script in scripts_of(self.run.suite, section)]
            fits = np.ones(len(numbers), np.bool_)
            for name, value in where.items():
                of_prompts = prompts.attributes.get(name, [[]] * len(prompts.texts))
                fits &= [value in of_prompts[number] for number in numbers]
            places = np.flatnonzero(np.repeat(fits, len(section.seeds)))
            common = self.common.get(section.name)
            view.common[section.name] = places if common is None else np.intersect1d(places, common)
        return view

    def section(self, name: str) -> AnySection | None:
        """The section `name` of the run's suite."""
        return next((section for section in sections(self.run.suite) if section.name == name), None)

    def given(self, section: AnySection) -> dict[str, tuple[Value, ...]]:
        """The values of a section by the metric or probe that gives them."""
        if isinstance(section, MeasureSection):
            return {section.probe: registry.probes.get(section.probe).values}
        values_by_plugin = {}
        for use in section.metrics:
            cls = registry.metrics.get(use.name)
            values_by_plugin[use.name] = (*cls.values, *cls.derived)
        return values_by_plugin

    def metric(self, section: GenerateSection, name: str) -> Metric:
        """The metric `name` with the options that the section gives it."""
        if (section.name, name) not in self._metrics:
            use = next(use for use in section.metrics if use.name == name)
            self._metrics[section.name, name] = registry.metrics.create(name, use.options)
        return self._metrics[section.name, name]

    def held_against(self, section: AnySection, name: str) -> str:
        """The label of the arm that the metric `name` of a section holds clips against; empty where there is none."""
        uses = section.metrics if isinstance(section, GenerateSection) else ()
        return next((use.against for use in uses if use.name == name), "")

    def asked_for(self, section: GenerateSection, name: str, values: Sequence[Value]) -> list[Value]:
        """Those of `values` that the options of the metric `name` ask for; all where it fails to say it."""
        try:
            names = enforce.asked_for(self.metric(section, name))
        except PluginFault:
            return list(values)
        return [value for value in values if value.name in names]

    def samples(self, section: AnySection, group: Group) -> Samples:
        """The group's samples of every value that its plug-in declares."""
        place = (group.section, group.plugin, group.arm)
        if place not in self._samples:
            plugins = registry.probes if isinstance(section, MeasureSection) else registry.metrics
            names = tuple(value.name for value in plugins.get(group.plugin).values)
            self._samples[place] = read(self.run, group, names, self.common.get(group.section))
        return self._samples[place]

    def uncleared(self, section: AnySection, group: Group) -> tuple[str, ...]:
        """The mark of a measured group whose arm no caching audit has cleared."""
        others = [
            each
            for (name, plugin, arm), other in self.groups.items()
            if (plugin, arm) == (group.plugin, group.arm) and name != group.section and (at := self.section(name))
            for each in self.samples(at, other).judgements
        ]
        return uncleared(self.samples(section, group).judgements, others)

    def version(self, section: AnySection, group: Group) -> str | None:
        """The version of the metric or probe in the records of a group; None without records."""
        if self.samples(section, group).last is None:
            return None
        return str(self.preimage(section, group)["probe" if group.kind == "measure" else "metric"]["version"])

    def preimage(self, section: AnySection, group: Group) -> Mapping[str, Any]:
        """The pre-image in the last record of a group that has results."""
        place = (group.section, group.plugin, group.arm)
        if place not in self._preimages:
            last = self.samples(section, group).last
            assert last is not None
            self._preimages[place] = self.records.at(last.offset).preimage
        return self._preimages[place]

    def rounds(self, group: Group) -> Mapping[int, Record]:
        """The finished measurements of a group, by the number of the round."""
        if (group.section, group.arm) not in self._rounds:
            entries = enumerate(map(self.run.index.get, group.keys))
            done = {number: entry for number, entry in entries if entry is not None and entry.status == "ok"}
            records = {number: self.records.at(entry.offset) for number, entry in done.items()}
            self._rounds[group.section, group.arm] = records
        return self._rounds[group.section, group.arm]

    def span(self, group: Group) -> tuple[datetime, datetime] | None:
        """First start and last end of a measurement of several rounds; None of others, or where it is not recorded."""
        records = self.rounds(group).values()
        try:
            starts, ends = ([_moment(getattr(r, end)) for r in records] for end in ("started", "ended"))
        except ValueError:
            return None
        return (min(starts), max(ends)) if len(records) > 1 else None

    def reason(self, entry: IndexEntry) -> str:
        """The reason in a skipped unit's record, with the fix."""
        notes = self.records.at(entry.offset).notes
        fix = notes.get("fix")
        return f"{notes.get('reason', 'no reason recorded')}" + (f" ({fix})" if fix else "")

    def failure(self, entry: IndexEntry) -> str:
        """What a failed unit's record says of its failure, on one line."""
        error = self.records.at(entry.offset).error
        return shown(f"{error.get('type', 'unknown')}: {error.get('message', '')}", 160)

    def lack(self, samples: Samples, name: str) -> str:
        """Why nothing has the value `name`: the reason in a record's note `not_available`; empty without one."""
        reasons = self.records.at(samples.last.offset).notes.get("not_available") if samples.last else None
        return str(reasons.get(name, "")) if isinstance(reasons, dict) else ""

    def devices(self, section: AnySection, group: Group) -> tuple[str, ...]:
        """Labels of the devices of a group's results, and of the clips that were scored; of many, of a sample of 64."""
        place = (group.section, group.plugin, group.arm)
        if place not in self._devices:
            labels = set()
            for each in {id(g): g for g in (group, self.groups.get((section.name, "", group.arm), group))}.values():
                keys = {*each.keys[:: -(-len(each.keys) // MOST_ASKED) or 1], *each.keys[-1:]}
                entries = (self.run.index.get(key) for key in keys)
                labels |= {self.device(entry) for entry in entries if entry is not None and entry.status == "ok"}
            self._devices[place] = tuple(sorted(labels))
        return self._devices[place]

    def device(self, entry: IndexEntry) -> str:
        """The label of the unit's device."""
        return device_label(self.records.at(entry.offset).device)


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
