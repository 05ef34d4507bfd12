"""Compare two arms or two runs value by value. Clips are paired by prompt and seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from harness.errors import Incomplete, RecordError, nearest
from harness.report.effects import Choice, choices, finding_of, samples_of
from harness.report.effects import Pair as Entrants
from harness.report.verdicts import Finding, Floors, Side, judged
from harness.report.view import View
from harness.runs.records import Run

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

    What differs in what a table would not rank either is not compared, and says why; with `across_devices`, devices and
    record schema versions may differ. Raises `Incomplete` where units lack results in a run whose suite says
    `incomplete: refuse`; `SuiteError` for an unknown value.
    """
    views = {side.run.folder: View(side.run) for pair in pairs for side in pair}
    planned: list[tuple[Entrants, Choice]] = []
    for first, second in pairs:
        entrants = (views[first.run.folder], first.arm.label), (views[second.run.folder], second.arm.label)
        planned += [(entrants, choice) for choice in choices(entrants, values)]
    for entrants, choice in planned:
        _refuse_incomplete(entrants, choice)
    findings = [
        replace(finding_of(entrants, choice, across_devices), arm=entrants[1][1] if len(pairs) > 1 else "")
        for entrants, choice in planned
    ]
    return judged(findings, floors or Floors())


def _refuse_incomplete(entrants: Entrants, choice: Choice) -> None:
    for view, label in entrants:
        samples = samples_of((view, label), choice)
        if samples is not None and samples.incomplete and view.run.suite.incomplete == "refuse":
            raise Incomplete(
                f"{choice[0]}: {choice[1]} has {samples.scored} of {samples.planned} results of {label} "
                f"in {view.run.folder}",
                "run the suite again to fill what is missing, or say `incomplete: mark` in it",
            )
