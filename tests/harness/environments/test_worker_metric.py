"""Metrics of a foreign environment: when they are available, what identifies them, and how they share a worker."""

import json
import sys
from typing import ClassVar

import pytest
from test_worker_client import JOB, clip

from harness.contracts import Options, Value, registry
from harness.environments.build import MARKER, folder_of
from harness.environments.lock import read_lock
from harness.environments.weights.manifest import read_manifest
from harness.environments.worker.client import JobFault, Limits, WorkerFault
from harness.environments.worker.metric import WorkerMetric, _shared
from harness.errors import HarnessError, NotAvailable
from harness.execute.scorers import scorer_for

GROUP = "ViT-B-32/openai"


class FakeOptions(Options):
    setup: str = ""


class Fake(WorkerMetric):
    schema = FakeOptions
    values = (Value("score"), Value("reads"))
    environment = "quality"
    job = JOB
    limits = Limits(start=300, setup=300, score=300, silence=300, beat=0.1)
    packages: ClassVar[tuple[str, ...]] = ("pip", "no-such-package")


class Weighty(Fake):
    weights = "clip"

    def weight_groups(self):
        return (GROUP,)


@pytest.fixture
def built(tmp_path, monkeypatch):
    """An environment that counts as built and whose interpreter is this one."""
    monkeypatch.setenv("VIDEOMLA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("VIDEOMLA_WEIGHTS", str(tmp_path / "weights"))
    lock = read_lock("quality")
    root = folder_of(lock)
    (root / "bin").mkdir(parents=True)
    (root / "bin" / "python").symlink_to(sys.executable)
    (root / MARKER).write_text(json.dumps({"digest": lock.digest, "packages": {}}))
    yield tmp_path
    _shared.end()


@pytest.fixture
def named():
    for name, cls in (("test/fake", Fake), ("test/weighty", Weighty)):
        registry.metrics._classes[name] = cls
    yield
    for name in ("test/fake", "test/weighty"):
        del registry.metrics._classes[name]


def test_not_available_without_environment_or_weights_and_then_ready(tmp_path, monkeypatch, request):
    monkeypatch.setenv("VIDEOMLA_CACHE", str(tmp_path / "empty"))
    state = Weighty(FakeOptions()).available()
    assert (state.ready, state.fix) == (False, "harness env build quality")
    request.getfixturevalue("built")
    state = Weighty(FakeOptions()).available()
    assert (state.ready, state.fix) == (False, f"harness fetch clip --only {GROUP}")
    path = read_manifest().get("clip").folder / "ViT-B-32/openai.pt"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"one")
    metric = Weighty(FakeOptions())
    assert metric.available().ready
    first = metric.identity()
    assert first["environment"] == {"name": "quality", "lock": read_lock("quality").digest}
    path.write_bytes(b"two!")
    assert metric.identity() != first


def test_scored_through_the_road_with_samples_and_notes(built, named):
    scorer = scorer_for("test/fake", {}, "cpu")
    assert scorer.notes() == {}
    assert scorer.score(clip()) == {"score": 8.5, "reads": 1.0}
    assert scorer.samples() == {"per_frame": [0.5, 1.5]}
    notes = scorer.notes()
    assert notes["environment"] == "quality"
    assert set(notes["packages"]) == {"pip"}
    scorer.close()


def test_metrics_of_one_environment_share_a_worker_until_the_last_one_closes(built):
    first, second = Fake(FakeOptions()), Fake(FakeOptions())
    first.setup("cpu")
    second.setup("cpu")
    assert first.score(clip())["reads"] == 1
    assert second.score(clip())["reads"] == 2
    worker = first._scorer._worker
    first.close()
    assert worker.alive
    assert second.score(clip())["reads"] == 3
    second.close()
    assert not worker.alive


def test_after_a_death_every_metric_goes_on_with_the_next_clip(built):
    first, second = Fake(FakeOptions()), Fake(FakeOptions())
    first.setup("cpu")
    second.setup("cpu")
    with pytest.raises(WorkerFault, match="exit status 3"):
        first.score(clip("die"))
    assert first.samples() == {}
    assert second.score(clip())["score"] == 8.5
    assert first.score(clip())["score"] == 8.5
    with pytest.raises(JobFault):
        second.score(clip("raise"))
    assert second.score(clip())["score"] == 8.5


@pytest.mark.parametrize(("how", "kind"), [("raise", JobFault), ("die", WorkerFault)])
def test_a_setup_that_fails_leaves_no_process(built, named, how, kind):
    with pytest.raises(kind):
        scorer_for("test/fake", {"setup": how}, "cpu")
    assert _shared._workers == {}


def test_unavailable_metrics_are_refused_with_the_fix(built, named):
    with pytest.raises(NotAvailable, match="test/weighty is not available"):
        scorer_for("test/weighty", {}, "cpu")
    with pytest.raises(HarnessError, match="setup"):
        Fake(FakeOptions()).score(clip())
