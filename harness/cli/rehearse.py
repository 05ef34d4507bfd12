"""`harness rehearse`: a whole suite in minutes, as small as it can be, and what would stop the real run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.arguments import Plugins, Quiet, Sets, SuiteFile, Verbose, load_plugins

if TYPE_CHECKING:
    from harness.execute.rehearsal import Verdict

FOLDER = Path("rehearsals")
"""Beside runs/, so that nobody takes one for a run."""
DRAWN = ".drawn"
"""Weights that are drawn for a rehearsal and deleted at its end, in its folder."""


def rehearse(
    suite: SuiteFile,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the rehearsal; rehearsals/<suite> unless given.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON: a mapping for each part.")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    plugin: Plugins = None,
    set_: Sets = None,
) -> Iterator[str]:
    """Run all of SUITE as small as can be; say what would stop it.

    Every model is made at its tiny size with random weights, two prompts and the shortest clips; each is scored, by
    random weights where metrics have some, and measured, and tables and plots are made. Nothing of it is a result, and
    everything says so.

    Then one line for each model, metric and probe: it ran, or what stops the real run, and the remedy. Exits 0 where
    all ran, 1 where something failed, 3 where something is not here.
    """
    from rich.console import Console

    from harness.cli.progress import Detail, Meter
    from harness.execute.outcome import Tick
    from harness.execute.rehearsal import random_weights, rehearsal_of, verdicts
    from harness.execute.run import run_plan
    from harness.runs.plan import make
    from harness.runs.records import RECORDS, RecordFile
    from harness.suite.load import load_suite

    load_plugins(plugin)
    whole = load_suite(suite, set_ or [])
    folder = out or FOLDER / whole.suite
    drawn = folder.absolute() / DRAWN
    rehearsal = rehearsal_of(whole, drawn)
    make(rehearsal.suite)  # whatever forbids it is found before an earlier one is deleted
    _clear(folder)
    with (
        Meter(Console(stderr=True), detail=Detail.of(quiet, verbose)) as meter,
        random_weights(rehearsal, drawn, lambda text: meter(Tick(0, 0, 0, 0.0, message=text))),
    ):
        work = make(rehearsal.suite)
        outcome = run_plan(work, folder, progress=meter, suite_folder=suite.parent)
    ends = verdicts(rehearsal.parts, work, RecordFile(folder / RECORDS))
    ends.append(_tables(folder))
    if as_json:
        yield json.dumps([_body(end) for end in ends], indent=1)
    else:
        yield from _lines(ends)
        yield f"rehearsal, no result: {folder}"
        if outcome.stopped:
            yield f"stopped: {outcome.stopped}"
    endings = {end.ended for end in ends}
    raise typer.Exit(1 if "failed" in endings else 3 if outcome.stopped or endings != {"ran"} else 0)


def _clear(folder: Path) -> None:
    """Empty the folder of an earlier rehearsal, whose results must not stand for this one's.

    Raises `RecordError` for a folder that holds anything else.
    """
    from harness.errors import RecordError
    from harness.execute.products import SCRATCH
    from harness.report import files
    from harness.runs.folder import Store
    from harness.runs.records import PLAN, RECORDS, load_run

    if not folder.exists() or (folder.is_dir() and {path.name for path in folder.iterdir()} <= {DRAWN}):
        shutil.rmtree(folder / DRAWN, ignore_errors=True)
        return
    if not (folder / PLAN).is_file() or not load_run(folder, rehearsal=True).suite.rehearsal:
        raise RecordError(f"{folder} is there and is no rehearsal", "move it away, or name a folder with --out DIR")
    with Store(folder):  # nobody works in it meanwhile
        for name in (RECORDS, "clips", files.FOLDER, SCRATCH, DRAWN, PLAN):
            path = folder / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def _tables(folder: Path) -> Verdict:
    """Make the tables and plots of the rehearsal, and say how that ended."""
    from harness.errors import HarnessError, StorageError
    from harness.execute.rehearsal import Part, Verdict
    from harness.report import files
    from harness.report.tables import build, nothing_to_show
    from harness.runs.records import load_run

    part = Part("tables", str(folder / files.FOLDER))
    try:
        run = load_run(folder, rehearsal=True)
        if nothing_to_show(run):
            return Verdict(part, "ran", "the suite asks for none")
        paths = files.renew(folder / files.FOLDER, files.contents(build([run])) | files.drawings([run]))
    except StorageError:
        raise
    except HarnessError as error:
        return Verdict(part, "failed", error.message, error.fix)
    except Exception as error:  # noqa: BLE001 - code of a plug-in runs in it
        return Verdict(part, "failed", f"{type(error).__name__}: {error}")
    return Verdict(part, "ran", f"{len(paths)} files")


def _body(end: Verdict) -> dict[str, object]:
    return {**asdict(end.part), "ended": end.ended, "reason": end.reason, "fix": end.fix}


def _lines(ends: Sequence[Verdict]) -> Iterator[str]:
    from harness.errors import shown

    for end in ends:
        ended = "FAILED" if end.ended == "failed" else end.ended
        reason = f": {shown(end.reason)}" if end.reason else ""
        remedy = f" ({shown(end.fix)})" if end.fix else ""
        beside = f"; {shown(end.part.note)}" if end.part.note and end.part.note not in end.reason else ""
        yield f"{ended:9} {end.part.kind:6} {shown(end.part.name, 100)}{reason}{remedy}{beside}"
