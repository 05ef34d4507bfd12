"""Workers of metrics that end, hang, flood, fall silent or lie: each costs its clip alone, within its time."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from harness.contracts import Clip
from harness.environments.worker.client import Limits, Worker
from harness.errors import HarnessError

JOB = Path(__file__).parents[1] / "harness" / "environments" / "fake_job.py"
LIMITS = Limits(start=300, setup=300, score=3, silence=3, beat=0.1, memory=0)


def clip(prompt: str) -> Clip:
    return Clip(Path("a.mp4"), prompt, 0, 0, 17, 8, 8, 16.0, "d", lambda: np.zeros((17, 8, 8, 3), np.uint8))


@pytest.fixture
def worker() -> Iterator[Worker]:
    one = Worker(Path(sys.executable), "fake", limits=LIMITS)
    yield one
    one.kill()


@pytest.mark.parametrize("act", ["raise", "exit", "die", "kill", "hang", "freeze", "wrong", "text", "noise"])
def test_a_worker_that_misbehaves_costs_its_clip_alone(worker: Worker, act: str) -> None:
    def score(prompt: str) -> float:
        worker.setup("fake", JOB, {}, Path("/weights"), "cpu")
        return worker.score("fake", clip(prompt)).values["score"]

    before = score("a dog")
    if act == "noise":
        assert score(act) == before
    else:
        with pytest.raises(HarnessError):
            score(act)
    assert score("a dog") == before
