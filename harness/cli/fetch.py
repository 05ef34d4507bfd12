"""`harness fetch`: weights that metrics and models need, resumed and checked."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from harness.errors import HarnessError


def fetch(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="A set of weights; lists them all without.")
    ] = None,
    only: Annotated[list[str] | None, typer.Option(metavar="PART", help="Only this part; may be repeated.")] = None,
    asked: Annotated[
        list[str] | None, typer.Option("--with", metavar="FILE", help="A file that is left out unless asked for.")
    ] = None,
    source: Annotated[
        Path | None, typer.Option("--from", metavar="DIR", help="Take files from this folder; download nothing.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Read what is here and compare its digests.")] = False,
) -> Iterator[str]:
    """Bring the weights of a metric or a model, or list them all."""
    from tabulate import tabulate

    from harness.environments.weights.fetch import check as faults_of
    from harness.environments.weights.fetch import fetch as bring
    from harness.environments.weights.fetch import listing
    from harness.environments.weights.manifest import read_manifest

    manifest = read_manifest()
    if name is None:
        if only or asked or source or check:
            raise HarnessError("name the weights to fetch", f"one of: {', '.join(sorted(manifest.sets))}")
        headings = ("set", "file", "size", "licence", "state")
        yield tabulate(listing(manifest.sets.values()), headings, tablefmt="simple", disable_numparse=True)
        return
    weights = manifest.get(name)
    if check:
        faults = faults_of(weights, only or ())
        yield from faults
        if faults:
            raise typer.Exit(1)
        yield f"{name}: every file that is here is as published, or as first fetched where no digest is"
        return
    from rich.console import Console

    console = Console(stderr=True)
    done = bring(weights, only or (), asked or (), source, partial(console.print, markup=False, soft_wrap=True))
    yield f"{name}: {len(done.brought) + len(done.recorded)} brought, {len(done.here)} here already: {weights.folder}"
    for path, digest in done.recorded.items():
        yield f"{path}: no digest is published, so it is not verified; its SHA-256 is recorded and held to: {digest}"
    if weights.repository and done.brought + done.here + list(done.recorded):
        yield f"name one as a model's weights: {weights.repository}:{[*done.here, *done.brought, *done.recorded][-1]}"
    yield from (f"left out: {file.path}; bring it with --with {file.ask}" for file in done.left)
