"""The `harness` command: reads arguments, calls what does the work, and prints. Nothing else prints."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from harness.cli.plugins import Commands
from harness.contracts import registry
from harness.errors import HarnessError, Incomplete
from harness.system.platforms import refuse_windows

if TYPE_CHECKING:
    from rich.console import Console

    from harness.execute.outcome import Outcome
    from harness.report.table import Table
    from harness.runs.plan import Plan


def _print_result(result: object) -> None:
    """Print the lines that a command returns."""
    if isinstance(result, Iterable):
        _say(str(line) for line in result)


app = typer.Typer(
    cls=Commands,
    result_callback=_print_result,
    help="Evaluation and benchmarking of streaming video diffusion models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

SuiteFile = Annotated[Path, typer.Argument(metavar="SUITE", help="A suite file, as suites/quickstart.yaml.")]
Plugins = Annotated[
    list[Path] | None, typer.Option("--plugin", metavar="FILE", help="A Python file that registers plug-ins.")
]
Sets = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a value; a dotted path, YAML value.")
]
Format = Literal["md", "csv", "latex", "html"]


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 something failed, 2 bad input, 3 incomplete."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        refuse_windows()
        app(args=arguments, prog_name="harness")
    except HarnessError as error:
        _complain(error)
        sys.exit(error.exit_code)


def _complain(error: HarnessError) -> None:
    from harness.cli.progress import shown

    print(f"error: {shown(error.message, 2000)}", file=sys.stderr)
    if error.fix:
        print(f"  {shown(error.fix, 2000)}", file=sys.stderr)


def _say(lines: Iterable[str]) -> None:
    for line in lines:
        print(line)


def _load_plugins(files: list[Path] | None) -> None:
    for file in files or []:
        registry.load_plugin(file)


def _plan(suite: Path, plugins: list[Path] | None, sets: list[str] | None) -> Plan:
    from harness.runs.plan import make
    from harness.suite.load import load_suite

    _load_plugins(plugins)
    return make(load_suite(suite, sets or []))


# ------------------------------------------------------------------------------------------- run a suite


@app.command()
def run(
    suite: SuiteFile,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Run folder; runs/<suite> unless given.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="Do at most N units, then stop.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Compare the digest of every clip file first.")] = False,
    plugin: Plugins = None,
    set_: Sets = None,
) -> None:
    """Do what SUITE asks for and the run folder does not hold yet, then print its tables."""
    from rich.console import Console

    from harness.cli.progress import Meter

    plan = _plan(suite, plugin, set_)
    folder = out or Path("runs") / plan.suite.suite
    if dry_run:
        _dry_run(plan, folder)
        return
    from harness.execute.run import run_plan

    with Meter(Console(stderr=True)) as meter:
        outcome = run_plan(plan, folder, limit, meter, verify=verify, suite_folder=suite.parent)
    _report(outcome)
    raise typer.Exit(outcome.exit_code)


def _dry_run(plan: Plan, folder: Path) -> None:
    from harness.cli.show import plan_lines
    from harness.runs.records import RecordFile

    _say(plan_lines(plan))
    index = RecordFile(folder / "records.jsonl").newest()
    done = sum(1 for unit in plan.units if (entry := index.get(unit.key)) and entry.status == "ok")
    print(f"{folder} holds records of {done:,} of them; a run would do the other {len(plan.units) - done:,}")


def _report(outcome: Outcome) -> None:
    """The tables of a run that has ended, how it ended, and where everything is."""
    from harness.report import files
    from harness.report.tables import build
    from harness.runs.records import load_run

    refused: HarnessError | None = None
    try:
        run = load_run(outcome.folder)
        tables = build([run])
        _show(tables, None)
        written = files.write(outcome.folder / files.FOLDER, files.contents(tables) | files.drawings([run]))
    except Incomplete as error:
        refused, written = error, []
    if not (outcome.made or outcome.failed or outcome.skipped or outcome.pending):
        print(f"nothing to do: all {outcome.planned:,} units are done")
    else:
        counts = {
            "done before": outcome.found,
            "done now": outcome.made,
            "failed": outcome.failed,
            "skipped": outcome.skipped,
            "to do": outcome.pending,
        }
        counted = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
        print(f"{outcome.planned:,} units: {counted}")
    if outcome.stopped:
        print(f"stopped: {outcome.stopped}")
    print(f"records: {outcome.folder / 'records.jsonl'}   clips: {outcome.folder / 'clips'}")
    if written:
        print(f"tables:  {written[0].parent}")
    if refused is not None and outcome.pending:
        print("tables:  when no result is missing any more")
    elif refused is not None:
        _complain(refused)


@app.command("plan")
def plan_(
    suite: SuiteFile,
    as_json: Annotated[bool, typer.Option("--json", help="The resolved suite, cards and keys as JSON.")] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Each unit's key and the text it is the digest of.")
    ] = False,
    plugin: Plugins = None,
    set_: Sets = None,
) -> None:
    """Show the units that SUITE asks for. Imports no torch."""
    from harness.cli.show import plan_lines, preimages
    from harness.runs.plan import to_json

    plan = _plan(suite, plugin, set_)
    if as_json:
        print(json.dumps(to_json(plan), indent=1))
    elif explain:
        _say(preimages(plan))
    else:
        _say(plan_lines(plan))


# ------------------------------------------------------------------------------------------------ tables


@app.command()
def table(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders; with --all, folders to search.")],
    format_: Annotated[Format | None, typer.Option("--format", help="Of what is printed or written.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Write files here instead of printing.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Write the tables of every run below RUN beside it.")] = False,
    check: Annotated[bool, typer.Option("--check", help="With --all: change nothing, exit 1 if a file would.")] = False,
    plugin: Plugins = None,
) -> None:
    """Make the tables of run folders from their records alone. Imports no torch."""
    from harness.report import files
    from harness.report.tables import build
    from harness.runs.records import load_run

    _load_plugins(plugin)
    if check and not every:
        raise HarnessError("--check needs --all", "harness table --all results --check")
    if every:
        _remake([folder for root in runs for folder in files.run_folders(root)], check)
        return
    loaded = [load_run(folder) for folder in runs]
    tables = build(loaded)
    if out is None:
        _show(tables, format_)
        return
    drawn = files.contents(tables, [format_]) if format_ else files.contents(tables) | files.drawings(loaded)
    _say(str(path) for path in files.write(out, drawn))


def _remake(folders: list[Path], check: bool) -> None:
    from harness.report import files

    stale = 0
    for folder in folders:
        made = files.remake(folder)
        changed = files.stale(made)
        stale += len(changed)
        if not check:
            files.write(folder / files.FOLDER, {path.name: content for path, content in made.items()})
        word = "differs" if check else "written"
        _say(f"{word}: {path}" for path in changed)
    print(f"{len(folders)} runs, {stale} table files {'differ' if check else 'written'}")
    if check and stale:
        raise typer.Exit(1)


def _show(tables: Iterable[Table], format_: Format | None) -> None:
    """Print tables: drawn with rich on a terminal, as Markdown elsewhere, or as `format_` says."""
    from rich.console import Console

    from harness.report.render import RENDERERS, terminal

    console: Console = Console()
    for made in tables:
        if format_ is None and console.is_terminal:
            console.print(terminal(made))
        else:
            print(RENDERERS[format_ or "md"][1](made))


# ------------------------------------------------------------------------------------- what there is


@app.command("list")
def list_(
    kind: Annotated[str, typer.Argument(metavar="models|metrics|probes|suites")],
    plugin: Plugins = None,
) -> None:
    """List what is registered, or the suites in suites/."""
    from harness.cli.show import listing

    _load_plugins(plugin)
    _say(listing(kind))


@app.command()
def describe(
    model: Annotated[str, typer.Argument(metavar="MODEL")],
    as_json: Annotated[bool, typer.Option("--json")] = False,
    plugin: Plugins = None,
    set_: Sets = None,
) -> None:
    """Say what MODEL is: parameters, window, cached scalars, cache bytes. Allocates no weights."""
    from harness.cli.show import card_json, card_lines, options_of

    _load_plugins(plugin)
    if as_json:
        print(json.dumps(card_json(model, options_of(set_ or [])), indent=2))
    else:
        _say(card_lines(model, options_of(set_ or [])))


@app.command()
def show(
    record: Annotated[str, typer.Argument(metavar="KEY", help="A record's key, or how it begins.")],
    run: Annotated[
        list[Path] | None, typer.Option(metavar="DIR", help="Run folder; all in runs/ unless given.")
    ] = None,
) -> None:
    """Print one record in full, with its traceback if it failed."""
    from harness.cli.show import find_record, record_text
    from harness.report.files import run_folders

    folders = run or (run_folders(Path("runs")) if Path("runs").is_dir() else [])
    folder, found = find_record(record.lower(), folders)
    print(record_text(found))
    print(f"in {folder / 'records.jsonl'}")


@app.command("by-prompt")
def by_prompt(
    run: Annotated[Path, typer.Argument(metavar="RUN")],
    arm: Annotated[list[str] | None, typer.Option(help="Only this model; may be repeated.")] = None,
    section: Annotated[list[str] | None, typer.Option(help="Only this section; may be repeated.")] = None,
) -> None:
    """Make RUN/by-prompt with the clips under VBench's file names."""
    from harness.runs.by_prompt import by_prompt as view
    from harness.runs.records import load_run

    folder, count = view(load_run(run), arm or (), section or ())
    print(f"{count:,} clips: {folder}")


