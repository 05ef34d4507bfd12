"""`harness run`: do a suite, and say how it ended."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from harness.cli.arguments import Plugins, Quiet, ReplacePlan, Sets, SuiteFile, Verbose, path_named

if TYPE_CHECKING:
    from harness.cli.progress import Detail
    from harness.execute.outcome import Outcome
    from harness.execute.ray_cluster import Cluster
    from harness.runs.plan import Plan

RunFolder = Annotated[
    Path | None, typer.Option(parser=path_named, metavar="DIR", help="Run folder; runs/<suite> unless given.")
]
Processes = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Processes that make clips on a CPU; one, and for batches one a core, unless given. 0 makes them in "
        "this one, for a debugger.",
    ),
]


def run(
    suite: SuiteFile,
    out: RunFolder = None,
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="Do at most N units, then stop.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.")] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Measurements at the same time, of probes that allow it.")] = 1,
    processes: Processes = None,
    verify: Annotated[bool, typer.Option("--verify", help="Compare the digest of every clip file first.")] = False,
    only: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only this model or section; may be repeated.")
    ] = None,
    replace_plan: ReplacePlan = False,
    shard: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Only share I of N, in DIR/shards; `harness merge DIR` unites the shares."),
    ] = None,
    engine: Annotated[
        Literal["local", "ray"], typer.Option(help="`local`, or `ray` for the devices and machines of a Ray cluster.")
    ] = "local",
    address: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Head node of the cluster; without it Ray starts here.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="With --engine ray: workers that make clips; all that fit.")
    ] = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    plugin: Plugins = None,
    set_: Sets = None,
) -> Iterator[str]:
    """Do the units of SUITE that have no record; show the tables."""
    from harness.cli.forecast import forecast
    from harness.cli.plan import plan_lines, plan_of
    from harness.cli.progress import Detail
    from harness.execute import merging, shares

    part, detail = shares.Shard.parse(shard) if shard is not None else None, Detail.of(quiet, verbose)
    with _cluster(engine if not dry_run else "local", address, workers) as cluster:
        whole = plan_of(suite, plugin, set_, cluster.resolve if cluster else None)
        base = out or Path("runs") / whole.suite.suite
        work, folder = shares.part_of(whole, base, only or (), part)
        if dry_run:
            yield from plan_lines(work)
            yield from forecast(work, [folder, *(merging.elsewhere(base, folder) if part else ())], verify=verify)
            return
        if part:
            merging.adopt(work, base, folder)
        options: dict[str, Any] = {
            "verify": verify,
            "suite_folder": suite.parent,
            "jobs": jobs,
            "processes": processes,
            "replace_plan": replace_plan,
        }
        outcome = yield from _done(work, folder, limit, cluster, detail, options)
    yield from report(outcome, plugins=plugin or ())
    raise typer.Exit(outcome.exit_code)


def _done(
    work: Plan,
    folder: Path,
    limit: int | None,
    cluster: Cluster | None,
    detail: Detail,
    options: Mapping[str, Any],
) -> Generator[str, None, Outcome]:
    """Run `work`; the tables so far where the disk refuses."""
    from rich.console import Console

    from harness.cli.progress import Meter
    from harness.errors import HarnessError, StorageError
    from harness.execute.run import run_plan

    engine = None
    if cluster is not None:
        from harness.execute.ray_engine import engine_of

        engine = engine_of(cluster)
    try:
        with Meter(Console(stderr=True), detail=detail) as meter:
            return run_plan(work, folder, limit, meter, engine=engine, **options)
    except StorageError:
        with suppress(HarnessError):
            yield from _tables(folder, write=False)
        raise


@contextmanager
def _cluster(engine: str, address: str | None, workers: int | None) -> Iterator[Cluster | None]:
    """The cluster of the engine `ray`; None for the local one, which takes neither option."""
    from harness.errors import OptionError

    if engine == "ray":
        from harness.execute.ray_cluster import connected

        with connected(address, workers) as cluster:
            yield cluster
    elif address or workers:
        raise OptionError("--address and --workers are options of --engine ray", "add --engine ray, or leave them out")
    else:
        yield None


def report(outcome: Outcome, files_in: str = "clips", plugins: Sequence[Path] = ()) -> Iterator[str]:
    """The tables of a run that has ended, how it ended, and where everything is.

    What is missing is marked, also where the suite refuses such means; then no files are written.
    """
    from harness.errors import HarnessError, Incomplete, StorageError, complaint
    from harness.execute.printed import PRINTED

    fault: HarnessError | None = None
    try:
        yield from _tables(outcome.folder, write=True)
    except StorageError:
        raise
    except HarnessError as error:
        fault = error  # told after the counts, which hold whether or not a table can be made
    yield _counts(outcome)
    yield from (f"note:    {remark}" for remark in outcome.remarks)
    if outcome.stopped:
        yield f"stopped: {outcome.stopped}"
    yield f"records: {outcome.folder / 'records.jsonl'}   {files_in}: {outcome.folder / files_in}"
    if fault is None and (outcome.folder / "tables").is_dir():
        yield f"tables:  {outcome.folder / 'tables'}"
    if (printed := outcome.folder / PRINTED).is_file():
        yield f"printed: {printed}"
    if (outcome.folder / "clips").is_dir():
        yield f"page:    harness page {outcome.folder}" + "".join(f" --plugin {file}" for file in plugins)
    if isinstance(fault, Incomplete) and outcome.pending:
        yield "tables:  in files when no result is missing any more, as the suite says incomplete: refuse"
    elif fault is not None:
        sys.stderr.write(complaint(fault) + "\n")


def _tables(folder: Path, write: bool) -> Iterator[str]:
    """The tables of the run in `folder` with what is missing marked; written beside it where the suite lets them be.

    Raises `HarnessError` where there are none, or none can be written.
    """
    from harness.cli.table import drawn
    from harness.report import files
    from harness.report.tables import build, nothing_to_show
    from harness.runs.records import load_run

    run = load_run(folder, rehearsal=True)
    if nothing_to_show(run):
        return
    tables = build([run.with_gaps_marked()])
    yield from drawn(tables, None)
    if write:
        whole = build([run]) if run.suite.incomplete == "refuse" else tables
        files.renew(folder / files.FOLDER, files.contents(whole) | files.drawings([run]))


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
