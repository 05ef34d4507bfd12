"""`harness check`: try a plug-in against its contract."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.arguments import Plugins, Sets, load_plugins, options_of

if TYPE_CHECKING:
    from harness.testing import Finding


def check(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A model, metric or probe.")],
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    live: Annotated[
        bool | None,
        typer.Option(
            "--live/--no-live",
            help="Load and run it as it is, or not at all; unless given, what is fast: a large model or a long "
            "measurement at its tiny size, a metric of the core environment on one clip.",
        ),
    ] = None,
    on: Annotated[
        str, typer.Option(metavar="MODEL", help="The model that a probe measures; a small one unless given.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="As JSON: a mapping for each check.")] = False,
    plugin: Plugins = None,
    set_: Sets = None,
) -> Iterator[str]:
    """Try a model, metric or probe against its contract.

    Exits 1 where a check failed; one that could not be tried says why.
    """
    from harness.testing import check_named

    load_plugins(plugin)
    findings = check_named(name, options_of(set_), device, live, on)
    if as_json:
        yield json.dumps([asdict(finding) for finding in findings], indent=1)
    else:
        yield from map(_line, findings)
    if any(finding.ok is False for finding in findings):
        raise typer.Exit(1)


def _line(finding: Finding) -> str:
    """One finding: how it ended, what was tried, the reason, and what to do."""
    from harness.errors import shown

    words = {True: "ok", False: "FAILED", None: "not tried"}
    reason = f": {shown(finding.detail)}" if finding.detail else ""
    remedy = f" ({shown(finding.fix)})" if finding.fix else ""
    return f"{words[finding.ok]:9} {shown(finding.name, 100)}{reason}{remedy}"