# ---------------------------------------------------------------------------------- extend and examine


new = typer.Typer(help="Write the skeleton of a plug-in.", no_args_is_help=True)
app.add_typer(new, name="new")


@new.callback()
def _new() -> None:
    """Write the skeleton of a plug-in."""


@new.command("model")
def new_model(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where to write it.")] = Path(),
) -> None:
    """Write an adapter for a video model, and its contract test."""
    from harness.cli.scaffold import new_model as scaffold

    adapter, test = scaffold(name, out)
    print(f"{adapter}\n{test}\ntry: harness check {name} --plugin {adapter}")


@app.command()
def check(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A model, metric or probe.")],
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    live: Annotated[
        bool | None, typer.Option("--live/--no-live", help="Load and run it; by its size unless given.")
    ] = None,
    plugin: Plugins = None,
    set_: Sets = None,
) -> None:
    """Try a registered model, metric or probe against its contract."""
    from harness.cli.progress import shown
    from harness.cli.show import options_of
    from harness.testing import check_named

    _load_plugins(plugin)
    findings = check_named(name, options_of(set_ or []), device, live)
    words = {True: "ok", False: "FAILED", None: "not tried"}
    _say(f"{words[f.ok]:9} {f.name}" + (f": {shown(f.detail)}" if f.detail else "") for f in findings)
    if any(finding.ok is False for finding in findings):
        raise typer.Exit(1)


@app.command()
def doctor(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where runs would be written.")] = Path("runs"),
    plugin: Plugins = None,
) -> None:
    """Say what this machine has of what a run needs, and how to get the rest."""
    from harness.cli.doctor import examine

    _load_plugins(plugin)
    failed = False
    for item in examine(out):
        word = "ok" if item.ok else "MISSING" if item.required else "not here"
        print(f"{word:9} {item.name}: {item.detail}" + (f"\n          {item.fix}" if not item.ok and item.fix else ""))
        failed |= item.required and not item.ok
    if failed:
        raise typer.Exit(1)


if __name__ == "__main__":
    main()
