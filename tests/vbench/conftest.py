"""Shared by the tests that need the built vbench environment: its Python, random weights, and a worker."""

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from vbench_helpers import inside

from harness.environments.build import Environment, find
from harness.metrics.vbench import VBench, VBenchOptions
from harness.system.files import WEIGHTS_VARIABLE


@pytest.fixture(scope="session")
def environment() -> Environment:
    return find("vbench")


@pytest.fixture(scope="session")
def weights(environment: Environment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Random weights for every dimension that needs no detectron2, where `VIDEOMLA_WEIGHTS` points.

    `VIDEOMLA_TEST_WEIGHTS` names a folder to keep them in from one session to the next; the workers of one share them.
    """
    session = tmp_path_factory.getbasetemp()
    shared = session.parent if "PYTEST_XDIST_WORKER" in os.environ else session
    root = Path(os.environ.get("VIDEOMLA_TEST_WEIGHTS") or shared / "weights")
    root.mkdir(parents=True, exist_ok=True)
    with (root / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (root / "complete").exists():
            request = {"root": str(root / "vbench"), "true_shapes": False}
            inside(environment, "random_weights.py", request, root / "vbench")
            (root / "complete").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(WEIGHTS_VARIABLE, str(root))
        patch.setenv("VIDEOMLA_WORKER_THREADS", "1")
        anchor = VBench(VBenchOptions(dimensions=("temporal_flickering",)))
        anchor.setup("cpu")  # open to the end, so that the metrics of all tests share its worker
        yield root / "vbench"
        anchor.close()
