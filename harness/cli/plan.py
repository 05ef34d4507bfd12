"""`harness plan`: the units that a suite asks for. Imports no torch."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.arguments import Plugins, Sets, SuiteFile, load_plugins

if TYPE_CHECKING:
    from harness.runs.plan import Plan


def plan(
    suite: SuiteFile,
    as_json: Annotated[bool, typer.Option("--json", help="The resolved suite, cards and keys as JSON.")] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Each unit's key and the text it is the digest of.")
    ] = False,
    plugin: Plugins = None,
    set_: Sets = None,
) -> Iterator[str]:
    """Show the units that SUITE asks for. Imports no torch."""
    from harness.runs.plan import to_json

    work = plan_of(suite, plugin, set_)
    if as_json:
        yield json.dumps(to_json(work), indent=1)
    elif explain:
        yield from preimages(work)
    else:
        yield from plan_lines(work)


def plan_of(
    suite: Path,
    plugins: Sequence[Path] | None,
    sets: Sequence[str] | None,
    resolve: Callable[[str], str] | None = None,
) -> Plan:
    """The plan of a suite file, its plug-ins loaded first. Raises `HarnessError`.

    `resolve` says what the suite's `device` means where the units are done, if that is not here.
    """
    from harness.runs.plan import make
    from harness.suite.load import load_suite

    load_plugins(plugins)
    loaded = load_suite(suite, sets or [])
    return make(loaded, resolve(loaded.device) if resolve else None)


def plan_lines(plan: Plan) -> Iterator[str]:
    """Units by section and arm, and their total."""
    from tabulate import tabulate

    rows = [
        (group.section, group.arm or "-", group.kind, group.plugin or "-", f"{len(group.keys):,}")
        for group in plan.groups
    ]
    yield tabulate(rows, ("section", "model", "kind", "by", "units"), tablefmt="simple", disable_numparse=True)
    kinds = Counter(unit.kind for unit in plan.units)
    counted = ", ".join(f"{kinds[kind]:,} to {kind}" for kind in ("generate", "score", "measure") if kinds[kind])
    yield f"{len(plan.units):,} units on {plan.device}: {counted}"


def preimages(plan: Plan) -> Iterator[str]:
    """One line a unit: its key, a space, and the canonical JSON whose SHA-256 it is."""
    from harness.system.digests import canonical

    for unit in plan.units:
        yield f"{unit.key} {canonical(unit.preimage)}"
