"""What a cache holds along a rollout, against arithmetic by hand, and errors of attention put in on purpose."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from harness.contracts import Measurement, ModelCard, ProbeContext, Request, Subject, VideoModel, Workload, registry
from harness.errors import OptionError, SuiteError
from harness.report.plots import history
from harness.runs.line import Record
from harness.runs.measured import record_samples
from harness.runs.plan import make
from harness.suite.load import load_suite
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


def seen_of(found: Measurement) -> list[dict[int, float]]:
    """Shares of frames, by chunk."""
    rows = zip(*(found.samples[f"seen_{part}"] for part in ("chunk", "frame", "share")), strict=True)
    chunks: dict[int, dict[int, float]] = {}
    for chunk, frame, share in rows:
        chunks.setdefault(int(chunk), {})[int(frame)] = share
    return [chunks[number] for number in range(len(chunks))]


@pytest.mark.parametrize("stored", [{}, {"content": "int4", "key": "int4"}])
def test_latents_of_a_file_stand_for_what_the_model_makes(tmp_path: Path, stored: dict[str, Any]) -> None:
    """Two clips of nine frames, three chunks, whatever the workload asks for; errors as `attention_errors` has them."""
    latents = torch.randn(2, 48, 10, 4, 6, generator=torch.Generator().manual_seed(0))
    found = []
    for name, scale in (("one", 1), ("other", 4)):
        save_file({"latents": scale * latents}, tmp_path / f"{name}.safetensors")
        probe = registry.probes.create("cache", {"latents": str(tmp_path / f"{name}.safetensors")})
        found.append(probe.measure(subject("toy/dense", cache=stored), WORK, HERE))
        assert set(found[-1].samples["seen_chunk"]) == {0, 1, 2}
        assert set(found[-1].samples["error_chunk"]) == {0, 1, 2}
    assert found[0].values["effective_bits"] == found[1].values["effective_bits"]
    errors = [one.values["attention_error"] for one in found]
    if not stored:
        assert errors == [0, 0]
        return
    model: Any = subject("toy/dense", cache=stored).load()
    true, request = latents[:, :, :9].transpose(1, 2), Request((WORK.prompts[0],) * 2, (0, 1), 1)
    by_hand = attention_errors(model.pipeline, request, model.timeline(request), model.storage(), true)
    assert errors[0] == pytest.approx(float(by_hand.overall.square().mean().sqrt()), rel=1e-6)
    assert errors[1] != errors[0] > 0


def test_keys_name_latents_by_their_digest_and_not_at_all_without(tmp_path: Path) -> None:
    save_file({"latents": torch.zeros(1, 48, 3, 4, 6)}, tmp_path / "l.safetensors")
    digest = hashlib.sha256((tmp_path / "l.safetensors").read_bytes()).hexdigest()
    probe = registry.probes.create("cache", {"latents": str(tmp_path / "l.safetensors")})
    assert probe.keyed_options({"latents": "any"}) == {"latents": digest}
    assert registry.probes.create("cache", {}).keyed_options({"latents": ""}) == {}


TWO = "a red circle moves left on a black background", "a green square moves up on a navy background"
LONG = Workload(TWO, (0,), 24, batch=2)
AT_WRITE: dict[str, Any] = {"rotation": "write", "positions": "absolute"}


def test_averages_are_of_no_frame() -> None:
    found = measured("toy/dense", LONG, policy={"frames": 8, "average_rates": [0.01, 0.1]})
    seen = seen_of(found)
    # A sink, two averages, two past frames and the chunk; before anything leaves, first frames stand in their place.
    assert [set(frames) for frames in seen[1:4]] == [{0, 1, 2, 3, 4, 5}, {0, 4, 5, 6, 7, 8}, {0, 7, 8, 9, 10, 11}]
    assert list(zip(found.samples["merged_chunk"], found.samples["merged_frames"], strict=True)) == [
        (float(chunk), 2.0) for chunk in range(2, 8)
    ]
    assert found.values["frames_seen"] == 8


def test_first_frames_that_come_back_are_named() -> None:
    found = measured("toy/dense", LONG, policy={"frames": 9, "sink": 0, "sink_kind": "ping_pong"})
    seen = [sorted(frames) for frames in seen_of(found)]
    assert seen[3] == list(range(3, 12))
    # Of the six first frames, backwards from the last: in place of frames 6 to 8, then of 9 to 11; then forwards.
    assert seen[4:7] == [[3, 4, 5, *range(9, 15)], [0, 1, 2, *range(12, 18)], [0, 1, 2, *range(15, 21)]]
    assert found.values["frames_seen"] == 9


@pytest.mark.parametrize("name", ["toy/dense", "toy/videomla"])
def test_frames_of_a_bank_are_found_by_their_bits(name: str) -> None:
    found = measured(name, LONG, policy={"sink": 0, "bank": 2, "bank_by": "similarity", "bank_every": 1})
    seen = seen_of(found)
    # The bank takes the first frame of a chunk while the window still has it.
    assert seen[1] == {0: 2, 1: 1, 2: 1, 3: 1, 4: 1, 5: 1}
    assert seen[2] == {0: 1, 3: 2, 4: 1, 5: 1, 6: 1, 7: 1, 8: 1}
    for chunk, frames in enumerate(seen[4:], 4):
        assert all(frame % 3 == 0 for frame in set(frames) - set(range(3 * chunk - 3, 3 * chunk + 3)))
        assert sum(frames.values()) == pytest.approx(8)
    assert found.values["frames_seen"] == pytest.approx(8)
    assert found.values["effective_bits"] == 32


@pytest.mark.parametrize(
    ("name", "by"),
    [("toy/dense", "head"), ("toy/dense", "token"), ("toy/videomla", "token"), ("toy/videomla", "frame")],
)
def test_chosen_tokens_are_shares_of_their_frames(name: str, by: str) -> None:
    found = measured(name, LONG, policy={**AT_WRITE, "frames": 7, "select": 2, "select_by": by})
    seen = seen_of(found)
    assert set(seen[1]) == {0, 1, 2, 3, 4, 5}
    assert set(seen[2]) == {0, 1, 2, 3, 4, 5, 6, 7, 8}
    for chunk, frames in enumerate(seen[3:], 3):
        window = {0, *range(3 * chunk - 3, 3 * chunk + 3)}
        assert all(frames[frame] == pytest.approx(1) for frame in window)
        assert sum(frames.values()) == pytest.approx(9)
        assert set(frames) > window
    assert "merged_chunk" not in found.samples
    assert found.values["effective_bits"] == 32


def test_heads_with_windows_of_their_own_see_shares_of_frames() -> None:
    policy = {**AT_WRITE, "frames": 7, "head_classes": ["slcw"] * 5, "head_from": 2, "head_recent": [3, 1]}
    found = measured("toy/dense", Workload(LONG.prompts[:1], (0,), 12), policy=policy)
    # The sink of two heads, three past frames of two and one of a third, the chunk of all.
    assert seen_of(found)[3] == {0: 0.5, 6: 0.5, 7: 0.5, 8: 0.75, 9: 1, 10: 1, 11: 1}


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
    kept = History()
    kept.note({0: 1.0, 1: 1.0})
    kept.note({0: 1.0, 1: 1.0, 2: 1.0})
    assert kept.values()["stay_chunks"] != kept.values()["stay_chunks"]
    assert kept.samples()["left_chunk"] == []


def test_a_measurement_of_no_model_is_refused() -> None:
    with pytest.raises(OptionError, match="measures a model"):
        registry.probes.create("cache", {}).measure(None, WORK, HERE)


OUT = "leave the model out of the section"


@pytest.mark.parametrize(
    ("model", "switches", "said", "fix"),
    [
        ("toy/linear", "", "linear attention keeps one state", OUT),
        ("toy/dense, options: {policy: {schedule: rolling, sink: 3}}", "", "schedule is 'rolling'", OUT),
        ("toy/dense", "switches: [{frame: 6, prompts: other}]", "no prompt switch", "leave `switches` out"),
    ],
)
def test_what_cannot_be_followed_is_refused_before_anything_runs(
    tmp_path: Path, model: str, switches: str, said: str, fix: str
) -> None:
    suite = tmp_path / "suite.yaml"
    suite.write_text(
        f"suite: s\ndevice: cpu\nmodels:\n  - {{name: {model}}}\n"
        "prompts: {one: [a red circle moves left on a black background], other: [a blue one]}\n"
        f"measure:\n  - name: past\n    probe: cache\n    prompts: one\n    frames: 24\n    {switches}\n"
    )
    with pytest.raises(SuiteError, match=rf"section 'past', model .*: probe 'cache': .*{said}") as refused:
        make(load_suite(suite))
    assert fix in refused.value.fix
    assert "\n" not in refused.value.message


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
    parts = record(**seen, seen_share=[1.0, 0.25, 1.0], merged_chunk=[1.0], merged_frames=[2.0])
    (drawn,) = history.panels([(0, "averages", parts)])
    assert [(line.label, line.x, line.small) for line in drawn.lines] == [
        ("seen", (0, 1), False),
        ("seen in part", (1,), True),
        ("average", (1, 1), True),
    ]
    assert len(history.remarks([(0, "averages", parts)])) == 2
    assert history.remarks([(0, "dense", exact)]) == ()
    assert [len(panel.lines) for panel in panels] == [1, 1, 1]
    assert panels[1].lines[0].x == (0, 1, 1)
    assert panels[1].crosses == ((2, 0, 1),)
    (error,) = panels[2].lines
    assert (error.label, error.y) == ("int8", pytest.approx((0.2, 0.2)))
    assert (error.low, error.high) == ((0.1, 0.2), (0.3, 0.2))
    assert len(history.panels([(0, "dense", exact)])) == 1
