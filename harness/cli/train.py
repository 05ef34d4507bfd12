"""`harness train`: the trainings of a recipe, resumed where they stand; each finished one becomes a record."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.system.digests import file_sha256

if TYPE_CHECKING:
    from harness.runs.line import Record
    from harness.runs.plan import Plan
    from harness.suite.recipe import Recipe, Training

STAGES, CHECKPOINTS = "stages", "checkpoints"


def train(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="As suites/training/latent_against_dense.yaml.")],
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the recipe; runs/training/<recipe> unless given.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a value; a dotted path.")
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help="Only this arm or training; may be repeated.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Trainings at the same time, a process each.")] = 1,
    threads: Annotated[int, typer.Option(min=0, help="Of the processor for each; 0 leaves it to torch.")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the recipe, show the trainings, do nothing.")
    ] = False,
    bare: Annotated[bool, typer.Option(hidden=True)] = False,
) -> Iterator[str]:
    """Do the trainings of RECIPE that DIR does not hold yet.

    Under torchrun each training is sharded over its processes.

    Checkpoints are DIR/checkpoints/<arm>-<seed>/<stage>.safetensors. Stages are shared by all recipes beside DIR.
    """
    from harness.errors import SuiteError, nearest
    from harness.suite.recipe import load_recipe

    read, trainings = load_recipe(recipe, set_ or [])
    wanted = [t for t in trainings if not only or t.name in only or t.label in only]
    for name in only or []:
        if not any(name in (t.name, t.label) for t in trainings):
            known = [label for t in trainings for label in (t.label, t.name)]
            raise SuiteError(f"--only {name}: no such training in {recipe}; {nearest(name, known)}")
    folder = out or Path("runs/training") / read.recipe
    if dry_run:
        for training in wanted:
            chain = training.options
            yield f"{training.name}: " + ", then ".join(map(_stage, chain.stages))
        return
    if threads:
        os.environ["OMP_NUM_THREADS"] = str(threads)
    if bare or "TORCHELASTIC_RUN_ID" in os.environ:
        for training in wanted:
            _result(training, folder, device)
            yield f"{training.name}: done"
        return
    if jobs > 1:
        _side_by_side(wanted, recipe, folder, set_ or [], jobs, threads, device)
    yield from _recorded(read, wanted, folder, device)


def _stage(stage: Any) -> str:
    """Name and budget; of a stage that updates the generator more seldom than every step, how often."""
    updates = getattr(stage, "generator_updates", stage.steps)
    return f"{stage.stage} {stage.steps:,} steps" + (
        f" ({updates:,} generator updates)" if updates < stage.steps else ""
    )


def _side_by_side(
    trainings: Sequence[Training], recipe: Path, folder: Path, sets: Sequence[str], jobs: int, threads: int, device: str
) -> None:
    """Bring every training to its end in processes of their own, `jobs` at a time; what fails is told when recorded."""
    waiting, running = list(trainings), list[subprocess.Popen[bytes]]()
    command = [sys.executable, "-m", "harness", "train", str(recipe), "--out", str(folder), "--device", device]
    command += ["--threads", str(threads), "--bare", *(part for pair in sets for part in ("--set", pair))]
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                running.append(subprocess.Popen([*command, "--only", waiting.pop(0).name], stdout=subprocess.DEVNULL))
            running = [process for process in running if process.poll() is None]
            time.sleep(0.5)
    finally:
        for process in running:
            process.terminate()
            process.wait()


def _recorded(read: Recipe, trainings: Sequence[Training], folder: Path, device: str) -> Iterator[str]:
    """Train one by one what is not recorded yet, and record it."""
    import harness
    from harness.execute import units
    from harness.runs.folder import Store
    from harness.system import devices

    plan = _plan(read, trainings, device)
    setting = units.Setting(
        devices.describe(device), devices.versions(), devices.git_state(Path(harness.__file__).parent)
    )
    failed = 0
    with Store(folder) as store:
        store.write_plan(plan)
        index = store.records.newest()
        for unit, training in zip(plan.units, trainings, strict=True):
            entry = index.get(unit.key)
            record = store.records.at(entry.offset) if entry and entry.status == "ok" else None
            if record is None or not _placed(record, folder, training):
                record = units.attempt(unit, setting, partial(_result, training, folder, device))
                store.records.append(record)
            if record.status == "ok":
                _placed(record, folder, training)
                yield _line(training, record)
            else:
                failed += 1
                yield f"{training.name}: {record.status}: {record.error.get('message', record.notes.get('reason', ''))}"
    yield f"records: {folder / 'records.jsonl'}   checkpoints: {folder / CHECKPOINTS}"
    if failed:
        raise typer.Exit(1)


def _plan(read: Recipe, trainings: Sequence[Training], device: str) -> Plan:
    """Each training as a measurement of no model, so that its key and record are like all others."""
    from harness.runs.plan import make
    from harness.suite.recipe import PROBE
    from harness.suite.schema import Suite

    measure = [
        {"name": t.name, "probe": PROBE, "options": t.options.model_dump(mode="json"), "frames": 1} for t in trainings
    ]
    suite = {"suite": read.recipe, "title": read.title, "device": device, "measure": measure}
    return make(Suite.model_validate(suite), device)


def _result(training: Training, folder: Path, device: str) -> Any:
    from harness.contracts import ProbeContext, Workload, registry
    from harness.execute.units import Result
    from harness.suite.recipe import PROBE

    def report(line: str) -> None:
        sys.stderr.write(f"{training.name}  {line}\n")

    context = ProbeContext(device, folder.parent / STAGES, report)
    found = registry.probes.get(PROBE)(training.options).measure(None, Workload((), (), 1), context)
    return Result(values=dict(found.values), samples=dict(found.samples), notes=dict(found.notes))


def _placed(record: Record, folder: Path, training: Training) -> bool:
    """Give the checkpoints of a record their readable names (hard links); false where one is gone or has changed."""
    notes: Any = record.notes
    for stage in notes["stages"]:
        source = folder.parent / STAGES / stage["file"]
        if not source.is_file() or file_sha256(source) != stage["sha256"]:
            return False
        places = {stage["stage"]: source}
        places |= {f"{stage['stage']}-{step}": folder.parent / STAGES / file for step, file in stage["kept"].items()}
        for name, file in places.items():
            _link(file, folder / CHECKPOINTS / training.name / f"{name}.safetensors")
    return True


def _link(source: Path, target: Path) -> None:
    from harness.system import files

    with files.storage(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        if not (target.exists() and target.samefile(source)):
            target.unlink(missing_ok=True)
            os.link(source, target)


def _line(training: Training, record: Record) -> str:
    values = record.values
    stages = ", then ".join(map(_stage, training.options.stages))
    return (
        f"{training.name}: loss {values['loss']:.4f} after {stages}, {values['seconds']:,.0f} s, "
        f"{values['parameters']:,.0f} parameters, {str(record.notes['checkpoint'])[:12]}"
    )
