"""Find the effect of one arm against another in one value, from what tables read of their runs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from harness.contracts import Json, Metric, Value, registry
from harness.errors import PluginFault, SuiteError, nearest
from harness.report.cells import CARD, number
from harness.report.samples import Samples, doubts, effect, kept_clips
from harness.report.table import APART, INCOMPLETE, RANDOM_WEIGHTS, UNDEFINED
from harness.report.terms import CLIPS, DEVICE, SCHEMA, Terms, clips_of, differences, terms, timed_apart
from harness.report.verdicts import COUNTED, Finding
from harness.report.view import View
from harness.runs.measured import judgement
from harness.runs.plan import Group
from harness.stats.estimates import Effect, Estimate, ratio_of_medians
from harness.suite.schema import GenerateSection, MeasureSection
from harness.suite.scripts import scripts_of

Choice = tuple[str, str, Value]
"""Section (`card` for the model's card), metric or probe, and value."""
Entrant = tuple[View, str]
"""A run, and the label of one of its arms."""
Pair = tuple[Entrant, Entrant]


# ------------------------------------------------------------------------------------- which values


def choices(pair: Pair, names: Sequence[str] = ()) -> list[Choice]:
    """The values to compare, in the order of `names` (`section:value`) or, without them, of the suites' tables.

    Of suites without tables these are all. Only `names` may name a value that has no better direction. Raises
    `SuiteError` for a value that neither arm has.
    """
    available: dict[tuple[str, str, str], Choice] = {}
    in_tables: list[tuple[str, str]] = []
    for view, label in pair:
        for choice in _choices_of(view, label):
            available.setdefault((choice[0], choice[1], choice[2].name), choice)
        in_tables += [(column.value, column.metric) for table in view.run.suite.tables for column in table.columns]
    for name in names:
        if not any(name == f"{section}:{value}" for section, _, value in available):
            options = [f"{section}:{value}" for section, _, value in available]
            raise SuiteError(f"no value {name!r} that both arms could have", nearest(name, options))
    requested = [(name, "") for name in names] or in_tables or [(f"{key[0]}:{key[2]}", key[1]) for key in available]
    selection: dict[tuple[str, str, str], Choice] = {}
    for name, plugin in requested:
        for key, choice in available.items():
            matches = name == f"{key[0]}:{key[2]}" and plugin in ("", key[1])
            # What one arm of the pair is held against the other of says nothing of both.
            fits = choice[2].direction != "none" and not _holds_against(pair, choice)
            if matches and (names or fits):
                selection[key] = choice
    return list(selection.values())


def _holds_against(pair: Pair, choice: Choice) -> bool:
    """Whether the value holds clips against those of one of the two arms, which has none itself."""
    sections = [(view, label, view.section(choice[0])) for view, label in pair]
    return any(section and view.held_against(section, choice[1]) == label for view, label, section in sections)


def _choices_of(view: View, label: str) -> Iterator[Choice]:
    """Every number on the arm's card, and every planned value but those that metrics derive."""
    card = view.arms[label].card
    for name in (*CARD, *(name for name in card.details if name not in CARD)):
        if number(card, name) is not None:
            yield "card", "", CARD.get(name) or Value(name, direction="none")
    for group in view.run.groups:
        if group.arm != label or group.kind == "generate":
            continue
        section = view.section(group.section)
        values: Sequence[Value] = (
            (registry.metrics if group.kind == "score" else registry.probes).get(group.plugin).values
        )
        if isinstance(section, GenerateSection):
            values = view.asked_for(section, group.plugin, values)
        yield from ((group.section, group.plugin, value) for value in values)


# ------------------------------------------------------------------------------------------ one value


def finding_of(pair: Pair, choice: Choice, across_devices: bool = False) -> Finding:
    """One value of both arms with its effect, or the reason why it has none; floor, p and verdict are still to come.

    With `across_devices`, devices and record schema versions may differ.
    """
    section, plugin, value = choice
    if section == "card":
        return _on_cards(pair, value)
    samples = [samples_of(entrant, choice) for entrant in pair]
    measured = any(isinstance(view.section(section), MeasureSection) for view, _ in pair)
    first, second = (_summary(each, value.name, measured) for each in samples)
    marks = (INCOMPLETE,) if any(each is not None and each.incomplete for each in samples) else ()
    finding = Finding(f"{section}:{value.name}", value, measured, first=first, second=second, marks=marks)
    if first is None or second is None:
        return replace(finding, verdict="not measured", reason="an arm has no result")
    # Clips are paired by prompt and seed, so that the prompts of a metric's sections may differ.
    without = {CLIPS} if not measured else set()
    if words := differences(_terms(pair, choice), without | ({DEVICE, SCHEMA} if across_devices else set())):
        return replace(finding, verdict="not compared", reason=f"the arms differ in {words}")
    if measured:
        return _ratio(finding, pair, choice)
    if any(view.arms[label].card.weights == "random" for view, label in pair):
        marks = (*marks, RANDOM_WEIGHTS)
        return replace(finding, verdict="not compared", reason="random weights have no quality", marks=marks)
    if registry.metrics.get(plugin).aggregate is not Metric.aggregate:
        return replace(finding, verdict="not compared", reason="its aggregate is no mean over clips")
    try:
        return _difference(finding, pair, choice)
    except PluginFault as fault:
        return replace(finding, verdict="not compared", reason=fault.message)


def samples_of(entrant: Entrant, choice: Choice) -> Samples | None:
    """The samples of one arm; None where its run does not plan the value."""
    view, label = entrant
    section, group = view.section(choice[0]), view.groups.get((choice[0], choice[1], label))
    return view.samples(section, group) if section and group else None


def _group(view: View, label: str, choice: Choice) -> tuple[GenerateSection | MeasureSection, Group]:
    section = view.section(choice[0])
    assert section is not None
    return section, view.groups[choice[0], choice[1], label]


def _on_cards(pair: Pair, value: Value) -> Finding:
    first, second = (number(view.arms[label].card, value.name) for view, label in pair)
    finding = Finding(f"card:{value.name}", value, measured=True, exact=True, first=first, second=second)
    if first is None or second is None:
        return replace(finding, verdict="not measured", reason="an arm's card does not say it")
    if first == 0 and second != 0:
        return replace(finding, verdict="not compared", reason="there is no ratio to 0")
    return replace(finding, effect=_exactly(1.0 if first == second else second / first), evidence="cards")


def _exactly(change: float, samples: int = 1, replicates: int = 1) -> Effect:
    return Effect(Estimate(change, math.nan, math.nan, samples, replicates), 0.0, 0, math.nan)


def _summary(samples: Samples | None, name: str, measured: bool) -> float | None:
    """The mean over clips, or the median over rounds; None where nothing is defined."""
    if samples is None or not np.isfinite(samples.values[name]).any():
        return None
    return float((np.nanmedian if measured else np.nanmean)(samples.values[name]))


def _terms(pair: Pair, choice: Choice) -> list[tuple[str, Terms]]:
    """The facts that both arms must share for their values to be comparable, after a name for each arm."""
    same_label = pair[0][1] == pair[1][1]
    names = [str(view.run.folder) if same_label else label for view, label in pair]
    facts = [terms(view, *_group(view, label, choice)) for view, label in pair]
    return list(zip(names, facts, strict=True))


# --------------------------------------------------------------------------------- a metric's difference


def _difference(finding: Finding, pair: Pair, choice: Choice) -> Finding:
    """`finding` with the difference of means over the pairs of one prompt and seed."""
    left, right = _pair_numbers(pair, choice)
    _, *places = np.intersect1d(left, right, return_indices=True)
    scores = [_scores(entrant, choice)[place] for entrant, place in zip(pair, places, strict=True)]
    defined = np.isfinite(scores[0]) & np.isfinite(scores[1])
    if not defined.any():
        return replace(finding, verdict="not compared", reason="the arms share no prompt and seed")
    first, second = (each[defined] for each in scores)
    try:
        change = effect(choice[2], first, second, _prompts(pair[0], choice)[places[0][defined]])
    except ValueError as error:
        return replace(finding, verdict="not compared", reason=str(error))
    count, prompts = first.size, change.estimate.clusters
    same = np.array_equal(first, second) and _same_clips(pair, choice, [place[defined] for place in places])
    return replace(
        finding,
        exact=same,
        first=float(np.mean(first)),
        second=float(np.mean(second)),
        effect=_exactly(0.0, count, prompts) if same else change,
        evidence=f"{count} pairs{' of equal clips' * same}, {prompts} prompts",
        marks=finding.marks + (UNDEFINED,) * (count < defined.size),
    )


def _scores(entrant: Entrant, choice: Choice) -> NDArray[np.float64]:
    """Each clip's value; NaN where the clip does not count."""
    view, label = entrant
    section, group = _group(view, label, choice)
    samples, name = view.samples(section, group), choice[2].name
    assert isinstance(section, GenerateSection)
    return np.where(kept_clips(view.metric(section, choice[1]), name, samples), samples.values[name], math.nan)


def _pair_numbers(pair: Pair, choice: Choice) -> list[NDArray[np.int64]]:
    """A number for each sample of both arms. Equal numbers are one prompt and seed."""
    numbers: dict[tuple[Json, ...], int] = {}
    of_arms = []
    for view, label in pair:
        section, group = _group(view, label, choice)
        places = view.samples(section, group).places
        if pair[0][0] is pair[1][0]:
            of_arms.append(places)  # of one run, whose arms all have one prompt and seed in one place
            continue
        assert isinstance(section, GenerateSection)
        clips = clips_of(view.run.suite, section)
        names = [clips[place] for place in places.tolist()]
        of_arms.append(np.asarray([numbers.setdefault(name, len(numbers)) for name in names], np.int64))
    return of_arms


def _prompts(entrant: Entrant, choice: Choice) -> NDArray[np.int64]:
    """For each sample the place of its prompt among the sorted texts.

    The ends of a bootstrap depend on the order of clusters, which must be the same in a run with other prompts besides.
    """
    view, label = entrant
    section, group = _group(view, label, choice)
    assert isinstance(section, GenerateSection)
    texts = list(dict.fromkeys(script.text for script in scripts_of(view.run.suite, section)))
    return np.argsort(np.argsort(texts))[view.samples(section, group).prompts]


def _same_clips(pair: Pair, choice: Choice, places: Sequence[NDArray[np.int64]]) -> bool:
    """Whether both arms have equal keys and scored equal frames. Then they are one model that ran twice.

    Equal keys alone would hide a change of code without a change of version. Equal frames alone say nothing of other
    prompts.
    """
    keys, digests = [], []
    for (view, label), chosen in zip(pair, places, strict=True):
        section, group = _group(view, label, choice)
        keys.append([group.keys[place] for place in view.samples(section, group).places[chosen]])
        digests.append([view.run.index[key].clip.get("digest") for key in keys[-1]])
    return keys[0] == keys[1] and None not in digests[0] and digests[0] == digests[1]


# ------------------------------------------------------------------------------------ a probe's ratio


def _ratio(finding: Finding, pair: Pair, choice: Choice) -> Finding:
    """`finding` with the ratio of medians over the rounds that both arms have."""
    value = choice[2]
    # Rounds that one arm alone has are left out: drift of the device would fall on that arm.
    of_arms = [view.rounds(_group(view, label, choice)[1]) for view, label in pair]
    numbers = sorted(of_arms[0].keys() & of_arms[1].keys())
    judgements = [judgement(records[n].values, records[n].notes) for records in of_arms for n in numbers]
    spans = {(side, ""): view.span(_group(view, label, choice)[1]) for side, (view, label) in enumerate(pair)}
    apart = (APART,) * bool(timed_apart(spans))
    finding = replace(finding, marks=tuple(dict.fromkeys((*finding.marks, *doubts(judgements), *apart))))
    if any(records[n].values.get(value.at_least_unless) == 0 for records in of_arms for n in numbers):
        return replace(finding, verdict="not compared", reason="a search ended before it met a limit")
    raw = all(value.name in records[n].samples for records in of_arms for n in numbers)
    rounds = [
        [records[n].samples[value.name] if raw else [records[n].values[value.name]] for n in numbers]
        for records in of_arms
    ]
    try:
        ratio = ratio_of_medians(*rounds)
    except ValueError as error:
        return replace(finding, verdict="not compared", reason=str(error))
    counts = [sum(len(samples) for samples in arm) for arm in rounds]
    evidence = f"{len(numbers)} round{'s' * (len(numbers) > 1)}, {counts[0]} and {counts[1]} samples"
    return replace(finding, effect=ratio, evidence=evidence, exact=ratio.error == 0 and value.unit in COUNTED)
