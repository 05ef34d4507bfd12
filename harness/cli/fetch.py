"""`harness fetch`: weights that metrics and models need, resumed and checked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.errors import HarnessError

if TYPE_CHECKING:
    from harness.environments.weights.manifest import File


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
    from harness.environments.weights.store import missing

    manifest = read_manifest()
    if name is None:
        if only or asked or source or check:
            raise HarnessError("name the weights to fetch", f"one of: {', '.join(sorted(manifest.sets))}")
        headings = ("set", "file", "size", "licence", "state")
        yield tabulate(listing(manifest.sets.values()), headings, tablefmt="simple", disable_numparse=True)
        return
    weights = manifest.get(name)
    if check:
        if source:
            raise HarnessError("--check reads what is here, and takes no --from", "fetch first, then check")
        chosen, left = weights.choose(only or (), asked or ())
        faults = faults_of(weights, only or ())
        yield from faults
        paths = set(missing(weights, only or ()))
        absent = [file.path for file in chosen if paths & {file.path, *file.links}]
        if absent:
            listed = ", ".join(absent[:3]) + (f" and {len(absent) - 3} more" if len(absent) > 3 else "")
            yield f"{name}: {len(absent)} of {len(chosen)} files are not here: {listed}"
        if faults or absent:
            raise typer.Exit(1 if faults else 3)
        yield f"{name}: all {len(chosen)} files are here, as published, or as first fetched where no digest is"
        yield from _left_out([file for file in left if file.path in paths])
        return
    from rich.console import Console

    console = Console(stderr=True)
    done = bring(weights, only or (), asked or (), source, partial(console.print, markup=False, soft_wrap=True))
    yield f"{name}: {len(done.brought) + len(done.recorded)} brought, {len(done.here)} here already: {weights.folder}"
    for path, digest in done.recorded.items():
        yield f"{path}: no digest is published, so it is not verified; its SHA-256 is recorded and held to: {digest}"
    if weights.repository and done.brought + done.here + list(done.recorded):
        yield f"name one as a model's weights: {weights.repository}:{[*done.here, *done.brought, *done.recorded][-1]}"
    yield from _left_out(done.left)


def _left_out(left: Sequence[File]) -> Iterator[str]:
    return (f"left out: {file.path}; bring it with --with {file.ask}" for file in left)
