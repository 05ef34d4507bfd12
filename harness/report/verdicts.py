"""Compare the interval of a difference with a floor for a verdict, and give the exit code of a gate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from harness.contracts import Value
from harness.report import table
from harness.runs.plan import Arm
from harness.runs.records import Run
from harness.stats.estimates import Effect, holm

Verdict = Literal["BETTER", "WORSE", "FASTER", "SLOWER", "SAME", "UNCLEAR", "not measured", "not compared"]

Standing = Literal["ahead", "equal", "unclear"]
"""The best value against the next: better past the floor, within the floor, or neither shown."""

ALPHA = 0.05

COUNTED = frozenset({"B", "B/request", "scalars", "multiply-adds", "FLOP", "requests"})
"""Units of counted values: where all rounds agree, their change is exact."""

PERCENT = 2.0
"""Default floor in percent: the half-width at which a measurement stops (rule T8)."""

ABSOLUTE = {"s": 1e-3, "B": 2.0**20}
"""Default absolute floor by unit, else 0. Chosen here: a millisecond, far below the time of a frame; a mebibyte,
up to which torch's CUDA allocator shares a block among requests (c10/core/AllocatorConfig.h, kSmallSize)."""


@dataclass(frozen=True, slots=True)
class Side:
    """One arm of one run."""

    run: Run
    arm: Arm


@dataclass(frozen=True, slots=True)
class Floors:
    """Changes that do not matter: within `percent` of the first arm's value, or within the absolute floor.

    `absolute` holds floors by `section:value` in the value's own unit. For other values `ABSOLUTE` counts, by unit.
    """

    percent: float = PERCENT
    absolute: Mapping[str, float] = field(default_factory=dict)

    def of(self, name: str, value: Value, base: float) -> float:
        """The larger of both floors, in the value's unit, for a first arm at `base`."""
        return max(self.percent / 100 * abs(base), self.absolute.get(name, ABSOLUTE.get(value.unit, 0.0)))


@dataclass(frozen=True, slots=True)
class Finding:
    """One value of two arms.

    Attributes:
        name: `section:value`. arm: label, where a comparison has several pairs; else empty.
        measured: whether it is of a probe or a card, and `effect` a ratio; else it is of a metric, with a difference.
        exact: whether nothing in `effect` is left to chance, so that it has neither interval nor p-value.
        first, second: the arms' own values; None without one.
        effect: of the second against the first; None where they cannot be paired.
        p: of no change, adjusted for all values of the comparison.
        floor: the change that does not matter, in the value's unit.
        evidence: pairs, rounds or samples behind the effect. reason: why there is no verdict.
        marks: footnotes, as in `harness.report.table`.
    """

    name: str
    value: Value
    measured: bool
    exact: bool = False
    arm: str = ""
    first: float | None = None
    second: float | None = None
    effect: Effect | None = None
    p: float = math.nan
    floor: float = 0.0
    verdict: Verdict = "UNCLEAR"
    evidence: str = ""
    reason: str = ""
    marks: tuple[str, ...] = ()

    @property
    def detectable(self) -> float:
        """The smallest change that as many prompts or samples show with a power of 0.8, before any adjustment.

        In the value's unit, or for a ratio as a share of the first arm's value; NaN without any spread.
        """
        change = math.nan if self.effect is None else self.effect.detectable(alpha=ALPHA)
        return math.expm1(change) if self.measured else change


def judged(findings: Sequence[Finding], floors: Floors) -> list[Finding]:
    """The same findings with p-values adjusted for their number, floors, and verdicts."""
    p_values = {i: each.effect.p for i, each in enumerate(findings) if each.effect and math.isfinite(each.effect.p)}
    adjusted = dict(zip(p_values, holm(list(p_values.values())).tolist(), strict=True))
    results = []
    for i, finding in enumerate(findings):
        if finding.effect is None or finding.first is None:
            results.append(finding)
            continue
        floor = floors.of(finding.name, finding.value, finding.first)
        finding = replace(finding, p=adjusted.get(i, math.nan), floor=floor)
        verdict, reason = verdict_of(finding)
        results.append(replace(finding, verdict=verdict, reason=reason))
    return results


def exit_code(findings: Sequence[Finding]) -> int:
    """The exit code of `harness gate`: 1 with anything worse; 2 with anything undecided, or nothing at all; else 0."""
    verdicts = {finding.verdict for finding in findings}
    if verdicts & {"WORSE", "SLOWER"}:
        return 1
    return 0 if verdicts and verdicts <= {"BETTER", "FASTER", "SAME"} else 2


def verdict_of(finding: Finding) -> tuple[Verdict, str]:
    """The verdict, and the reason where it is UNCLEAR.

    SAME takes the whole interval inside the floor. A direction takes a change past the floor that p and interval show.
    An exact change has no interval: it lies within the floor or past it itself.
    """
    assert finding.effect is not None
    assert finding.first is not None
    estimate = finding.effect.estimate
    if table.INCOMPLETE in finding.marks:
        return "UNCLEAR", "there are fewer results than planned"
    if not (estimate.bounded or finding.exact):
        return "UNCLEAR", _why_unbounded(finding)
    no_change, floor = 0.0, finding.floor
    if finding.measured:  # a ratio, so the floor must be one too
        no_change, floor = 1.0, floor / abs(finding.first) if finding.first else 0.0
    change, low, high = (end - no_change for end in (estimate.value, estimate.low, estimate.high))
    if finding.exact:
        low = high = change
    if -floor <= low and high <= floor:
        return "SAME", ""
    significant = finding.exact or (finding.p <= ALPHA and (low > 0 or high < 0))
    if not (significant and abs(change) > floor):
        return "UNCLEAR", "the interval reaches past the floor and no change past it is shown"
    if finding.value.direction == "none":
        return "UNCLEAR", "it changes and neither way is better"
    good = (change > 0) == (finding.value.direction == "higher")
    if finding.measured and (finding.value.unit == "s" or finding.value.unit.endswith("/s")):
        return ("FASTER" if good else "SLOWER"), ""
    return ("BETTER" if good else "WORSE"), ""


def _why_unbounded(finding: Finding) -> str:
    assert finding.effect is not None
    if finding.effect.error == 0:
        alike = "samples" if finding.measured else "prompts"
        return f"all {alike} change by the same, and how far others would lie apart cannot be told from them"
    if finding.measured:
        return "one round of too few samples has no interval; measure with `rounds: 2` or more"
    return "there are too few prompts for an interval"
