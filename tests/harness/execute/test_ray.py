"""Runs on a Ray cluster of two nodes on this machine: what a local run gives, whatever is killed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from road import FAKES, base, outcome_of, planned

from harness.execute.outcome import Outcome
from harness.execute.ray_cluster import Cluster
from harness.execute.ray_engine import engine_of
from harness.execute.run import run_plan
from harness.runs.plan import Plan

ray = pytest.importorskip("ray")
from ray.cluster_utils import Cluster as Nodes  # noqa: E402

PLUGIN = FAKES.with_name("process_models.py")
ARMS = [
    {"name": "fake/moving", "label": "a"},
    {"name": "fake/alone", "label": "b", "options": {"chunk": 3}},
    {"name": "fake/raises", "label": "c", "options": {"when": "prompt 1"}},
]
PROBES = [
    {"name": "speed", "probe": "fake/count", "prompts": "p", "frames": 10, "rounds": 2},
    {"name": "machine", "probe": "fake/device"},
]


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """Two nodes of two cores each, and this process connected to them."""
    cluster = Nodes(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    cluster.add_node(num_cpus=2)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture
def cluster(nodes: Nodes) -> Cluster:
    """The cluster of a run with two workers."""
    return Cluster(ray, 2, patience=60)


def many(**changes: Any) -> dict[str, Any]:
    prompts = {"p": [f"prompt {number}" for number in range(5)]}
    section = {**base()["generate"][0], "batch": 4}
    return base(**{"models": ARMS, "prompts": prompts, "generate": [section], "measure": PROBES, **changes})


def run(folder: Path, plan: Plan, cluster: Cluster, **more: Any) -> Outcome:
    return run_plan(plan, folder / "run", engine=engine_of(cluster), **more)


def test_a_run_gives_the_records_and_clips_of_a_local_one(tmp_path: Path, cluster: Cluster) -> None:
    plan = planned(tmp_path, many())
    local = run_plan(plan, tmp_path / "local")
    outcome = run(tmp_path, plan, cluster)
    assert outcome_of(tmp_path / "run") == outcome_of(tmp_path / "local")
    assert (outcome.planned, outcome.done_now, outcome.failed) == (local.planned, local.done_now, local.failed)
    clips = {path.relative_to(tmp_path / "run"): path.read_bytes() for path in (tmp_path / "run").rglob("*.mp4")}
    assert clips == {
        path.relative_to(tmp_path / "local"): path.read_bytes() for path in (tmp_path / "local").rglob("*.mp4")
    }
    assert clips
    assert run(tmp_path, plan, Cluster(ray, 2)).exit_code == outcome.exit_code == 1, "what failed is tried again"
    assert run_plan(plan, tmp_path / "run").done_now == 0


@pytest.mark.parametrize("limit", [3])
def test_a_run_begun_by_one_engine_is_ended_by_the_other(tmp_path: Path, cluster: Cluster, limit: int) -> None:
    plan = planned(tmp_path, many(models=ARMS[:2]))
    run_plan(plan, tmp_path / "local")
    assert run(tmp_path, plan, cluster, limit=limit).done_now == limit
    assert run_plan(plan, tmp_path / "run", limit=3).done_now == 3
    assert run(tmp_path, plan, Cluster(ray, 1)).exit_code == 0
    assert outcome_of(tmp_path / "run") == outcome_of(tmp_path / "local")
    lines = [json.loads(line)["key"] for line in (tmp_path / "run" / "records.jsonl").read_bytes().splitlines()]
    assert len(lines) == len(set(lines)), "a unit was done twice"
