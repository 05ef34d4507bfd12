"""The committed runs are what today's suites ask of today's plug-ins: a dry run over them leaves nothing to do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.contracts import registry
from harness.runs.plan import Plan, make, to_json
from harness.runs.records import RecordFile, load_run
from harness.suite.load import load_suite
from harness.suite.recipe import load_recipe, suite_of

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results"
FOLDERS = sorted(path.parent.relative_to(RESULTS).as_posix() for path in RESULTS.rglob("plan.json"))

TRAINING = "trained by version 1, whose float32 rounds otherwise than today's; the toy world's models ship"
PEAKS = "measured by version 4, whose peaks on a CPU were of resident memory, which the budget does not limit"
OLDER = {
    "cpu/batch_scaling": PEAKS,
    "training/toy": TRAINING,
}
"""Runs that stay although today's plug-ins would make them again, and why."""
PLANNED = ("efficiency_full_size", "headline")
"""Runs of which nothing has been measured: their tables say so, beside what others published."""
UNSHIPPED = tuple(
    f"small_world/{name}" for name in ("equal", "kept", "latents", "long", "rank", "scenes", "stages", "students")
)
"""Runs of checkpoints that are not committed: what they would be today cannot be planned without training them."""
MADE_HERE = [name for name in FOLDERS if name not in OLDER and name not in PLANNED and name not in UNSHIPPED]


def today(name: str) -> Plan:
    """The plan of the suite that the run `name` is of, on the device that it was planned for."""
    run = load_run(RESULTS / name)
    kind = "recipe" if name.startswith("training/") else "suite"
    files = {yaml.safe_load(path.read_text(encoding="utf-8")).get(kind): path for path in ROOT.glob("suites/**/*.yaml")}
    assert run.suite.suite in files, f"results/{name}: no {kind} is called {run.suite.suite!r}"
    if kind == "recipe":
        return make(suite_of(*load_recipe(files[run.suite.suite]), run.device), run.device)
    return make(load_suite(files[run.suite.suite], [f"device={run.suite.device}"]), run.device)


def outdated(name: str) -> dict[str, tuple[str, str]]:
    """Recorded and today's version of each plug-in of the planned units that has another one now."""
    run = load_run(RESULTS / name)
    planned = {key for group in run.groups for key in group.keys}
    found: dict[str, tuple[str, str]] = {}
    kinds: Mapping[str, registry.Registry[Any]] = {
        "model": registry.models,
        "metric": registry.metrics,
        "probe": registry.probes,
    }
    for record in RecordFile(run.folder / "records.jsonl").records():
        for kind, known in kinds.items():
            used: Any = record.preimage.get(kind)
            if used and record.key in planned and used["version"] != (now := known.get(used["name"]).version):
                found[used["name"]] = (used["version"], now)
    return found


@pytest.mark.parametrize("name", sorted({*FOLDERS, *OLDER, *PLANNED, *UNSHIPPED}))
def test_only_the_runs_named_here_are_of_older_plugins(name: str) -> None:
    assert name in FOLDERS, f"results/{name} is gone: take it off the list"
    if name in OLDER:
        assert outdated(name), f"results/{name} is of today's plug-ins: take it off the list of older ones"
    else:
        assert outdated(name) == {}, f"measure results/{name} again, or name it in OLDER with the reason"


@pytest.mark.parametrize("name", MADE_HERE)
def test_a_dry_run_leaves_nothing_to_do(name: str) -> None:
    run = load_run(RESULTS / name)
    if run.device != "cpu":
        pytest.skip("its keys hold the kernels of a device that is not here")
    plan = today(name)
    undone = [
        f"{unit.context['section']}: {unit.context['arm']}"
        for unit in plan.units
        if (entry := run.index.get(unit.key)) is None or entry.status != "ok"
    ]
    assert not undone, f"results/{name}: {len(undone)} of {len(plan.units)} units are to be made: {sorted(set(undone))}"
    assert run.groups == plan.groups


@pytest.mark.parametrize("name", PLANNED)
def test_what_is_not_measured_is_planned_as_its_suite_stands(name: str) -> None:
    assert not (RESULTS / name / "records.jsonl").exists()
    written = json.loads((RESULTS / name / "plan.json").read_text(encoding="utf-8"))
    stale = f"plan it anew: harness plan suites/{name}.yaml --set device=cpu --json > results/{name}/plan.json"
    assert written == json.loads(json.dumps(to_json(today(name)))), stale
