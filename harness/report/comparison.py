"""Compare two arms or two runs value by value. Clips are paired by prompt and seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from harness.contracts import Json, Metric, Value, registry
from harness.errors import Incomplete, RecordError, SuiteError, nearest
from harness.report.cells import CARD, number
from harness.report.samples import Samples, doubts, kept_clips, read
from harness.report.samples import effect as effect_of
from harness.report.table import INCOMPLETE, RANDOM_WEIGHTS, UNDEFINED
from harness.report.verdicts import COUNTED, Finding, Floors, Side, verdict_of
from harness.runs.line import Record, device_label
from harness.runs.records import RecordFile, Run
from harness.stats.estimates import Effect, Estimate, holm, ratio_of_medians
from harness.suite.schema import GenerateSection

Pair = tuple[Side, Side]


def side_of(run: Run, label: str) -> Side:
    """The arm `label` of `run`. Raises `RecordError`."""
    for arm in run.arms:
        if arm.label == label:
            return Side(run, arm)
    raise RecordError(f"{run.folder} has no model {label!r}", nearest(label, [arm.label for arm in run.arms]))


def paired(first: Run, second: Run, label: str | None = None) -> list[Pair]:
    """The arms of two runs that share a label, or only `label`; of two runs with one arm each, those.

    Raises `RecordError` where there are none.
    """
    if label is not None:
        return [(side_of(first, label), side_of(second, label))]
    if len(first.arms) == len(second.arms) == 1:
        return [(Side(first, first.arms[0]), Side(second, second.arms[0]))]
    labels = {arm.label for arm in second.arms}
    shared = [arm.label for arm in first.arms if arm.label in labels]
    if not shared:
        raise RecordError(f"{first.folder} and {second.folder} share no model", "compare two models of one run instead")
    return [(side_of(first, each), side_of(second, each)) for each in shared]


def compare(
    pairs: Sequence[Pair], values: Sequence[str] = (), floors: Floors | None = None, across_devices: bool = False
) -> list[Finding]:
    """Every value of `values` (`section:value`; those of the suites' tables unless given) for every pair of arms.

    `card:` is the section of the fields of a model's card. Values of tables without a better direction are left out.

    Raises `RecordError` for records of two devices or two schema versions, unless `across_devices`; `Incomplete`
    where units lack results in a run whose suite does not say `incomplete: mark`; `SuiteError` for an unknown value.
    """
    choices = [(first, second, choice) for first, second in pairs for choice in _choices(first, second, values)]
    facts = _read_facts(choices)
    if not across_devices:
        _refuse_mixture("devices", {key: fact.device for key, fact in facts.items()})
        _refuse_mixture("record schema versions", {key: str(fact.schema) for key, fact in facts.items()})
    findings = []
    for first, second, choice in choices:
        finding = _finding(first, second, choice, facts)
        findings.append(replace(finding, arm=second.arm.label if len(pairs) > 1 else ""))
    return _judged(findings, floors or Floors())


# ------------------------------------------------------------------------------------- which values


_Choice = tuple[str, str, Value]
"""Section, metric or probe, and value."""


def _choices(first: Side, second: Side, names: Sequence[str]) -> list[_Choice]:
    """The values to compare, in the order of `names` or of the tables."""
    available: dict[tuple[str, str, str], _Choice] = {}
    in_tables: list[tuple[str, str]] = []
    for side in (first, second):
        for choice in _choices_of_side(side):
            available.setdefault((choice[0], choice[1], choice[2].name), choice)
        in_tables += [(column.value, column.metric) for table in side.run.suite.tables for column in table.columns]
    for name in names:
        if not any(name == f"{section}:{value}" for section, _, value in available):
            options = [f"{section}:{value}" for section, _, value in available]
            raise SuiteError(f"no value {name!r} that both arms could have", nearest(name, options))
    requested = [(name, "") for name in names] or in_tables
    if not requested:
        return [choice for choice in available.values() if choice[2].direction != "none"]
    choices: dict[tuple[str, str, str], _Choice] = {}
    for name, plugin in requested:
        for key, choice in available.items():
            matches = name == f"{key[0]}:{key[2]}" and plugin in ("", key[1])
            if matches and (names or choice[2].direction != "none"):
                choices[key] = choice
    return list(choices.values())


def _choices_of_side(side: Side) -> list[_Choice]:
    """Every number on the arm's card, and every planned value but those that metrics derive."""
    card = side.arm.card
    names = [*CARD, *(name for name in card.details if name not in CARD)]
    choices: list[_Choice] = [
        ("card", "", CARD.get(name) or Value(name, direction="none"))
        for name in names
        if number(card, name) is not None
    ]
    for group in side.run.groups:
        if group.arm != side.arm.label or group.kind == "generate":
            continue
        plugins = registry.metrics if group.kind == "score" else registry.probes
        choices += [(group.section, group.plugin, value) for value in plugins.get(group.plugin).values]
    return choices


# ------------------------------------------------------------------------------------ the records


@dataclass(frozen=True, slots=True)
class _Fact:
    """The newest record of a key, and the label of its device."""

    device: str
    schema: int
    record: Record


_Place = tuple[str, str, str]
"""Run folder, arm and key of a record."""


def _read_facts(choices: Sequence[tuple[Side, Side, _Choice]]) -> dict[_Place, _Fact]:
    """The records behind the values, and those of the scored clips. Each run is read once, as records are large."""
    arms_by_key_and_folder: dict[str, dict[str, set[str]]] = {}
    for first, second, (section, plugin, _) in choices:
        for side in (first, second):
            keys = arms_by_key_and_folder.setdefault(str(side.run.folder), {})
            group = side.group(section, plugin)
            clips = side.group(section, "") if group and group.kind == "score" else None
            for key in (*(group.keys if group else ()), *(clips.keys if clips else ())):
                keys.setdefault(key, set()).add(side.arm.label)
    facts: dict[_Place, _Fact] = {}
    for folder, keys in arms_by_key_and_folder.items():
        for record in RecordFile(Path(folder) / "records.jsonl").records():
            for arm in keys.get(record.key, ()):
                # A later failure takes the place of an earlier result.
                facts.pop((folder, arm, record.key), None)
                if record.status == "ok":
                    facts[folder, arm, record.key] = _Fact(device_label(record.device), record.schema, record)
    return facts


def _refuse_mixture(what: str, kind_by_place: Mapping[_Place, str]) -> None:
    arms_by_kind: dict[str, set[str]] = {}
    for (folder, arm, _), kind in kind_by_place.items():
        arms_by_kind.setdefault(kind, set()).add(f"{Path(folder).name}: {arm}")
    if len(arms_by_kind) > 1:
        listing = "; ".join(f"{name} ({', '.join(sorted(arms))})" for name, arms in sorted(arms_by_kind.items()))
        raise RecordError(f"two {what} in one comparison: {listing}", "compare like with like, or say --across-devices")


# ------------------------------------------------------------------------------------ one value


def _finding(first: Side, second: Side, choice: _Choice, facts: Mapping[_Place, _Fact]) -> Finding:
    section, plugin, value = choice
    sides = (first, second)
    if section == "card":
        return _on_cards(sides, value)
    samples_of_sides = [_results(side, section, plugin, value) for side in sides]
    measured = any(g.kind == "measure" for side in sides if (g := side.group(section, plugin)))
    summaries = [_summary(samples, value.name, measured) for samples in samples_of_sides]
    marks = (INCOMPLETE,) if any(map(_incomplete, samples_of_sides)) else ()
    finding = Finding(f"{section}:{value.name}", value, measured, first=summaries[0], second=summaries[1], marks=marks)
    if any(summary is None for summary in summaries):
        return replace(finding, verdict="not measured", reason="an arm has no result")
    terms = [_terms(side, section, plugin, facts) for side in sides]
    if terms[0] != terms[1]:
        differing = ", ".join(name for name in terms[0] if terms[0][name] != terms[1].get(name))
        return replace(finding, verdict="not compared", reason=f"the arms differ in {differing}")
    if measured:
        return _ratio(finding, sides, choice, facts)
    if any(side.arm.card.weights == "random" for side in sides):
        marks = (*marks, RANDOM_WEIGHTS)
        return replace(finding, verdict="not compared", reason="random weights have no quality", marks=marks)
    if registry.metrics.get(plugin).aggregate is not Metric.aggregate:
        return replace(finding, verdict="not compared", reason="its aggregate is no mean over clips")
    return _difference(finding, sides, choice, facts)


def _on_cards(sides: Pair, value: Value) -> Finding:
    first, second = (number(side.arm.card, value.name) for side in sides)
    finding = Finding(f"card:{value.name}", value, measured=True, exact=True, first=first, second=second)
    if first is None or second is None:
        return replace(finding, verdict="not measured", reason="an arm's card does not say it")
    if first == 0 and second != 0:
        return replace(finding, verdict="not compared", reason="there is no ratio to 0")
    return replace(finding, effect=_exactly(1.0 if first == second else second / first), evidence="cards")


def _exactly(change: float, samples: int = 1, replicates: int = 1) -> Effect:
    return Effect(Estimate(change, math.nan, math.nan, samples, replicates), 0.0, 0, math.nan)


def _results(side: Side, section: str, plugin: str, value: Value) -> Samples | None:
    """The samples of one arm. Raises `Incomplete` where some are missing and the suite does not mark such means."""
    group = side.group(section, plugin)
    if group is None:
        return None
    samples = read(side.run, group, (value.name,))
    if _incomplete(samples) and side.run.suite.incomplete == "refuse":
        raise Incomplete(
            f"{section}: {plugin} has {samples.scored} of {samples.planned} results of {side.arm.label} "
            f"in {side.run.folder}",
            "run the suite again to fill what is missing, or say `incomplete: mark` in it",
        )
    return samples


def _summary(samples: Samples | None, name: str, measured: bool) -> float | None:
    """The mean over clips, or the median over rounds; None where nothing is defined."""
    if samples is None or not np.isfinite(samples.values[name]).any():
        return None
    return float((np.nanmedian if measured else np.nanmean)(samples.values[name]))


def _incomplete(samples: Samples | None) -> bool:
    """Whether results are missing. A group that was skipped as a whole lacks none: it is not available here."""
    return samples is not None and samples.skipped < samples.planned and samples.scored < samples.planned


def _terms(side: Side, section: str, plugin: str, facts: Mapping[_Place, _Fact]) -> dict[str, Json]:
    """The facts that two arms must share for their values to be comparable, by name."""
    group, body = side.group(section, plugin), side.section(section)
    assert group is not None
    place = next(place for key in group.keys if (place := (str(side.run.folder), side.arm.label, key)) in facts)
    preimage = facts[place].record.preimage
    if isinstance(body, GenerateSection):
        switches: list[Json] = [switch.model_dump(mode="json") for switch in body.switches]
        video = side.run.suite.video.model_dump(mode="json")
        return {"metric": preimage["metric"], "frames": body.frames, "switches": switches, "video": video}
    return {"probe": preimage["probe"], "workload": preimage["workload"]}


def _by_pair(side: Side, choice: _Choice) -> dict[tuple[str, int], tuple[float, str]]:
    """Each clip's value and key by prompt and seed; NaN where the clip does not count."""
    section, plugin, value = choice
    body, group = side.section(section), side.group(section, plugin)
    assert isinstance(body, GenerateSection)
    assert group is not None
    use = next(use for use in body.metrics if use.name == plugin)
    samples = read(side.run, group, (value.name,))
    counting = kept_clips(registry.metrics.create(plugin, use.options), value.name, samples)
    scores = np.where(counting, samples.values[value.name], math.nan)
    texts = side.run.suite.prompts[body.prompts].texts
    places = [(texts[place // len(body.seeds)], body.seeds[place % len(body.seeds)]) for place in samples.places]
    keys = [group.keys[place] for place in samples.places]
    return dict(zip(places, zip(scores.tolist(), keys, strict=True), strict=True))


def _difference(finding: Finding, sides: Pair, choice: _Choice, facts: Mapping[_Place, _Fact]) -> Finding:
    first_by_pair, second_by_pair = (_by_pair(side, choice) for side in sides)
    common = [pair for pair in first_by_pair if pair in second_by_pair]
    defined = [
        pair for pair in common if math.isfinite(first_by_pair[pair][0]) and math.isfinite(second_by_pair[pair][0])
    ]
    if not defined:
        return replace(finding, verdict="not compared", reason="the arms share no prompt and seed")
    first, second = ([by_pair[pair][0] for pair in defined] for by_pair in (first_by_pair, second_by_pair))
    try:
        effect = effect_of(choice[2], first, second, [prompt for prompt, _ in defined])
    except ValueError as error:
        return replace(finding, verdict="not compared", reason=str(error))
    pairs, prompts = len(defined), effect.estimate.clusters
    keys = [[by_pair[pair][1] for pair in defined] for by_pair in (first_by_pair, second_by_pair)]
    same = first == second and keys[0] == keys[1] and _same_clips(sides, keys[0], facts)
    return replace(
        finding,
        exact=same,
        first=float(np.mean(first)),
        second=float(np.mean(second)),
        effect=_exactly(0.0, pairs, prompts) if same else effect,
        evidence=f"{pairs} pairs{' of equal clips' * same}, {prompts} prompts",
        marks=finding.marks + (UNDEFINED,) * (len(defined) < len(common)),
    )


def _same_clips(sides: Pair, keys: Sequence[str], facts: Mapping[_Place, _Fact]) -> bool:
    """Whether both sides scored the same frames under every one of `keys`. Then they are one model that ran twice.

    Equal keys alone would hide a change of code without a change of version. Equal frames alone say nothing of other
    prompts.
    """
    digests = [[facts[str(s.run.folder), s.arm.label, key].record.clip.get("digest") for key in keys] for s in sides]
    return None not in digests[0] and digests[0] == digests[1]


def _ratio(finding: Finding, sides: Pair, choice: _Choice, facts: Mapping[_Place, _Fact]) -> Finding:
    section, plugin, value = choice
    rounds: list[list[Sequence[float]]] = []
    by_side = [_rounds(side, section, plugin, facts) for side in sides]
    numbers = sorted(by_side[0].keys() & by_side[1].keys())
    raw = all(value.name in records[n].samples for records in by_side for n in numbers)
    for records in by_side:
        rounds.append([records[n].samples[value.name] if raw else [records[n].values[value.name]] for n in numbers])
    doubtful = [mark for records in by_side for n in numbers for mark in doubts(records[n].values)]
    finding = replace(finding, marks=tuple(dict.fromkeys((*finding.marks, *doubtful))))
    try:
        effect = ratio_of_medians(rounds[0], rounds[1])
    except ValueError as error:
        return replace(finding, verdict="not compared", reason=str(error))
    counts = [sum(len(samples) for samples in side) for side in rounds]
    evidence = f"{len(numbers)} round{'s' * (len(numbers) > 1)}, {counts[0]} and {counts[1]} samples"
    exact = effect.error == 0 and value.unit in COUNTED
    return replace(finding, effect=effect, evidence=evidence, exact=exact)


def _rounds(side: Side, section: str, plugin: str, facts: Mapping[_Place, _Fact]) -> dict[int, Record]:
    group = side.group(section, plugin)
    places = ((n, (str(side.run.folder), side.arm.label, key)) for n, key in enumerate(group.keys if group else ()))
    return {n: facts[place].record for n, place in places if place in facts}


# ------------------------------------------------------------------------------------- verdicts


def _judged(findings: Sequence[Finding], floors: Floors) -> list[Finding]:
    """The same findings with p-values adjusted for their number, floors, and verdicts."""
    tested = {i: found.effect.p for i, found in enumerate(findings) if found.effect and math.isfinite(found.effect.p)}
    adjusted = dict(zip(tested, holm(list(tested.values())).tolist(), strict=True))
    judged = []
    for i, finding in enumerate(findings):
        if finding.effect is None or finding.first is None:
            judged.append(finding)
            continue
        floor = floors.of(finding.name, finding.value, finding.first)
        weighed = replace(finding, p=adjusted.get(i, math.nan), floor=floor)
        verdict, reason = verdict_of(weighed)
        judged.append(replace(weighed, verdict=verdict, reason=reason))
    return judged
