"""`harness env`: locked environments for metrics that cannot live in one process."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Build, list, verify and remove the environments of metrics.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="As `harness env list` shows it.")]


@app.command()
def build(
    name: Name,
    python: Annotated[Path | None, typer.Option(metavar="FILE", help="The interpreter to build with.")] = None,
) -> Iterator[str]:
    """Build environment NAME from its lock, unless it is built already."""
    from rich.console import Console

    from harness.environments.build import build as make

    console = Console(stderr=True)
    environment = make(name, python, partial(console.print, markup=False, soft_wrap=True))
    yield f"{environment.name} is ready: {environment.root}"


@app.command("list")
def list_() -> Iterator[str]:
    """Show every environment that has a lock, and what is left of older ones."""
    from tabulate import tabulate

    from harness.environments.build import listing

    rows = [(row.name, row.digest, row.state, f"{row.bytes / 1e6:,.0f}", str(row.root)) for row in listing()]
    yield tabulate(rows, ("name", "lock", "state", "MB", "folder"), tablefmt="simple", disable_numparse=True)


@app.command()
def verify(name: Name) -> Iterator[str]:
    """Compare every package of environment NAME with its lock, and import what it is for."""
    from harness.environments.build import verify as faults_of

    faults = faults_of(name)
    yield from faults
    if faults:
        raise typer.Exit(1)
    yield f"{name}: every pin and every import holds"


@app.command()
def remove(name: Name) -> Iterator[str]:
    """Delete environment NAME, and what is left of its older locks."""
    from harness.environments.build import remove as delete

    gone = delete(name)
    yield from (f"removed {path}" for path in gone)
    if not gone:
        yield f"{name} is not built"
