"""`harness run`: do a suite, and say how it ended."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.arguments import Plugins, Sets, SuiteFile

if TYPE_CHECKING:
    from harness.execute.outcome import Outcome
    from harness.runs.plan import Plan


def run(
    suite: SuiteFile,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Run folder; runs/<suite> unless given.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="Do at most N units, then stop.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.")] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Measurements at the same time, of probes that allow it.")] = 1,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Processes that make batches of clips on a CPU; one a core unless given.")
    ] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Compare the digest of every clip file first.")] = False,
    plugin: Plugins = None,
    set_: Sets = None,
) -> Iterator[str]:
    """Do the units of SUITE that have no record; show the tables."""
    from rich.console import Console

    from harness.cli.plan import plan_of
    from harness.cli.progress import Meter

    work = plan_of(suite, plugin, set_)
    folder = out or Path("runs") / work.suite.suite
    if dry_run:
        yield from _dry_run(work, folder)
        return
    from harness.execute.run import run_plan

    with Meter(Console(stderr=True)) as meter:
        outcome = run_plan(
            work, folder, limit, meter, verify=verify, suite_folder=suite.parent, jobs=jobs, processes=processes
        )
    yield from report(outcome, plugins=plugin or ())
    raise typer.Exit(outcome.exit_code)


def _dry_run(plan: Plan, folder: Path) -> Iterator[str]:
    from harness.cli.plan import plan_lines
    from harness.runs.records import RecordFile

    yield from plan_lines(plan)
    index = RecordFile(folder / "records.jsonl").newest()
    done = sum(1 for unit in plan.units if (entry := index.get(unit.key)) and entry.status == "ok")
    yield f"{folder} holds records of {done:,} of them; a run would do the other {len(plan.units) - done:,}"


def report(outcome: Outcome, files_in: str = "clips", plugins: Sequence[Path] = ()) -> Iterator[str]:
    """The tables of a run that has ended, how it ended, and where everything is."""
    from harness.cli.table import drawn
    from harness.errors import Incomplete, complaint
    from harness.report import files
    from harness.report.tables import build
    from harness.runs.records import load_run

    refused: Incomplete | None = None
    written: list[Path] = []
    try:
        records = load_run(outcome.folder)
        tables = build([records])
        yield from drawn(tables, None)
        written = files.write(outcome.folder / files.FOLDER, files.contents(tables) | files.drawings([records]))
    except Incomplete as error:
        refused = error
    yield _counts(outcome)
    if outcome.stopped:
        yield f"stopped: {outcome.stopped}"
    yield f"records: {outcome.folder / 'records.jsonl'}   {files_in}: {outcome.folder / files_in}"
    if written:
        yield f"tables:  {written[0].parent}"
    if (outcome.folder / "clips").is_dir():
        yield f"page:    harness page {outcome.folder}" + "".join(f" --plugin {file}" for file in plugins)
    if refused is not None and outcome.pending:
        yield "tables:  when no result is missing any more"
    elif refused is not None:
        sys.stderr.write(complaint(refused) + "\n")


def _counts(outcome: Outcome) -> str:
    if not (outcome.done_now or outcome.failed or outcome.skipped or outcome.pending):
        return f"nothing to do: all {outcome.planned:,} units are done"
    counts = {
        "done before": outcome.already_done,
        "done now": outcome.done_now,
        "failed": outcome.failed,
        "skipped": outcome.skipped,
        "to do": outcome.pending,
    }
    counted = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
    return f"{outcome.planned:,} units: {counted}"
