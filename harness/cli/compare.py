"""`harness compare` and `harness gate`: verdicts from records, as a table and as an exit code."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.arguments import Format, Plugins, bundled, load_plugins
from harness.errors import HarnessError, Incomplete, RecordError

if TYPE_CHECKING:
    from harness.report.comparison import Pair
    from harness.report.verdicts import Finding
    from harness.runs.records import Run

MOST_BASELINES = 5
"""Earlier runs that a gate takes the median of (rule T19)."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What `compare` and `gate` may be asked for."""

    arm: Annotated[str | None, typer.Option(metavar="LABEL", help="Of two runs, only this model.")] = None
    value: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SECTION:VALUE",
            help="Only this, as in card:cached_scalars; those of the suites' tables unless given.",
        ),
    ] = None
    percent: Annotated[float, typer.Option(min=0, help="Changes within so many percent do not matter.")] = 2.0
    absolute: Annotated[
        list[str] | None,
        typer.Option(metavar="SECTION:VALUE=NUMBER", help="Nor do those within this, in the value's unit."),
    ] = None
    across_devices: Annotated[
        bool, typer.Option("--across-devices", help="Compare records of different devices or schema versions.")
    ] = False
    format_: Annotated[Format, typer.Option("--format", help="Of what is printed.")] = "md"
    as_json: Annotated[bool, typer.Option("--json", help="As JSON: a mapping for each value.")] = False
    plugin: Plugins = None


@bundled
def compare(
    what: Annotated[
        list[str], typer.Argument(metavar="RUN A B | RUN_A RUN_B", help="Two models of a run, or two runs.")
    ],
    choice: Choice,
) -> Iterator[str]:
    """Compare two models of a run, or two runs, value by value.

    The verdict speaks of the second of them, measured against the first.
    """
    from harness.report.comparison import paired, side_of
    from harness.runs.records import load_run

    load_plugins(choice.plugin)
    if len(what) == 3 and choice.arm is None:
        run = load_run(Path(what[0]))
        pairs = [(side_of(run, what[1]), side_of(run, what[2]))]
    elif len(what) == 2:
        pairs = paired(load_run(Path(what[0])), load_run(Path(what[1])), choice.arm)
    else:
        raise HarnessError(
            "name a run and two of its models, or two runs (with --arm LABEL)", "harness compare RUN A B"
        )
    yield _drawn(_findings(pairs, choice), pairs, choice)


@bundled
def gate(
    run: Annotated[Path, typer.Argument(metavar="RUN")],
    baseline: Annotated[
        list[Path], typer.Option(metavar="RUN", help="The run to measure against; of up to five, the median by value.")
    ],
    choice: Choice,
) -> Iterator[str]:
    """Hold RUN against earlier runs; exit 1 where it is worse.

    Exits 0 if RUN is the same as the baseline or better, 1 if worse, 2 if unclear, 3 without a baseline.

    With several baselines, earlier runs of the same suite, each value is held to the run that has the median of it.
    """
    from harness.report.comparison import paired
    from harness.report.verdicts import exit_code
    from harness.runs.records import load_run

    load_plugins(choice.plugin)
    if len(baseline) > MOST_BASELINES:
        raise HarnessError(f"{len(baseline)} baselines", f"give the newest {MOST_BASELINES}")
    now = load_run(run)
    earlier: list[Run] = []
    for folder in baseline:
        if not (folder / "plan.json").is_file():
            yield f"no baseline: {folder} holds no run"
            raise typer.Exit(3)
        earlier.append(load_run(folder))
        if not any(entry.status == "ok" for entry in earlier[-1].index.values()):
            yield f"no baseline: {folder} holds no result"
            raise typer.Exit(3)
    try:
        pairs = [paired(before, now, choice.arm) for before in earlier]
        found = [_findings(each, choice) for each in pairs]
    except Incomplete as error:
        # Its own exit code would say that there is no baseline.
        raise RecordError(error.message, error.fix) from error
    findings = _against_median(found)
    yield _drawn(findings, pairs[0], choice)
    code = exit_code(findings)
    among = f", by the median of {len(earlier)} runs" if len(earlier) > 1 else ""
    if not choice.as_json:
        yield f"gate: {('same or better', 'worse', 'unclear')[code]}{among}"
    if code:
        raise typer.Exit(code)


def _against_median(found: list[list[Finding]]) -> list[Finding]:
    """Of several baselines, the finding of each value against the run with its median, the lower one of two (T19)."""
    if len(found) == 1:
        return found[0]
    same: dict[tuple[str, str, int], list[Finding]] = {}
    for findings in found:
        seen: Counter[tuple[str, str]] = Counter()
        for finding in findings:
            name = (finding.arm, finding.name)
            same.setdefault((*name, seen[name]), []).append(finding)
            seen[name] += 1
    chosen = []
    for candidates in same.values():
        known = sorted((f for f in candidates if f.first is not None), key=lambda f: f.first or 0.0)
        middle = known[(len(known) - 1) // 2] if known else candidates[0]
        chosen.append(replace(middle, evidence=f"{middle.evidence}; median of {len(known)} runs"))
    return chosen


def _findings(pairs: list[Pair], choice: Choice) -> list[Finding]:
    from harness.report.comparison import compare as judge
    from harness.report.verdicts import Floors

    floors = {}
    for text in choice.absolute or []:
        name, _, number = text.rpartition("=")
        try:
            floors[name] = float(number)
        except ValueError:
            raise HarnessError(f"--absolute {text}: expected SECTION:VALUE=NUMBER") from None
        if not name or not 0 <= floors[name] < float("inf"):
            raise HarnessError(f"--absolute {text}: expected SECTION:VALUE=NUMBER, the number not negative")
    findings = judge(pairs, choice.value or (), Floors(choice.percent, floors), choice.across_devices)
    if not findings:
        raise RecordError("there is no value to compare", "name values with --value SECTION:VALUE")
    return findings


def _drawn(findings: list[Finding], pairs: list[Pair], choice: Choice) -> str:
    from harness.report.comparison_table import plain_rows, table
    from harness.report.render import RENDERERS

    if choice.as_json:
        return json.dumps(plain_rows(findings), indent=1)
    return RENDERERS[choice.format_][1](table(findings, pairs[0], choice.across_devices))
