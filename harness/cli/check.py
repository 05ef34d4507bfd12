"""`harness check`: try a plug-in against its contract."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer

from harness.cli.arguments import Plugins, Sets, load_plugins, options_of


def check(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A model, metric or probe.")],
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    live: Annotated[
        bool | None, typer.Option("--live/--no-live", help="Load and run it; by its size unless given.")
    ] = None,
    plugin: Plugins = None,
    set_: Sets = None,
) -> Iterator[str]:
    """Try a model, metric or probe against its contract."""
    from harness.errors import shown
    from harness.testing import check_named

    load_plugins(plugin)
    findings = check_named(name, options_of(set_), device, live)
    words = {True: "ok", False: "FAILED", None: "not tried"}
    yield from (f"{words[f.ok]:9} {f.name}" + (f": {shown(f.detail)}" if f.detail else "") for f in findings)
    if any(finding.ok is False for finding in findings):
        raise typer.Exit(1)
