"""`harness plan`: the units that a suite asks for. Imports no torch."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.arguments import Plugins, Sets, SuiteFile, load_plugins
from harness.errors import OptionError

MOST_ROWS = 60
"""Clips that are listed one by one."""

if TYPE_CHECKING:
    from harness.runs.plan import Plan


def plan(
    suite: SuiteFile,
    as_json: Annotated[bool, typer.Option("--json", help="The resolved suite, cards and keys as JSON.")] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Each unit's key and the text it is the digest of.")
    ] = False,
    prompts: Annotated[bool, typer.Option("--prompts", help="Every prompt of every section, with switches.")] = False,
    caches: Annotated[
        bool, typer.Option("--caches", help="What each model keeps of a stream, in exact bytes.")
    ] = False,
    earlier: Annotated[
        list[Path] | None,
        typer.Option("--from", metavar="RUN", help="Estimate from this run too; runs/<suite> is taken anyway."),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(metavar="TFLOPS", help="TFLOP a second that the device reaches, where no record tells."),
    ] = None,
    plugin: Plugins = None,
    set_: Sets = None,
) -> Iterator[str]:
    """Show units and prompts of SUITE, and what a run would take.

    Imports no torch.
    """
    from harness.cli.forecast import forecast, prompt_lines
    from harness.runs.plan import to_json
    from harness.runs.records import load_run

    if rate is not None and rate <= 0:
        raise OptionError(f"--rate {rate}: expected TFLOP a second, above 0", "as in --rate 300")
    for folder in earlier or ():
        load_run(folder)  # a folder without a run is refused, as it tells nothing

    work = plan_of(suite, plugin, set_)
    if as_json:
        yield json.dumps(to_json(work), indent=1)
    elif explain:
        yield from preimages(work)
    elif prompts:
        yield from prompt_lines(work, every=True)
    elif caches:
        yield cache_table(work)
    else:
        yield from plan_lines(work)
        yield from prompt_lines(work, every=False)
        folder = Path("runs") / work.suite.suite
        yield from forecast(work, [folder], earlier or (), rate * 1e12 if rate else None)


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
    yield from _existing_clips(plan)


def cache_table(plan: Plan) -> str:
    """What each model keeps of one stream whose window is full, by its card."""
    from tabulate import tabulate

    fields = ("window_frames", "sink_frames", "cached_scalars", "cache_bytes", "transient_bytes")
    rows = []
    for arm in plan.arms:
        numbers = [getattr(arm.card, field) for field in fields]
        rows.append((arm.label, *("-" if number is None else f"{number:,}" for number in numbers)))
    headings = ("model", "window", "sink", "scalars a token and layer", "cache bytes", "transient bytes")
    right = ("left", *("right",) * len(fields))
    return tabulate(rows, headings, tablefmt="simple", disable_numparse=True, colalign=right)


def _existing_clips(plan: Plan) -> Iterator[str]:
    """What is wrong with clips that should exist already, in one table; nothing where all is well."""
    from tabulate import tabulate

    from harness.contracts import registry
    from harness.errors import shown

    rows, total = [], 0
    for arm in plan.arms:
        if not (model := registry.models.create(arm.name, arm.options)).existing:
            continue
        units = [unit for unit in plan.units if unit.kind == "generate" and unit.context["arm"] == arm.label]
        lengths = {(unit.context["prompt"], unit.context["seed"]): unit.preimage["frames"] for unit in units}
        for frames in dict.fromkeys(lengths.values()):
            clips = [clip for clip, length in lengths.items() if length == frames]
            states = model.inventory(clips, frames if isinstance(frames, int) else 0, False)
            # What another length of the same arm asks for is no surplus.
            states = [one for one in states if one.state != "surplus" or (one.prompt, one.seed) not in lengths]
            total += sum(one.state != "surplus" for one in states)
            rows += [
                (arm.label, one.state, one.prompt, one.seed, one.file, one.detail)
                for one in states
                if one.state != "ok"
            ]
    rows = list(dict.fromkeys(rows))
    if rows:
        cells = [[shown(str(cell), 60) or "-" for cell in row] for row in rows[:MOST_ROWS]]
        yield ""
        yield tabulate(
            cells, ("model", "clip is", "prompt", "seed", "file", "why"), tablefmt="simple", disable_numparse=True
        )
        if len(rows) > MOST_ROWS:
            yield f"and {len(rows) - MOST_ROWS:,} more"
    if total:
        kinds = Counter(row[1] for row in rows)
        faults = "".join(f", {count:,} {state}" for state, count in kinds.items())
        good = total - sum(kinds.values()) + kinds["surplus"]
        yield f"{good:,} of {total:,} clips are there{faults}"


def preimages(plan: Plan) -> Iterator[str]:
    """One line a unit: its key, a space, and the canonical JSON whose SHA-256 it is."""
    from harness.system.digests import canonical

    for unit in plan.units:
        yield f"{unit.key} {canonical(unit.preimage)}"
