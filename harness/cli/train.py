"""`harness train`: the trainings of a recipe, as measurements of a plan that any run could do."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from harness.cli.arguments import Quiet, ReplacePlan, Sets, Verbose, path_named
from harness.errors import OptionError

if TYPE_CHECKING:
    from harness.runs.plan import Plan

RunFolder = Annotated[
    Path | None,
    typer.Option(parser=path_named, metavar="DIR", help="Folder of the recipe; runs/training/<recipe> unless given."),
]


def train(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="As suites/training/experiments.yaml.")],
    out: RunFolder = None,
    set_: Sets = None,
    only: Annotated[list[str] | None, typer.Option(help="Only this arm or training; may be repeated.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="Do at most N trainings, then stop.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Trainings at the same time, a process each.")] = 1,
    threads: Annotated[int, typer.Option(min=0, help="Of the processor for each; 0 leaves it to torch.")] = 0,
    device: Annotated[Literal["cpu", "cuda"], typer.Option()] = "cpu",
    replace_plan: ReplacePlan = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the trainings, and do nothing.")] = False,
) -> Iterator[str]:
    """Do the trainings of RECIPE that DIR does not hold yet.

    Under torchrun each training is sharded over its processes, which write no records; a run without it adds them.

    Checkpoints are DIR/checkpoints/<arm>-<seed>/<stage>.safetensors. Stages are shared by all recipes beside DIR.
    """
    from rich.console import Console

    from harness.cli.progress import Detail, Meter
    from harness.cli.run import report
    from harness.execute import shares
    from harness.execute.run import run_plan
    from harness.runs.plan import make
    from harness.suite.recipe import chosen, load_recipe, suite_of

    checked, trainings = load_recipe(recipe, set_ or [])
    to_do = chosen(trainings, only or [])
    if dry_run:
        yield from (f"{one.name}: " + ", then ".join(map(_stage, one.options.stages)) for one in to_do)
        return
    # The folder's plan stays the whole recipe.
    plan = shares.only(make(suite_of(checked, trainings, device), device), [one.name for one in to_do])
    folder = out or Path("runs/training") / checked.recipe
    stages = folder.parent / "stages"
    if folder.name == stages.name:
        raise OptionError(f"{folder} holds the stages that recipes share", "name the recipe otherwise, or give --out")
    if threads:
        os.environ["OMP_NUM_THREADS"] = str(threads)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        yield from _share(plan, stages)
        return
    with Meter(Console(stderr=True), detail=Detail.of(quiet, verbose)) as meter:
        outcome = run_plan(
            plan,
            folder,
            limit,
            meter,
            suite_folder=recipe.parent,
            scratch=stages,
            jobs=jobs,
            replace_plan=replace_plan,
        )
    yield from report(outcome, "checkpoints")
    raise typer.Exit(outcome.exit_code)


def _share(plan: Plan, stages: Path) -> Iterator[str]:
    """This process's share of every training, in the process itself, since torchrun has started it."""
    from harness.contracts import ProbeContext
    from harness.execute.units import measure

    units = {unit.key: unit for unit in plan.units}
    for group, section in zip(plan.groups, plan.suite.measure, strict=True):
        if group.keys[0] not in units:
            continue
        measure(units[group.keys[0]], section.options, None, ProbeContext(plan.device, stages))
        yield f"{section.name}: done"


def _stage(stage: Any) -> str:
    """Name and budget; of a stage that updates the generator more seldom than every step, how often."""
    updates = getattr(stage, "generator_updates", stage.steps)
    return f"{stage.stage} {stage.steps:,} steps" + (
        f" ({updates:,} generator updates)" if updates < stage.steps else ""
    )
