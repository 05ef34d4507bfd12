"""The rule that reads a clip: right on true renders, on other captions right only where the words agree."""

import tempfile
from pathlib import Path

import numpy as np
import pytest

from harness import video
from harness.errors import ClipError
from models.toy import world
from models.toy.judge import Verdict, hold, judge, read
from models.toy.world import Caption

PARTS = ("colour", "shape", "direction", "speed", "background")


def spread(count: int) -> list[Caption]:
    captions = world.all_captions()
    return [captions[(i * 211 + 5) % len(captions)] for i in range(count)]


def through_h264(clip: np.ndarray) -> np.ndarray:
    """Written as a run writes its clips, and read back."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        video.write(path, [clip], world.FRAME_RATE, crf=10, preset="medium")
        return video.read(path)


def noisy(clip: np.ndarray, sigma: float = 8.0) -> np.ndarray:
    noise = np.random.default_rng(clip.shape[0]).normal(0, sigma, clip.shape)
    return np.clip(np.round(clip + noise), 0, 255).astype(np.uint8)


def as_it_is(clip: np.ndarray) -> np.ndarray:
    return clip


ways = pytest.mark.parametrize("way", [as_it_is, through_h264, noisy, lambda clip: through_h264(noisy(clip))])


def accuracy(captions: list[Caption], frames: int, way) -> float:
    return float(np.mean([judge(way(world.render(c, i, frames)), c).correct for i, c in enumerate(captions)]))


@ways
def test_true_renders_are_right(way):
    assert accuracy(spread(24), 21, way) >= 0.98


@ways
def test_long_true_renders_are_right(way):
    assert accuracy(spread(6), 120, way) == 1.0


@pytest.mark.slow
@pytest.mark.parametrize(("frames", "stride"), [(21, 1), (120, 7)])
@ways
def test_every_caption_is_right(way, frames: int, stride: int):
    assert accuracy(list(world.all_captions()[::stride]), frames, way) >= 0.98


@pytest.mark.parametrize("way", [as_it_is, through_h264])
def test_other_captions_are_right_only_in_the_parts_they_share(way):
    shown, stated = spread(24), spread(48)[24:]
    for seed, (truth, caption) in enumerate(zip(shown, stated, strict=True)):
        verdict = judge(way(world.render(truth, seed, 21)), caption)
        for part in PARTS:
            assert getattr(verdict, part) == (getattr(truth, part) == getattr(caption, part)), (part, truth, caption)
        assert not verdict.correct


def test_the_diagnostics_of_a_true_render_are_exact():
    for seed, caption in enumerate(spread(12)):
        verdict = judge(world.render(caption, seed, 10), caption)
        assert verdict.shape_iou == pytest.approx(1.0)
        assert verdict.speed_measured == pytest.approx(world.SPEEDS[caption.speed])


def test_the_place_is_the_centre_of_the_shape():
    caption = Caption("white", "square", "quickly", "to the lower right", "black")
    x, y = world.start_position(5)
    place = read(world.render(caption, 5, 20)).place
    truth = np.array([[(x + 2 * t) % 32, (y + 2 * t) % 32] for t in range(20)])
    assert np.allclose((place - truth + 16) % 32 - 16, 0, atol=1e-9)


def test_a_frozen_clip_goes_nowhere():
    for seed, caption in enumerate(spread(8)):
        verdict = judge(np.repeat(world.render(caption, seed, 1), 21, axis=0), caption)
        assert (verdict.colour, verdict.shape, verdict.background) == (True, True, True)
        assert (verdict.direction, verdict.speed, verdict.speed_measured) == (False, False, 0.0)


@pytest.mark.parametrize("direction", ["to the right", "to the upper left"])
@pytest.mark.parametrize("speed", ["slowly", "quickly"])
def test_a_blur_of_both_speeds_is_neither(direction: str, speed: str):
    caption = Caption("green", "cross", speed, direction, "gray")
    fast = world.render(Caption("green", "cross", "slowly", direction, "gray"), 1, 80)
    steps = np.cumsum([0] + [1, 2] * 20)
    verdict = judge(fast[steps], caption)
    assert verdict.direction
    assert verdict.speed_measured == pytest.approx(1.5)
    assert not verdict.speed


def test_a_diagonal_needs_the_speed_on_both_axes():
    caption = Caption("red", "circle", "slowly", "to the lower right", "black")
    still = world.render(caption, 2, 1)[0]
    clip = np.stack([np.roll(still, (round(1.5 * t), round(0.5 * t)), axis=(0, 1)) for t in range(21)])
    verdict = judge(clip, caption)
    assert verdict.direction
    assert verdict.speed_measured == pytest.approx(1.0)
    assert not verdict.speed


@pytest.mark.parametrize("value", [0, 255])
def test_a_plain_clip_shows_nothing(value: int):
    clip = np.full((21, 32, 32, 3), value, np.uint8)
    for caption in spread(16):
        verdict = judge(clip, caption)
        assert not any((verdict.colour, verdict.shape, verdict.direction, verdict.speed, verdict.correct))
        assert verdict.shape_iou == 0.0
        assert verdict.background == (value == 0 and caption.background == "black")


def test_pure_noise_shows_nothing():
    clip = np.random.default_rng(0).integers(0, 256, (21, 32, 32, 3), dtype=np.uint8)
    assert not any(judge(clip, caption).correct or judge(clip, caption).shape for caption in spread(16))


def test_a_shape_of_a_foreign_colour_has_none():
    caption = Caption("red", "circle", "slowly", "up", "black")
    clip = world.render(caption, 0, 8)
    red = np.array(world.COLOURS["red"])
    clip = np.where((clip == red).all(axis=3, keepdims=True), np.array([255, 140, 0], np.uint8), clip)
    verdict = judge(clip, caption)
    assert verdict.shape
    assert not verdict.colour


@pytest.mark.parametrize(("broken", "held"), [(4, True), (5, False)])
def test_four_frames_in_five_must_hold(broken: int, held: bool):
    caption, other = (Caption(c, "square", "slowly", "down", "navy") for c in ("red", "yellow"))
    clip = world.render(caption, 0, 20)
    clip[:broken] = world.render(other, 0, broken)
    assert judge(clip, caption).colour == held
    assert judge(clip, caption).shape


def test_frames_without_a_shape_leave_the_motion_to_the_others():
    caption = Caption("blue", "triangle", "quickly", "to the left", "black")
    clip = world.render(caption, 0, 30)
    clip[[7, 8, 20]] = 0
    verdict = judge(clip, caption)
    assert verdict.correct
    assert verdict.speed_measured == pytest.approx(2.0)
    assert verdict.shape_iou == pytest.approx(0.9)


def test_a_slice_of_a_reading_is_the_reading_of_the_slice():
    caption = spread(3)[2]
    clip = noisy(world.render(caption, 0, 24))
    assert hold(read(clip)[6:18], caption) == judge(clip[6:18], caption)
    assert isinstance(judge(clip, caption), Verdict)


@pytest.mark.parametrize(
    "clip",
    [
        np.zeros((8, 32, 33, 3), np.uint8),
        np.zeros((8, 64, 64, 3), np.uint8),
        np.zeros((8, 32, 32), np.uint8),
        np.zeros((1, 8, 32, 32, 3), np.uint8),
        np.zeros((8, 32, 32, 3), np.float32),
    ],
)
def test_other_sizes_are_refused(clip: np.ndarray):
    with pytest.raises(ClipError, match=r"the small world is uint8 \[frames, 32, 32, 3\]"):
        read(clip)


@pytest.mark.parametrize("frames", [0, 1, 3])
def test_too_few_frames_are_refused(frames: int):
    with pytest.raises(ClipError, match=f"{frames} frames do not define a speed"):
        judge(world.render(spread(1)[0], 0, frames), spread(1)[0])
