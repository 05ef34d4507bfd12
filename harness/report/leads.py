"""Decide whether the best value of a column leads: give the verdict of `harness compare` on it and the next best.

Pairs, effects, adjustment and floors are those of `harness.report.comparison`. That module reads whole records, which
is too slow for every column of a large run. This one reads only what tables read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from harness.contracts import Json, Metric, Value, registry
from harness.report.samples import Samples, effect, kept_clips
from harness.report.verdicts import COUNTED, Floors, weigh
from harness.report.view import View
from harness.runs.line import Record
from harness.stats.estimates import Effect, holm, ratio_of_medians
from harness.suite.schema import GenerateSection

Place = tuple[int, str]
"""Number of a run and label of an arm."""
Choice = tuple[str, str, str]
"""Section, metric or probe, and name of a value."""
Standing = Literal["ahead", "equal", "unclear"]
"""The best value against the next: better past the floor, within the floor, or neither shown."""


@dataclass(frozen=True, slots=True)
class _Weighed:
    """The leader's change against the next, and the next one's own value, which the floor is a share of."""

    value: Value
    measured: bool
    effect: Effect
    base: float
    p: float


class Leads:
    """Standings of the best values of the tables of `views`, each pair of arms weighed once."""

    def __init__(self, views: Sequence[View]) -> None:
        self._views = views
        self._weighed: dict[tuple[Place, Place], Mapping[Choice, _Weighed]] = {}
        self._records: dict[tuple[Place, str, str], Mapping[int, Record]] = {}

    def standing(self, behind: Place, leader: Place, choice: Choice) -> Standing:
        """The standing of `leader` against `behind`, the next best, in one value; unclear where nothing weighs it."""
        pair = behind, leader
        if pair not in self._weighed:
            self._weighed[pair] = self._weigh(pair)
        weighed = self._weighed[pair].get(choice)
        return _standing(weighed) if weighed else "unclear"

    def _weigh(self, pair: tuple[Place, Place]) -> Mapping[Choice, _Weighed]:
        """Every value that a comparison of the two would show, with p-values adjusted for their number.

        All of them, and not the asked one alone: the adjustment depends on how many there are.
        """
        weighed = {choice: each for choice, value in self._family(pair) if (each := self._effect(pair, choice, value))}
        with_p = [choice for choice, each in weighed.items() if math.isfinite(each.effect.p)]
        adjusted = dict(zip(with_p, holm([weighed[choice].effect.p for choice in with_p]).tolist(), strict=True))
        return {
            choice: _Weighed(each.value, each.measured, each.effect, each.base, adjusted.get(choice, math.nan))
            for choice, each in weighed.items()
        }

    def _family(self, pair: tuple[Place, Place]) -> Iterator[tuple[Choice, Value]]:
        """The values of the suites' tables that either arm could have, or of all sections where there are no tables."""
        value_by_choice: dict[Choice, Value] = {}
        in_tables: list[tuple[str, str]] = []
        for number, arm in pair:
            run = self._views[number].run
            in_tables += [(column.value, column.metric) for table in run.suite.tables for column in table.columns]
            for group in run.groups:
                if group.arm == arm and group.kind != "generate":
                    plugins = registry.metrics if group.kind == "score" else registry.probes
                    for value in plugins.get(group.plugin).values:
                        value_by_choice.setdefault((group.section, group.plugin, value.name), value)
        for choice, value in value_by_choice.items():
            section, plugin, name = choice
            matches = not in_tables or {(f"{section}:{name}", ""), (f"{section}:{name}", plugin)} & set(in_tables)
            if matches and value.direction != "none":
                yield choice, value

    def _effect(self, pair: tuple[Place, Place], choice: Choice, value: Value) -> _Weighed | None:
        """None where `harness compare` would have no verdict either."""
        section, plugin, _ = choice
        samples_of_pair = [self._samples(place, section, plugin) for place in pair]
        if any(samples is None or not np.isfinite(samples.values[value.name]).any() for samples in samples_of_pair):
            return None
        first, second = (samples for samples in samples_of_pair if samples is not None)
        if pair[0][0] != pair[1][0] and len({str(self._terms(place, choice)) for place in pair}) > 1:
            return None
        body = self._views[pair[0][0]].section(section)
        if not isinstance(body, GenerateSection):
            return self._ratio(pair, choice, value, float(np.nanmedian(first.values[value.name])))
        cards = [self._views[number].arms[arm].card for number, arm in pair]
        if any(card.weights == "random" for card in cards):
            return None
        if registry.metrics.get(plugin).aggregate is not Metric.aggregate:
            return None
        return self._difference(pair, choice, value, (first, second))

    def _samples(self, place: Place, section: str, plugin: str) -> Samples | None:
        view = self._views[place[0]]
        body, group = view.section(section), view.groups.get((section, plugin, place[1]))
        return view.samples(body, group) if body and group else None

    def _terms(self, place: Place, choice: Choice) -> Json:
        """The facts that arms of two runs must share to be comparable."""
        view, (section, plugin, _) = self._views[place[0]], choice
        samples, body = self._samples(place, section, plugin), view.section(section)
        assert samples is not None
        assert samples.last is not None
        preimage = view.records.at(samples.last.offset).preimage
        if not isinstance(body, GenerateSection):
            return [preimage["probe"], preimage["workload"]]
        switches: list[Json] = [switch.model_dump(mode="json") for switch in body.switches]
        return [preimage["metric"], body.frames, switches, view.run.suite.video.model_dump(mode="json")]

    def _difference(
        self, pair: tuple[Place, Place], choice: Choice, value: Value, samples_of_pair: tuple[Samples, Samples]
    ) -> _Weighed | None:
        scores = []
        first_numbers, second_numbers = self._paired(pair, choice[0], samples_of_pair)
        _, *places = np.intersect1d(first_numbers, second_numbers, return_indices=True)
        for (number, _), samples, common in zip(pair, samples_of_pair, places, strict=True):
            metric = self._views[number].metric(self._generate((number, ""), choice[0]), choice[1])
            counting = kept_clips(metric, value.name, samples)
            scores.append(np.where(counting, samples.values[value.name], math.nan)[common])
        defined = np.isfinite(scores[0]) & np.isfinite(scores[1])
        if not defined.any():
            return None
        first, second = (each[defined] for each in scores)
        clusters = self._ranks(pair[0], choice[0])[samples_of_pair[0].prompts[places[0]][defined]]
        change = effect(value, first, second, clusters)
        return _Weighed(value, False, change, float(np.mean(first)), math.nan)

    def _paired(
        self, pair: tuple[Place, Place], section: str, samples_of_pair: tuple[Samples, Samples]
    ) -> list[NDArray[np.int64]]:
        """A number for each sample of both arms; equal numbers are one prompt and seed."""
        if pair[0][0] == pair[1][0]:
            seeds = len(self._generate(pair[0], section).seeds)
            return [samples.prompts * seeds + samples.places % seeds for samples in samples_of_pair]
        numbers: dict[tuple[str, int], int] = {}
        numbers_of_arms = []
        for place, samples in zip(pair, samples_of_pair, strict=True):
            body = self._generate(place, section)
            texts, seeds = self._views[place[0]].run.suite.prompts[body.prompts].texts, len(body.seeds)
            names = [(texts[at // seeds], body.seeds[at % seeds]) for at in samples.places.tolist()]
            numbers_of_arms.append(np.asarray([numbers.setdefault(name, len(numbers)) for name in names], np.int64))
        return numbers_of_arms

    def _ranks(self, place: Place, section: str) -> NDArray[np.int64]:
        """By the number of a prompt, its place among the sorted texts: the order of clusters in `harness compare`.

        The ends of a bootstrap depend on that order.
        """
        prompts = self._views[place[0]].run.suite.prompts[self._generate(place, section).prompts]
        return np.argsort(np.argsort(list(dict.fromkeys(prompts.texts)))).astype(np.int64)

    def _generate(self, place: Place, section: str) -> GenerateSection:
        body = self._views[place[0]].section(section)
        assert isinstance(body, GenerateSection)
        return body

    def _ratio(self, pair: tuple[Place, Place], choice: Choice, value: Value, base: float) -> _Weighed | None:
        first, second = (self._rounds(place, choice[0], choice[1]) for place in pair)
        common = sorted(first.keys() & second.keys())
        raw = all(value.name in records[number].samples for records in (first, second) for number in common)
        rounds = [
            [records[n].samples[value.name] if raw else [records[n].values[value.name]] for n in common]
            for records in (first, second)
        ]
        try:
            return _Weighed(value, True, ratio_of_medians(*rounds), base, math.nan)
        except ValueError:
            return None

    def _rounds(self, place: Place, section: str, plugin: str) -> Mapping[int, Record]:
        """The finished measurements of a group, by the number of the round."""
        if (place, section, plugin) not in self._records:
            view = self._views[place[0]]
            entries = map(view.run.index.get, view.groups[section, plugin, place[1]].keys)
            self._records[place, section, plugin] = {
                number: view.records.at(entry.offset)
                for number, entry in enumerate(entries)
                if entry is not None and entry.status == "ok"
            }
        return self._records[place, section, plugin]


def _standing(weighed: _Weighed) -> Standing:
    value, exact = weighed.value, weighed.measured and weighed.effect.error == 0 and weighed.value.unit in COUNTED
    floor = Floors().of("", value, weighed.base)
    place, change = weigh(weighed.effect, weighed.p, floor, weighed.base, weighed.measured, exact)
    if place == "within":
        return "equal"
    return "ahead" if place == "past" and (change > 0) == (value.direction == "higher") else "unclear"
