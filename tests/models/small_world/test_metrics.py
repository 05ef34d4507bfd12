"""The metrics of the small world, through the registry and the metric contract."""

import hashlib
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness.contracts import Clip, Metric
from harness.contracts.registry import metrics
from harness.errors import ClipError
from videomla_models.small_world import world
from videomla_models.small_world.world import Caption

PROMPTS = Path(__file__).parents[3] / "suites" / "prompts"
PARTS = ("colour", "shape", "direction", "speed", "background")
SHARES = ("caption_accuracy", *PARTS)
FRAME_SHARES = ("frame_accuracy", *(f"{part}_frames" for part in PARTS))
SHOWN = Caption("red", "cross", "slowly", "to the left", "navy")
OTHER = Caption("white", "circle", "quickly", "down", "brown")


def metric(name: str) -> Metric:
    cls = metrics.get(name)
    return cls(cls.schema())


def clip_of(frames: np.ndarray, prompt: str, switches: tuple[tuple[int, str], ...] = ()) -> Clip:
    digest = hashlib.sha256(frames.tobytes()).hexdigest()
    count, height, width = frames.shape[:3]
    return Clip(Path("none.mp4"), prompt, 0, 0, count, height, width, 8.0, digest, lambda: frames, switches)


@pytest.mark.parametrize("name", ["toy/world", "toy/survival"])
def test_scores_are_the_declared_values_and_repeat(name: str):
    clip = clip_of(world.render(SHOWN, 3, 40), str(SHOWN))
    one, two = metric(name).score(clip), metric(name).score(clip)
    assert set(one) == {value.name for value in metric(name).values}
    assert one == two
    assert all(isinstance(value, float) for value in one.values())
    assert all(value.label for value in metric(name).values)


def test_a_true_render():
    scores = metric("toy/world").score(clip_of(world.render(SHOWN, 3, 21), str(SHOWN)))
    for name in (*SHARES, *FRAME_SHARES, "shape_iou", "shape_iou_worst"):
        assert scores[name] == pytest.approx(1.0)
    assert scores["speed_measured"] == pytest.approx(1.0, abs=1e-5)
    assert scores["speed_error"] == pytest.approx(0.0, abs=1e-5)
    assert scores["step_error"] == pytest.approx(0.0, abs=1e-5)


def test_a_render_of_another_caption():
    scores = metric("toy/world").score(clip_of(world.render(OTHER, 3, 21), str(SHOWN)))
    for name in (*SHARES, *FRAME_SHARES):
        assert scores[name] == 0.0
    assert scores["shape_iou_worst"] == pytest.approx(scores["shape_iou"])  # the same figure in every frame
    assert 0.3 < scores["shape_iou"] < 0.7
    assert scores["speed_measured"] == pytest.approx(2.0)
    assert scores["speed_error"] == pytest.approx(1.0)
    assert scores["step_error"] == pytest.approx(5**0.5)  # 2 down, where 1 to the left is stated


def test_a_clip_is_right_where_every_frame_is():
    frames = world.render(SHOWN, 3, 20)
    frames[12:14] = world.render(replace(SHOWN, colour="white"), 3, 20)[12:14]
    scores = metric("toy/world").score(clip_of(frames, str(SHOWN)))
    wrong = {"caption_accuracy", "colour"}
    assert {name: scores[name] for name in SHARES} == {name: float(name not in wrong) for name in SHARES}
    wrong = {"frame_accuracy", "colour_frames"}
    expected = {name: 0.9 if name in wrong else 1.0 for name in FRAME_SHARES}
    assert {name: scores[name] for name in FRAME_SHARES} == pytest.approx(expected)


