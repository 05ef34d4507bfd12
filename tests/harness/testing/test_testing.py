from __future__ import annotations

import math

import numpy as np
import pytest
from road import FAKES

from harness import testing
from harness.contracts import Agreement, Curve, Request, Value, enforce, registry
from harness.errors import ModelFault, PluginFault, RegistryError


@pytest.fixture(autouse=True)
def _fakes() -> None:
    registry.load_plugin(FAKES)


def drain(name: str, frames: int = 10) -> int:
    model = registry.models.create(name, {})
    return sum(chunk.shape[1] for chunk in enforce.chunks(model, Request(("p",), (0,), frames), model.describe()))


def test_a_good_stream_passes_whole() -> None:
    assert drain("fake/moving") == 10


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("fake/shape", r"chunk 1 has shape \[1, 4, 14, 16, 3\], not \[1, frames, 16, 16, 3\]"),
        ("fake/nobatch", r"chunk 0 has shape \[4, 16, 16, 3\]"),
        ("fake/nan", "chunk 0 is float32 with NaN, not uint8"),
        ("fake/list", "chunk 0 is a builtins.list, not a numpy array"),
        ("fake/short", "the model gave 8 frames; 10 were asked for"),
        ("fake/none", "the model gave 0 frames; 10 were asked for"),
        ("fake/long", "chunk 2 brings the clip to 12 frames; 10 were asked for"),
    ],
)
def test_a_broken_stream_is_a_model_fault(name: str, says: str) -> None:
    with pytest.raises(ModelFault, match=says):
        drain(name)


def test_values_are_checked_against_what_is_declared() -> None:
    declared = (Value("a"), Value("b"))
    found = enforce.values("metric m", declared, {"b": np.float32(1.5), "a": math.nan})  # type: ignore[dict-item]
    assert list(found) == ["a", "b"]
    assert math.isnan(found["a"])
    assert type(found["b"]) is float
    for given, says in (
        ({"a": 1.0}, "metric m gave no value b"),
        ({"a": 1.0, "b": 2.0, "c": 3.0}, "does not declare: c"),
        ({"a": 1.0, "b": -math.inf}, "infinite b"),
    ):
        with pytest.raises(PluginFault, match=says):
            enforce.values("metric m", declared, given)


def test_check_model_passes_a_good_model_and_names_what_a_bad_one_breaks() -> None:
    *sound, last = testing.check_model("fake/moving")
    untried = [finding.name for finding in sound if finding.ok is None]  # it states no frame, and keys hold its batch
    assert [name.split()[-1] for name in untried] == ["itself", "states"]
    assert not [finding for finding in sound if finding.ok is False]
    assert (last.ok, last.detail) == (None, "it has none, so its speed will be marked")
    for name in ("fake/raises", "fake/shape", "fake/nan", "fake/short", "fake/list"):
        failed = [finding for finding in testing.check_model(name) if finding.ok is False]
        assert failed, name
        assert failed[0].detail
    with pytest.raises(RegistryError, match="unknown model"):
        testing.check_model("fake/movin")


def test_check_model_sees_a_seed_that_does_not_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    cls = registry.models.get("fake/moving")
    noise = np.random.default_rng(0)
    monkeypatch.setattr(
        cls,
        "stream",
        lambda self, request, spans=None: iter([noise.integers(0, 255, (1, request.frames, 16, 16, 3), np.uint8)]),
    )
    broken = {finding.name for finding in testing.check_model("fake/moving") if finding.ok is False}
    assert "equal seeds give equal clips" in broken


def test_check_model_holds_a_model_to_what_it_says_of_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    def batches(name: str) -> list[bool | None]:
        return [finding.ok for finding in testing.check_model(name) if "batch" in finding.name]

    assert batches("fake/alone") == batches("fake/pairs") == [True, True]
    assert batches("fake/by_width") == [True, None, None]
    monkeypatch.setattr(registry.models.get("fake/by_width"), "batch_may_change_pixels", lambda self, device: False)
    assert batches("fake/by_width") == [True, False]


@pytest.mark.parametrize(
    ("told", "says"),
    [
        (Agreement("a sum", 2e-3, 1e-3, 1), "above 1e-03"),
        (Agreement("a sum", math.nan, 1e-3, 1), "nan"),
        (Agreement("a sum", 0.0, 1e-3, 0), "nothing was held against a sum"),
        (1e-4, "gave a float, not an Agreement"),
    ],
)
def test_check_model_sees_a_model_that_does_not_agree(monkeypatch: pytest.MonkeyPatch, told: object, says: str) -> None:
    cls = registry.models.get("fake/moving")
    found = [Agreement("a sum", 1e-4, 1e-3, 1), told]
    monkeypatch.setattr(cls, "agreement", lambda self, request: found.pop(0))
    assert testing.check_model("fake/moving")[-1].ok
    last = testing.check_model("fake/moving")[-1]
    assert last.ok is False
    assert says in last.detail


@pytest.mark.parametrize(
    ("kept", "says"),
    [
        ({"curve": [1.0, 2.0], "at": [0.0, 10.0]}, ""),
        ({"at": [0.0]}, "declares the curve 'curve', and samples() has none"),
        ({"curve": [1.0, 2.0], "at": [0.0]}, "has 2 numbers, and 1 'at'"),
        ({"curve": [1.0, 2.0]}, "has 2 numbers, and 0 'at'"),
        ({"curve": [1.0] * 99, "at": [0.0] * 99}, "99 numbers along a clip of 21 frames"),
    ],
)
def test_check_metric_holds_curves_to_their_samples(
    monkeypatch: pytest.MonkeyPatch, kept: dict[str, list[float]], says: str
) -> None:
    metric = registry.metrics.get("fake/brightness")
    monkeypatch.setattr(metric, "curves", (Curve(Value("curve"), frames="at"),))
    monkeypatch.setattr(metric, "samples", lambda self: kept)
    (score,) = (finding for finding in testing.check_metric("fake/brightness") if finding.name == "score")
    assert score.ok is (not says)
    assert says in score.detail


@pytest.mark.parametrize("name", ["toy/world", "toy/survival", "frames/difference", "frames/flow"])
def test_the_curves_of_the_metrics_here_are_as_declared(name: str) -> None:
    assert all(finding.ok for finding in testing.check_metric(name)), testing.check_metric(name)
