"""Shared by the tests that need the built vbench environment: its Python, random weights, and a worker."""

import fcntl
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.environments.build import Environment, find
from harness.metrics.vbench import NEEDS, VBench, VBenchOptions
from harness.metrics.vbench_long import VBenchLong, VBenchLongOptions
from harness.metrics.vbench_totals import DIMENSIONS
from harness.system.files import WEIGHTS_VARIABLE


@pytest.fixture(scope="session")
def environment() -> Environment:
    return find("vbench")


def as_downloaded(root: Path) -> None:
    """Networks also where torch.hub looks for downloads, for the package called directly.

    Those are two folders: DreamSim moves torch.hub's to its own, for whatever the process loads after it.
    """
    for name, hub in itertools.product(("dino", "dinov2"), ("torch/hub", "dreamsim_model")):
        folder = root / f"{name}_model"
        (root / hub / "checkpoints").mkdir(parents=True, exist_ok=True)
        for path, place in ((next(folder.glob("*.pth")), "checkpoints"), (next(folder.glob("facebook*")), ".")):
            if not (root / hub / place / path.name).exists():
                (root / hub / place / path.name).symlink_to(path)


@pytest.fixture(scope="session")
def weights(environment: Environment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Random weights for every dimension but the five of the detectors, where `VIDEOMLA_WEIGHTS` points.

    `VIDEOMLA_TEST_WEIGHTS` names a folder to keep them in from one session to the next; the workers of one share them.
    """
    session = tmp_path_factory.getbasetemp()
    shared = session.parent if "PYTEST_XDIST_WORKER" in os.environ else session
    root = Path(os.environ.get("VIDEOMLA_TEST_WEIGHTS") or shared / "weights")
    root.mkdir(parents=True, exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(WEIGHTS_VARIABLE, str(root))
        patch.setenv("VIDEOMLA_WORKER_THREADS", "1")
        with (root / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (root / "complete").exists():
                plain = tuple(name for name in DIMENSIONS if name not in NEEDS)
                VBench(VBenchOptions(mode="standard", dimensions=plain)).draw(root)
                VBenchLong(VBenchLongOptions()).draw(root)
                as_downloaded(root / "vbench")
                (root / "complete").touch()
        anchor = VBench(VBenchOptions(dimensions=("temporal_flickering",)))
        anchor.setup("cpu")  # open to the end, so that the metrics of all tests share its worker
        yield root / "vbench"
        anchor.close()
