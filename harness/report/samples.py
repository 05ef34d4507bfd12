"""The samples of a group of records, and their estimates over clips."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.contracts import AuditVerdict, Metric, Value, enforce
from harness.errors import PluginFault, RecordError
from harness.report import table
from harness.runs.index import Index, IndexEntry
from harness.runs.measured import Judgement, judgement
from harness.runs.plan import Group
from harness.runs.records import Run
from harness.stats.estimates import Effect, Estimate, clustered_mean, clustered_statistic, paired_effect
from harness.suite.schema import GenerateSection
from harness.suite.scripts import scripts_of

BLOCK = 4096
"""Records whose values are decoded together."""


@dataclass(frozen=True, slots=True)
class Samples:
    """The results of a group.

    Attributes:
        planned: units of the group, as far as they count.
        last: the entry of the last of those that are done, n of them, in the order planned; None without any.
        schemas: of the records of those.
        places: [n] position of each among the planned ones. Equal places of two arms of a section are one pair:
            the same prompt and seed.
        prompts: [n] number of each one's prompt; equal texts have equal numbers.
        known_as: [n] number of what each one is known by; as `prompts`, unless several are made from one text.
        values: [n] by name; NaN where a clip does not define it.
        judgements: what the records of a measurement say of its worth, [n]; empty for others.
        skipped: units that were skipped; the first of them is `skip`.
        failed: units whose newest record is a failure; the first of them is `failure`.
    """

    planned: int
    last: IndexEntry | None
    schemas: frozenset[int]
    places: NDArray[np.int64]
    prompts: NDArray[np.int64]
    known_as: NDArray[np.int64]
    values: dict[str, NDArray[np.float64]]
    judgements: tuple[Judgement, ...]
    skipped: int
    failed: int
    skip: IndexEntry | None
    failure: IndexEntry | None

    @property
    def scored(self) -> int:
        """Units that are done."""
        return len(self.places)

    @property
    def incomplete(self) -> bool:
        """Whether results are missing. A group that was skipped as a whole lacks none: it is not available here."""
        return self.skipped < self.planned and self.scored < self.planned


def read(run: Run, group: Group, names: tuple[str, ...], chosen: NDArray[np.int64] | None = None) -> Samples:
    """The samples of `group` in `run`, with the values `names`; only those of the planned places `chosen`, if given."""
    index = run.index
    rows = index.rows(group.keys if chosen is None else [group.keys[place] for place in chosen])
    statuses = ["" if row is None else index.tags[row][1] for row in rows]
    places = np.flatnonzero([status == "ok" for status in statuses])
    done_rows = [row for row, status in zip(rows, statuses, strict=True) if status == "ok" and row is not None]
    places = places if chosen is None else chosen[places]
    skip, failure = (rows[statuses.index(each)] if each in statuses else None for each in ("skipped", "failed"))
    prompts, known_as = _prompts(run, group)
    return Samples(
        planned=len(rows),
        last=index.at(done_rows[-1]) if done_rows else None,
        schemas=frozenset({index.tags[row][2] for row in done_rows}),
        places=places,
        prompts=prompts[places],
        known_as=known_as[places],
        values=_values(index, done_rows, names),
        judgements=_judgements(run, [index.at(row) for row in done_rows]) if group.kind == "measure" else (),
        skipped=statuses.count("skipped"),
        failed=statuses.count("failed"),
        skip=None if skip is None else index.at(skip),
        failure=None if failure is None else index.at(failure),
    )


def _values(index: Index, rows: list[int], names: tuple[str, ...]) -> dict[str, NDArray[np.float64]]:
    """The values `names` of the entries in `rows`, a column each. Decoded in blocks, which bounds the memory."""
    columns = {name: np.full(len(rows), math.nan) for name in names}
    for start in range(0, len(rows), BLOCK):
        block = index.values_at(rows[start : start + BLOCK])
        for name, column in columns.items():
            column[start : start + BLOCK] = [values.get(name, math.nan) for values in block]
    return columns


def _judgements(run: Run, entries: Sequence[IndexEntry]) -> tuple[Judgement, ...]:
    records = (run.records.at(entry.offset) for entry in entries)
    return tuple(judgement(record.values, record.notes) for record in records)


def uncleared(here: Sequence[Judgement], elsewhere: Sequence[Judgement]) -> tuple[str, ...]:
    """The mark of a measurement whose model no caching audit has cleared (rule T13).

    Args:
        here: of its own rounds. Where their audits were all left out, those of `elsewhere` speak for it.
        elsewhere: of the same model in other sections of the run.
    """
    taken = _taken_audits(here) or _taken_audits(elsewhere)
    audited = any(each.audit is not None for each in here)
    return (table.UNCLEARED,) if audited and taken != {"passed"} else ()


def _taken_audits(judgements: Sequence[Judgement]) -> set[AuditVerdict]:
    return {each.audit for each in judgements if each.audit is not None and each.audit != "left out"}


def doubts(judgements: Sequence[Judgement]) -> tuple[str, ...]:
    """Marks of a measurement of which any round was disturbed, unconverged, or without agreement."""
    marks = {
        table.CONTENDED: any(each.contended for each in judgements),
        table.UNCONVERGED: any(each.converged is False for each in judgements),
        table.UNHELD: any(each.agreed is False for each in judgements),
    }
    return tuple(mark for mark, applies in marks.items() if applies)


def _prompts(run: Run, group: Group) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers of the prompt of every planned unit, and of what it is known by: keys stand in the order of both."""
    section = next((section for section in run.suite.generate if section.name == group.section), None)
    if not isinstance(section, GenerateSection):
        return np.arange(len(group.keys)), np.arange(len(group.keys))
    scripts = scripts_of(run.suite, section)
    if len(scripts) * len(section.seeds) != len(group.keys):
        raise RecordError(
            f"{run.folder}: section {group.section!r} has {len(group.keys)} planned units for {group.arm!r}, "
            f"not one for each of {len(scripts)} prompts and {len(section.seeds)} seeds",
            "run the suite again to renew its plan",
        )
    return (
        np.repeat(_numbers([script.text for script in scripts]), len(section.seeds)),
        np.repeat(_numbers([script.identity for script in scripts]), len(section.seeds)),
    )


