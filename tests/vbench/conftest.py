"""Shared by the tests that need the built vbench environment: its Python, random weights, the package itself."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from vbench_helpers import inside

from harness.envs.build import Environment, find
from harness.metrics.vbench import VBench, VBenchOptions
from harness.weights.manifest import ROOT_VARIABLE


@pytest.fixture(scope="session")
def environment() -> Environment:
    return find("vbench")


@pytest.fixture(scope="session")
def weights(environment: Environment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Random weights for every dimension that needs no detectron2, where `VIDEOMLA_WEIGHTS` points.

    `VIDEOMLA_TEST_WEIGHTS` names a folder to keep them in from one session to the next.
    """
    kept = os.environ.get("VIDEOMLA_TEST_WEIGHTS")
    root = Path(kept) if kept else tmp_path_factory.mktemp("weights")
    if not (root / "complete").exists():
        inside(environment, "random_weights.py", {"root": str(root / "vbench"), "true_shapes": False}, root / "vbench")
        (root / "complete").touch()
    before = os.environ.get(ROOT_VARIABLE)
    os.environ[ROOT_VARIABLE] = str(root)
    anchor = VBench(VBenchOptions(dimensions=("temporal_flickering",)))
    anchor.setup("cpu")  # open to the end, so that the metrics of all tests share its worker
    yield root / "vbench"
    anchor.close()
    os.environ.pop(ROOT_VARIABLE)
    if before is not None:
        os.environ[ROOT_VARIABLE] = before


@pytest.fixture(scope="session")
def upstream(environment: Environment, weights: Path) -> Callable[[Sequence[Mapping[str, Any]]], Any]:
    """The package called directly: rows {dimension, paths, prompt, auxiliary} to its `video_results`."""

    def call(rows: Sequence[Mapping[str, Any]]) -> Any:
        return inside(environment, "upstream.py", {"rows": list(rows)}, weights)

    return call