def test_a_held_clip_is_no_motion_though_it_covers_the_way():
    frames = world.render(SHOWN, 3, 21)[np.arange(21) // 4 * 4]
    scores = metric("toy/world").score(clip_of(frames, str(SHOWN)))
    assert (scores["caption_accuracy"], scores["direction"], scores["speed"]) == (0.0, 0.0, 0.0)
    assert (scores["frame_accuracy"], scores["colour"], scores["shape"]) == (0.0, 1.0, 1.0)
    assert scores["speed_error"] == pytest.approx(0.0, abs=1e-5)
    assert scores["step_error"] == pytest.approx((15 * 1 + 5 * 3) / 20, abs=1e-5)
    survival = metric("toy/survival").score(clip_of(frames, str(SHOWN)))
    assert [survival[f"quarter_{i}"] for i in (1, 2, 3, 4)] == [0.0] * 4
    assert [survival[f"quarter_{i}_frames"] for i in (1, 2, 3, 4)] == [0.0] * 4


@pytest.mark.parametrize("frames", [16, 21, 120])
def test_a_true_rollout_survives_without_drift(frames: int):
    scores = metric("toy/survival").score(clip_of(world.render(OTHER, 1, frames), str(OTHER)))
    assert all(scores[f"quarter_{i}{kind}"] == 1.0 for i in (1, 2, 3, 4) for kind in ("", "_frames"))
    assert (scores["survival"], scores["shape_drift"]) == (1.0, pytest.approx(0.0))


@pytest.mark.parametrize(("frame", "quarters"), [(10, [1, 0, 1, 1]), (20, [1, 1, 0, 1]), (25, [1, 1, 0, 1])])
def test_a_jump_is_in_the_quarter_that_it_leads_to(frame: int, quarters: list[int]):
    # From one start to another, at the edge of a quarter too, where neither quarter alone has the step.
    frames = world.render(SHOWN, 1, 40)
    frames[frame:] = world.render(SHOWN, 2, 40)[frame:]
    scores = metric("toy/survival").score(clip_of(frames, str(SHOWN)))
    assert [scores[f"quarter_{i}"] for i in (1, 2, 3, 4)] == quarters
    shares = [scores[f"quarter_{i}_frames"] for i in (1, 2, 3, 4)]
    assert shares == pytest.approx([1 if right else 0.9 for right in quarters])
    assert scores["shape_drift"] == pytest.approx(0.0)


def test_no_frame_of_a_quarter_is_left_out_where_a_switch_leaves_few():
    frames = np.concatenate([world.render(SHOWN, 1, 22), world.render(OTHER, 1, 18)])
    clip = clip_of(frames, str(SHOWN), ((22, str(OTHER)),))
    assert metric("toy/survival").score(clip)["quarter_3"] == 1.0
    frames[21] = world.BACKGROUNDS["navy"]
    assert metric("toy/survival").score(clip)["quarter_3"] == 0.5


def test_a_rollout_that_loses_its_shape_in_the_third_quarter():
    frames = world.render(SHOWN, 1, 40)
    frames[20:] = world.BACKGROUNDS["navy"]
    scores = metric("toy/survival").score(clip_of(frames, str(SHOWN)))
    assert [scores[f"quarter_{i}"] for i in (1, 2, 3, 4)] == [1.0, 1.0, 0.0, 0.0]
    assert scores["survival"] == 0.0
    assert scores["shape_drift"] == pytest.approx(-1.0)


def test_a_rollout_that_recovers_survives():
    frames = world.render(SHOWN, 1, 40)
    frames[:10] = world.BACKGROUNDS["navy"]
    scores = metric("toy/survival").score(clip_of(frames, str(SHOWN)))
    assert (scores["survival"], scores["quarter_1"], scores["shape_drift"]) == (1.0, 0.0, pytest.approx(1.0))


@pytest.mark.parametrize("switch", [20, 24])
def test_a_switched_clip_is_held_to_the_caption_in_force(switch: int):
    frames = np.concatenate([world.render(SHOWN, 1, switch), world.render(OTHER, 1, 40 - switch)])
    clip = clip_of(frames, str(SHOWN), ((switch, str(OTHER)),))
    assert metric("toy/world").score(clip)["caption_accuracy"] == 1.0
    assert metric("toy/survival").score(clip)["survival"] == 1.0
    ignored = clip_of(world.render(SHOWN, 1, 40), str(SHOWN), ((switch, str(OTHER)),))
    assert metric("toy/world").score(ignored)["caption_accuracy"] == 0.5
    assert metric("toy/world").score(ignored)["speed_error"] == pytest.approx(0.5, abs=1e-5)
    assert metric("toy/survival").score(ignored)["survival"] == 0.0


@pytest.mark.parametrize("name", ["toy/world", "toy/survival"])
@pytest.mark.parametrize("prompt", ["a cat", "", "../../etc/passwd", "<script>\n'\"😀", "red " * 100])
def test_a_foreign_prompt_is_an_error_that_gives_the_grammar(name: str, prompt: str):
    with pytest.raises(ClipError, match="a COLOUR SHAPE moves SPEED DIRECTION on a BACKGROUND background"):
        metric(name).score(clip_of(world.render(SHOWN, 0, 21), prompt))
    with pytest.raises(ClipError, match="a COLOUR SHAPE"):
        metric(name).score(clip_of(world.render(SHOWN, 0, 21), str(SHOWN), ((10, prompt),)))


@pytest.mark.parametrize(("name", "frames"), [("toy/world", 0), ("toy/world", 3), ("toy/survival", 15)])
def test_a_clip_too_short_is_an_error(name: str, frames: int):
    with pytest.raises(ClipError, match=r"longer clips|16 frames or more"):
        metric(name).score(clip_of(world.render(SHOWN, 0, frames), str(SHOWN)))


@pytest.mark.parametrize("name", ["toy/world", "toy/survival"])
def test_another_size_is_an_error(name: str):
    with pytest.raises(ClipError, match="score only clips of 32x32"):
        metric(name).score(clip_of(np.zeros((21, 48, 31, 3), np.uint8), str(SHOWN)))


@pytest.mark.parametrize(("name", "pool"), [("toy_heldout", world.held_out), ("toy_seen", world.training_captions)])
def test_prompt_files_are_captions_of_their_split_with_every_word_equally_often(name: str, pool):
    lines = (PROMPTS / f"{name}.txt").read_text().splitlines()
    captions = [Caption.parse(line) for line in lines]
    assert [str(caption) for caption in captions] == lines
    assert len(set(captions)) == 24
    assert set(captions) <= set(pool())
    for part, words in (("colour", 6), ("shape", 4), ("speed", 2), ("direction", 8), ("background", 4)):
        counts = Counter(getattr(caption, part) for caption in captions)
        assert set(counts.values()) == {24 // words}


@pytest.mark.parametrize("name", ["toy/world", "toy/survival"])
def test_every_frame_has_a_sample_against_the_prompt_in_force(name: str):
    first, second = world.render(SHOWN, 3, 20), world.render(OTHER, 5, 20)
    frames = np.concatenate([first, second])
    frames[10] = frames[0, 0, 0]  # a frame with nothing on it
    metric_ = metric(name)
    metric_.score(clip_of(frames, str(SHOWN), ((24, str(OTHER)),)))
    samples = metric_.samples()
    assert {curve.value.name for curve in metric_.curves} == set(samples)
    # Frames 20 to 23 show what comes at 24; nothing is at 10, and no step leads to it or from it.
    wrong = {10, 11, *range(20, 24)}
    assert samples["frame_accuracy_by_frame"] == [float(number not in wrong) for number in range(40)]
    # The backgrounds and colours differ, and so do the directions; nothing is neither background nor shape.
    for part in PARTS:
        shown = np.array(samples[f"{part}_by_frame"])
        assert (shown[[0, 9, 12, 19, 24, 39]] == 1).all(), part
        assert (shown[20:24] == 0).all(), part
    motion = np.array(samples["motion_by_frame"])
    assert np.isnan(motion[[0, 10, 11]]).all()
    assert motion[1:10] == pytest.approx(1.0, abs=1e-5)
    assert motion[21:] == pytest.approx(2.0, abs=1e-5)
    overlap = np.array(samples["shape_iou_by_frame"])
    assert overlap[:10] == pytest.approx(1.0)
    assert (overlap[20:24] < 0.9).all()
    assert overlap[24:] == pytest.approx(1.0)


def test_a_failed_score_leaves_no_samples_of_the_clip_before():
    metric_ = metric("toy/world")
    metric_.score(clip_of(world.render(SHOWN, 3, 21), str(SHOWN)))
    with pytest.raises(ClipError):
        metric_.score(clip_of(world.render(SHOWN, 3, 21), "no caption"))
    assert metric_.samples() == {}
