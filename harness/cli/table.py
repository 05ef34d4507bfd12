"""`harness table`: the tables of run folders, from their records alone. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.arguments import Format, Plugins, Styled, load_plugins, path_named
from harness.errors import HarnessError

if TYPE_CHECKING:
    from harness.report.table import Table


def table(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders; with --all, folders to search.")],
    format_: Annotated[Format | None, typer.Option("--format", help="Of what is printed or written.")] = None,
    out: Annotated[
        Path | None, typer.Option(parser=path_named, metavar="DIR", help="Write files here instead of printing.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Write the tables of every run below RUN beside it.")] = False,
    check: Annotated[bool, typer.Option("--check", help="With --all: change nothing, exit 1 if a file would.")] = False,
    common: Annotated[
        bool, typer.Option("--common", help="Means over the clips alone, by prompt and seed, that all RUNs plan.")
    ] = False,
    long: Annotated[
        bool, typer.Option("--long", help="As CSV, a row for each value of each clip or round, instead of tables.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="As JSON: every number, interval, count and footnote.")
    ] = False,
    plugin: Plugins = None,
) -> Iterator[str]:
    """Make the tables of run folders from their records alone. Imports no torch."""
    from harness.report import files
    from harness.report.long_table import comma_separated
    from harness.report.render import document
    from harness.report.tables import build
    from harness.runs.records import load_run
    from harness.runs.united import united

    load_plugins(plugin)
    if check and not every:
        raise HarnessError("--check needs --all", "harness table --all results --check")
    if sum((common, every)) > 1 or sum((every, long, as_json, format_ is not None)) > 1 or (long and common):
        raise HarnessError("--all, --common, --long, --json and --format do not go together", "leave all but one out")
    if every:
        yield from _remade([folder for root in runs for folder in files.run_folders(root)], check)
        return
    loaded = united([load_run(folder, rehearsal=not long) for folder in runs])
    if long:
        yield from _written({"long.csv": comma_separated(loaded)}, out)
        return
    tables = build(loaded, common)
    if as_json:
        yield from _written({"tables.json": json.dumps(list(map(document, tables)), indent=1) + "\n"}, out)
        return
    if out is None:
        yield from drawn(tables, format_)
        return
    contents = files.contents(tables, [format_]) if format_ else files.contents(tables) | files.drawings(loaded)
    yield from map(str, files.write(out, contents))


def _written(texts: dict[str, str], out: Path | None) -> Iterator[str]:
    """The texts, or the paths of the files in `out` that hold them."""
    from harness.report import files

    if out is None:
        yield from (text.removesuffix("\n") for text in texts.values())
    else:
        yield from map(str, files.write(out, {name: text.encode() for name, text in texts.items()}))


def _remade(folders: list[Path], check: bool) -> Iterator[str]:
    from harness.report import files

    stale = 0
    for folder in folders:
        contents = files.remake(folder)
        changed = files.stale(contents)
        stale += len(changed)
        if not check:
            files.renew(folder / files.FOLDER, {path.name: content for path, content in contents.items()})
        word = "differs" if check else "written"
        yield from (f"{word}: {path}" for path in changed)
    yield f"{len(folders)} runs, {stale} table files {'differ' if check else 'written'}"
    if check and stale:
        raise typer.Exit(1)


def drawn(tables: Iterable[Table], format_: Format | None) -> Iterator[str]:
    """The text of tables: for the eye on a terminal, Markdown elsewhere, or as `format_` says."""
    from rich.console import Console

    from harness.report.render import RENDERERS, terminal

    console = Console()
    for each in tables:
        if format_ is None and console.is_terminal:
            with console.capture() as capture:
                console.print(terminal(each))
            yield Styled(capture.get().removesuffix("\n"))
        else:
            yield RENDERERS[format_ or "md"][1](each)
