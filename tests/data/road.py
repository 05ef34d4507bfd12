"""Helpers of the road's tests: the fake plug-ins, suites on disk, and what a run left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from harness.contracts import registry
from harness.execute.outcome import Outcome
from harness.execute.run import run_plan
from harness.runs.plan import Plan, make
from harness.runs.records import RecordFile
from harness.suite.load import load_suite

FAKES = Path(__file__).with_name("fake_models.py")


def base(**changes: Any) -> dict[str, Any]:
    """A small suite as data: one fake model, two prompts, two seeds, one metric."""
    data: dict[str, Any] = {
        "suite": "small",
        "models": [{"name": "fake/moving", "label": "a"}],
        "prompts": {"p": ["one", "two"]},
        "generate": [{"name": "short", "prompts": "p", "seeds": [0, 1], "frames": 6, "metrics": ["fake/brightness"]}],
    }
    return {**data, **changes}


def write(folder: Path, data: dict[str, Any] | str, name: str = "s.yaml") -> Path:
    """Write a suite file."""
    path = folder / name
    path.write_text(data if isinstance(data, str) else yaml.safe_dump(data, sort_keys=False, allow_unicode=True))
    return path


def planned(folder: Path, data: dict[str, Any] | str, *overrides: str) -> Plan:
    """The plan of a suite given as data, on the CPU."""
    registry.load_plugin(FAKES)
    return make(load_suite(write(folder, data), overrides), "cpu")


def run(folder: Path, data: dict[str, Any], **arguments: Any) -> Outcome:
    """Plan and run a suite given as data, in `folder/run`, as `run_here` does."""
    return run_here(planned(folder, data), folder / "run", **arguments)


def run_here(plan: Plan, folder: Path, *more: Any, **arguments: Any) -> Outcome:
    """Run a plan with its clips made in this process: at once, and by the fakes as a test has changed them."""
    return run_plan(plan, folder, *more, **{"processes": 0, **arguments})


def outcome_of(folder: Path) -> dict[str, Any]:
    """What two runs must agree on, by key: the newest status, values and clip digest."""
    index = RecordFile(folder / "records.jsonl").newest()
    return {
        key: (entry.kind, entry.status, sorted(entry.values.items()), entry.clip.get("digest"))
        for key, entry in index.items()
    }
