"""Make the table of a comparison: a row a value, with both arms, the change, its samples and the verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence

from harness.contracts import Json
from harness.report.render import ARROWS
from harness.report.table import Cell, Heading, Row, Table
from harness.report.verdicts import Finding, Side

MISSING = "not measured"
TIMES = "\u00d7"
RATIOS = (
    "The interval of a ratio takes each round for one replicate (Student's t): two rounds leave it 13 standard errors "
    "wide on either side, four rounds 3. From one round it holds only what varies within that round, not what another "
    "start would give. What varies between days or installations is in no ratio."
)

SHARES = (
    "The interval of a difference of shares is Tango's score interval at an effective number of pairs; where no pair "
    "differs, that number is the prompts'."
)
EXACT = (
    "Without interval and p: what is counted and not sampled (cards, bytes that all rounds agree on), and what both "
    "sides made from equal keys with equal frames."
)


def table(findings: Sequence[Finding], pair: tuple[Side, Side], across_devices: bool = False) -> Table:
    """`findings` as a table named `comparison`; `pair` names its sides."""
    first, second = pair
    names = [side.arm.label for side in pair]
    if first.run.folder != second.run.folder:
        names = [f"{side.run.folder.name}: {side.arm.label}" for side in pair]
        if any(finding.arm for finding in findings):
            names = [str(side.run.folder) for side in pair]
    headings = ("change", "p (Holm)", "floor", "could show", "evidence", "verdict")
    remarks = [
        f"The verdict speaks of {names[1]}, measured against {names[0]}. A change is a difference of means over pairs "
        f"of one prompt and seed, its interval over prompts; or, with {TIMES}, a ratio of medians of raw samples, by "
        "round.",
        "SAME: the whole interval lies within the floor. `could show` is the smallest true change that so many prompts "
        "or samples show in 4 of 5 studies, at 5 % and before adjustment.",
        *([SHARES] if any(f.value.share and not f.exact for f in findings) else []),
        *([RATIOS] if any(f.measured and not f.exact for f in findings) else []),
        *([EXACT] if any(f.exact and f.effect for f in findings) else []),
        *(["Devices or record schema versions may differ, as was asked for."] if across_devices else []),
        *_reasons(findings),
    ]
    return Table(
        "comparison",
        f"{names[1]} against {names[0]}",
        tuple(Heading(heading) for heading in (*names, *headings)),
        tuple(Row(_name(finding, arrow=True), _cells(finding), marks=finding.marks) for finding in findings),
        corner="value",
        remarks=tuple(remarks),
        interval="change [95 % interval]",
    )


def plain_rows(findings: Sequence[Finding]) -> list[dict[str, Json]]:
    """A mapping a value: both sides, the change with its interval, p (adjusted), floor, verdict, evidence, reason.

    A change is a ratio where `ratio` is true, else a difference in the value's unit; None where there is none.
    """
    rows: list[dict[str, Json]] = []
    for finding in findings:
        change = finding.effect.estimate if finding.effect else None
        ends = (change.value, change.low, change.high) if change else (math.nan,) * 3
        numbers = dict(zip(("change", "low", "high", "p", "floor"), (*ends, finding.p, finding.floor), strict=True))
        rows.append(
            {
                "value": finding.name,
                "arm": finding.arm,
                "first": finding.first,
                "second": finding.second,
                "ratio": finding.measured,
                **{name: number if math.isfinite(number) else None for name, number in numbers.items()},
                "verdict": finding.verdict,
                "evidence": finding.evidence,
                "reason": finding.reason,
            }
        )
    return rows


def _reasons(findings: Sequence[Finding]) -> list[str]:
    """A sentence for each reason, with the values that it holds for."""
    names_by_reason: dict[str, list[str]] = {}
    for finding in findings:
        if finding.reason:
            names_by_reason.setdefault(f"{finding.verdict}, as {finding.reason}", []).append(_name(finding))
    return [f"{reason}: {', '.join(names)}." for reason, names in names_by_reason.items()]


def _name(finding: Finding, arrow: bool = False) -> str:
    unit = f" ({finding.value.unit})" if arrow and finding.value.unit else ""
    end = f" {ARROWS[finding.value.direction]}" if arrow and finding.value.direction != "none" else ""
    return (f"{finding.arm}: " if finding.arm else "") + finding.name + unit + end


def _cells(finding: Finding) -> tuple[Cell, ...]:
    both = (finding.first, finding.second)
    sides = [Cell(MISSING) if x is None else Cell(f"{x:,}" if isinstance(x, int) else f"{x:.4g}", x) for x in both]
    verdict, evidence = Cell(finding.verdict, is_text=True), Cell(finding.evidence, is_text=True)
    effect = finding.effect
    if effect is None:
        return (*sides, Cell("-"), Cell("-"), Cell("-"), Cell("-"), Cell("-"), verdict)

    def formatted(number: float) -> str:
        return f"{TIMES}{number:.3f}" if finding.measured else f"{number:+.4g}"

    estimate = effect.estimate
    change = Cell(formatted(estimate.value), estimate.value)
    if estimate.bounded:
        ends = f"[{formatted(estimate.low)}, {formatted(estimate.high)}]"
        change = Cell(formatted(estimate.value), estimate.value, estimate.low, estimate.high, ends)
    p = Cell("-") if math.isnan(finding.p) else Cell("<0.001" if finding.p < 1e-3 else f"{finding.p:.3f}", finding.p)
    least = finding.detectable
    text = f"{least:.1%}" if finding.measured else f"{least:.3g}"
    detectable = Cell("-") if math.isnan(least) else Cell(text, least)
    return (*sides, change, p, Cell(f"{finding.floor:.3g}", finding.floor), detectable, evidence, verdict)