def _numbers(texts: Sequence[str]) -> NDArray[np.int64]:
    """A number for each text, equal for equal ones, in the order of their first places."""
    first: dict[str, int] = {}
    return np.array([first.setdefault(text, len(first)) for text in texts], dtype=np.int64)


def estimate(metric: Metric, name: str, samples: Samples) -> Estimate:
    """The metric's aggregate of the value `name` with its interval. Raises `PluginFault`."""
    counting = kept_clips(metric, name, samples)
    # Only a mean has a fast interval; a metric's own aggregate is called once a resample.
    values, prompts = samples.values[name][counting], samples.prompts[counting]
    declared = next((value for value in metric.values if value.name == name), Value(name))
    try:
        if type(metric).aggregate is Metric.aggregate:
            whole = clustered_mean(values, prompts, share=declared.share)
        else:
            whole = clustered_statistic(values, prompts, lambda pooled: enforce.aggregate(metric, name, pooled))
    except ValueError as error:  # a record of an earlier version may hold a share beyond 1
        raise PluginFault(f"{name}: {error}") from error
    low = whole.low if declared.low is None else max(whole.low, declared.low)
    high = whole.high if declared.high is None else min(whole.high, declared.high)
    return replace(whole, low=low, high=high) if whole.bounded else whole


def aggregates(metric: Metric, samples: Samples) -> Mapping[str, float]:
    """Every value of `metric` that is defined somewhere. Raises `PluginFault`."""
    counting_values = {name: values[kept_clips(metric, name, samples)] for name, values in samples.values.items()}
    return {n: enforce.aggregate(metric, n, values.tolist()) for n, values in counting_values.items() if values.size}


def kept_clips(metric: Metric, name: str, samples: Samples) -> NDArray[np.bool_]:
    """Which clips count for `name`; never one that does not define it. Raises `PluginFault`."""
    values = samples.values[name]
    # A metric's own choice may count a clip that does not define the value; a mean of NaN would say nothing.
    defined = ~np.isnan(values)
    if type(metric).keep is Metric.keep:
        return defined
    return enforce.keep(metric, name, samples.known_as.tolist(), values.tolist()) & defined


def effect(value: Value, first: ArrayLike, second: ArrayLike, clusters: ArrayLike) -> Effect:
    """The change from `first` to `second` [n], paired: of their means, or where 0 is best, of the distances to 0.

    The mean b of the second is nearer to 0 than the mean a of the first exactly where b - a and b + a differ in sign.
    So a change of distance is shown only where both are shown (an intersection-union test: Berger and Hsu,
    Bioequivalence Trials, Intersection-Union Tests and Equivalence Confidence Sets, 1996). Its p-value is the larger of
    both, and its interval holds every distance that both intervals allow.
    """
    change = paired_effect(first, second, clusters, share=value.share)
    if value.direction != "zero":
        return change
    total = paired_effect(np.negative(first), second, clusters)
    difference, total_estimate = change.estimate, total.estimate
    # The distance is monotone in either argument while the other is fixed, so its extremes lie at the corners.
    ends = [
        _farther(d, s) for d, s in product((difference.low, difference.high), (total_estimate.low, total_estimate.high))
    ]
    distance = replace(
        difference,
        value=_farther(difference.value, total_estimate.value),
        low=float(np.min(ends)),
        high=float(np.max(ends)),
    )
    return replace(change, estimate=distance, p=float(np.maximum(change.p, total.p)))


def _farther(difference: float, total: float) -> float:
    """How much farther from 0 the second of two numbers lies, from its difference to the first and their sum."""
    return (abs(total + difference) - abs(total - difference)) / 2
