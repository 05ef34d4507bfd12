"""What a cache holds along a rollout, against arithmetic by hand, and errors of attention put in on purpose."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.contracts import Measurement, ModelCard, ProbeContext, Subject, Switch, VideoModel, Workload, registry
from harness.errors import OptionError
from harness.report.plots import history
from harness.runs.line import Record
from harness.runs.measured import record_samples
from videomla_models.probes.cache_history import CacheHistory, History
from videomla_models.probes.coding_error import attention_errors

HERE = ProbeContext("cpu", Path("unused"))
WORK = Workload(("a red circle moves left on a black background",), (0,), 12)


def subject(name: str, **options: Any) -> Subject:
    model = registry.models.create(name, {"weights": "random", "steps": 1, **options})
    model.load("cpu")
    return Subject(name, options, model.describe(), "cpu", lambda: model)


def measured(name: str, workload: Workload = WORK, **options: Any) -> Measurement:
    return registry.probes.create("cache", {}).measure(subject(name, **options), workload, HERE)


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
    assert found.samples["error"] == [0.0] * (4 * 5 * 4)  # chunks, layers, heads
    assert found.table is None
    # A record takes it, which holds all that the plot is drawn from.
    assert record_samples("probe cache", CacheHistory, found) == {n: list(each) for n, each in found.samples.items()}


def test_the_clips_are_as_they_were_and_the_model_is_left_alone() -> None:
    one = subject("toy/videomla")
    model = one.load()
    request = WORK.request(0)
    before, pipeline = list(model.stream(request)), model.pipeline
    registry.probes.create("cache", {}).measure(one, WORK, HERE)
    assert model.pipeline is pipeline
    for first, second in zip(before, model.stream(request), strict=True):
        assert (first == second).all()


@pytest.mark.parametrize("name", ["toy/dense", "toy/videomla"])
def test_stored_bits_and_errors_are_those_of_the_code(name: str) -> None:
    coded = subject(name, cache={"content": "int8", "key": "int4", "group": "token"})
    found = registry.probes.create("cache", {}).measure(coded, WORK, HERE)
    assert found.values["stored_bytes"] == coded.card.cache_bytes
    details: Any = coded.card.details["cache"]
    assert found.values["effective_bits"] == pytest.approx(details["effective_bits"])
    model: Any = coded.load()
    request = WORK.request(0)
    errors = attention_errors(model.pipeline, request, model.timeline(request), model.storage())
    assert found.samples["error"] == errors.by_chunk.flatten().tolist()
    at = list(zip(*(found.samples[f"error_{part}"] for part in ("chunk", "layer", "head")), strict=True))
    assert at[:6] == [(0, 0, 0), (0, 0, 1), (0, 0, 2), (0, 0, 3), (0, 1, 0), (0, 1, 1)]
    assert found.values["attention_error_worst"] == float(errors.overall.max())
    assert 0 < found.values["attention_error"] == pytest.approx(float(errors.overall.square().mean().sqrt()))
    assert found.table is not None
    assert [list(numbers) for _, numbers in found.table.rows] == errors.overall.tolist()


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
