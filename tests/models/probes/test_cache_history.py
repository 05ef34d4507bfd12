"""What a cache holds along a rollout, against arithmetic by hand, and errors of attention put in on purpose."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.contracts import Measurement, ModelCard, ProbeContext, Subject, Switch, VideoModel, Workload, registry
from harness.errors import OptionError
from harness.report.plots import history
from harness.runs.line import Record
from videomla_models.network.cache import ChunkContext
from videomla_models.probes.cache_history import Errors, History

HERE = ProbeContext("cpu", Path("unused"))
WORK = Workload(("a red circle moves left on a black background",), (0,), 12)


def subject(name: str, **options: Any) -> Subject:
    model = registry.models.create(name, {"weights": "random", "steps": 1, **options})
    model.load("cpu")
    return Subject(name, options, model.describe(), "cpu", lambda: model)


def measured(name: str, workload: Workload = WORK, **options: Any) -> Measurement:
    return registry.probes.create("cache", {}).measure(subject(name, **options), workload, HERE)


@contextmanager
def lossy(monkeypatch: pytest.MonkeyPatch, share: float) -> Iterator[None]:
    """Attention over the entries of layer 2 comes out larger by a share, in the model's own cache alone."""
    attend = ChunkContext.attend
    counted = {"calls": 0}

    def larger(self: ChunkContext, layer: int, *rest: Any) -> torch.Tensor:
        counted["calls"] += 1
        out = attend(self, layer, *rest)
        # The uncompressed cache attends first.
        return out * (1 + share) if layer == 2 and counted["calls"] % 2 == 0 else out

    with monkeypatch.context() as patch:
        patch.setattr(ChunkContext, "attend", larger)
        yield


@pytest.mark.parametrize("name", ["toy/dense", "toy/videomla"])
def test_a_window_of_six_frames_with_one_sink_by_hand(name: str) -> None:
    found = measured(name)
    pairs = list(zip(found.samples["seen_chunk"], found.samples["seen_frame"], strict=True))
    seen = [sorted(frame for chunk, frame in pairs if chunk == number) for number in range(4)]
    # Chunks of three frames; from the third on the sink, two past frames and the chunk.
    assert seen == [[0, 1, 2], [0, 1, 2, 3, 4, 5], [0, 4, 5, 6, 7, 8], [0, 7, 8, 9, 10, 11]]
    left = list(zip(found.samples["left_chunk"], found.samples["left_frame"], strict=True))
    assert left == [(2, 1), (2, 2), (2, 3), (3, 4), (3, 5), (3, 6)]
    assert (found.values["frames_seen"], found.values["oldest_frame"]) == (6, 11)
    # Frames 1 and 2 stay two chunks, frame 3 one; 4 and 5 two, 6 one.
    assert found.values["stay_chunks"] == pytest.approx(10 / 6)


@pytest.mark.parametrize("name", ["toy/dense", "toy/videomla"])
def test_an_uncompressed_cache_has_no_error_and_the_bits_of_its_dtype(name: str) -> None:
    found = measured(name)
    card = subject(name).card
    assert found.values["stored_bytes"] == card.cache_bytes
    assert found.values["effective_bits"] == 32
    assert found.values["attention_error"] == found.values["attention_error_worst"] == 0
    assert len(found.samples["error"]) == 4 * 5 * 4  # chunks, layers, heads
    assert found.table is None


def test_the_clips_are_as_they_were_and_the_model_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    one = subject("toy/videomla")
    model = one.load()
    request = WORK.request(0)
    before, pipeline = list(model.stream(request)), model.pipeline
    registry.probes.create("cache", {}).measure(one, WORK, HERE)
    assert model.pipeline is pipeline
    for first, second in zip(before, model.stream(request), strict=True):
        assert (first == second).all()


def test_an_error_in_one_layer_is_found_there_and_is_as_large_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    with lossy(monkeypatch, 0.05):
        found = measured("toy/dense")
    errors = list(zip(found.samples["error_layer"], found.samples["error"], strict=True))
    assert all(error == (pytest.approx(0.05, rel=1e-4) if layer == 2 else 0) for layer, error in errors)
    assert found.values["attention_error_worst"] == pytest.approx(0.05, rel=1e-4)
    assert 0 < found.values["attention_error"] < 0.05
    assert found.table is not None
    rows = {label: list(numbers) for label, numbers in found.table.rows}
    assert rows["layer 2"] == pytest.approx([0.05] * 4, rel=1e-4)
    assert rows["layer 0"] == [0] * 4


def test_errors_are_pooled_over_squares() -> None:
    errors = Errors()
    exact = torch.tensor([[[3.0, 4.0, 0.0, 2.0]]])
    errors.note(0, 0, 2, exact + torch.tensor([[[0.0, 1.0, 0.0, 0.0]]]), exact)
    errors.note(1, 0, 2, exact + torch.tensor([[[0.0, 1.0, 0.0, 1.0]]]), exact)
    # Head 0: 1/25 in both chunks; head 1: 0, then 1/4.
    assert errors.samples()["error"] == pytest.approx([0.2, 0, 0.2, 0.5])
    assert errors.values()["attention_error"] == pytest.approx((3 / 58) ** 0.5)
    assert errors.values()["attention_error_worst"] == pytest.approx((1 / 8) ** 0.5)


def test_what_stays_for_ever_has_no_stay() -> None:
    kept = History([[0, 1], [0, 1, 2]])
    assert kept.values()["stay_chunks"] != kept.values()["stay_chunks"]
    assert kept.samples()["left_chunk"] == []


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: measured("toy/dense", Workload(("a",), (0,), 12, switches=(Switch(3, ("b",)),))), "no prompt switch"),
        (lambda: registry.probes.create("cache", {}).measure(None, WORK, HERE), "measures a model"),
    ],
)
def test_what_cannot_be_followed_is_refused_in_one_line(make: Any, said: str) -> None:
    with pytest.raises(OptionError, match=said):
        make()


def test_a_model_of_another_kind_is_refused() -> None:
    class Other(VideoModel):
        def describe(self) -> ModelCard:
            return ModelCard("other", 8, 8, 8.0, 4)

        def stream(self, *_: Any) -> Any:
            raise NotImplementedError

    other = Other(registry.models.get("toy/dense").schema())
    with pytest.raises(OptionError, match="no cache to follow"):
        registry.probes.create("cache", {}).measure(
            Subject("other", {}, other.describe(), "cpu", lambda: other), WORK, HERE
        )


def record(**samples: list[float]) -> Record:
    return Record("k", "measure", "ok", {}, samples=samples)


def test_the_picture_has_a_panel_an_arm_and_one_for_errors() -> None:
    seen = {"seen_chunk": [0.0, 1.0, 1.0], "seen_frame": [0.0, 0.0, 1.0], "left_chunk": [2.0], "left_frame": [0.0]}
    exact = record(**seen, error_chunk=[0.0, 1.0], error=[0.0, 0.0])
    stored = record(**seen, error_chunk=[0.0, 0.0, 1.0, 1.0], error=[0.1, 0.3, 0.2, 0.2])
    panels = history.panels([(0, "dense", exact), (1, "int8", stored)])
    assert [len(panel.lines) for panel in panels] == [1, 1, 1]
    assert panels[1].lines[0].x == (0, 1, 1)
    assert panels[1].crosses == ((2, 0, 1),)
    (error,) = panels[2].lines
    assert (error.label, error.y) == ("int8", pytest.approx((0.2, 0.2)))
    assert (error.low, error.high) == ((0.1, 0.2), (0.3, 0.2))
    assert len(history.panels([(0, "dense", exact)])) == 1
