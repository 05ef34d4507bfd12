"""The rule that reads a clip: right on true renders, wrong where one frame or one step is."""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from harness.errors import ClipError
from harness.system import video
from videomla_models.small_world import world
from videomla_models.small_world.judge import MIN_IOU, PARTS, Verdict, hold, judge, read
from videomla_models.small_world.world import Caption


def spread(count: int) -> list[Caption]:
    captions = world.all_captions()
    return [captions[(i * 211 + 5) % len(captions)] for i in range(count)]


def through_h264(clip: np.ndarray) -> np.ndarray:
    """Written as a run writes its clips, and read back."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        video.write(path, [clip], world.FRAME_RATE, crf=8, preset="veryfast")
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
        assert (verdict.shape_iou, verdict.shape_iou_worst) == (pytest.approx(1.0), pytest.approx(1.0))
        assert verdict.speed_measured == pytest.approx(world.SPEEDS[caption.speed], abs=1e-5)
        assert verdict.step_error == pytest.approx(0.0, abs=1e-5)
        assert verdict.frames == dict.fromkeys(PARTS, 1.0)
        assert verdict.frames_correct == 1.0


def test_the_place_is_the_centre_of_the_shape():
    caption = Caption("white", "square", "quickly", "to the lower right", "black")
    x, y = world.start_position(5)
    place = read(world.render(caption, 5, 20)).place
    truth = np.array([[(x + 2 * t) % 32, (y + 2 * t) % 32] for t in range(20)])
    assert np.allclose((place - truth + 16) % 32 - 16, 0, atol=1e-5)


def test_a_frozen_clip_goes_nowhere():
    for seed, caption in enumerate(spread(8)):
        verdict = judge(np.repeat(world.render(caption, seed, 1), 21, axis=0), caption)
        assert (verdict.colour, verdict.shape, verdict.background) == (True, True, True)
        assert (verdict.direction, verdict.speed, verdict.speed_measured) == (False, False, 0.0)


def in_order(*order: int):
    """A true render whose frames come in another order."""
    return lambda clip: clip[list(order)]


SHAMS = {
    "shuffled": lambda clip: clip[np.random.default_rng(len(clip)).permutation(len(clip))],
    "held for four, then jumped": lambda clip: clip[np.arange(len(clip)) // 4 * 4],
    "held for two, then jumped": lambda clip: clip[np.arange(len(clip)) // 2 * 2],
    "reversed": lambda clip: clip[::-1],
    "frozen": lambda clip: np.repeat(clip[:1], len(clip), axis=0),
    "one frame twice": in_order(*range(11), *range(10, 20)),
    "one frame left out": in_order(*range(10), *range(11, 21)),
    "two frames exchanged": in_order(*range(10), 11, 10, *range(12, 21)),
    "the last step back": in_order(*range(20), 18),
    "the first step back": in_order(2, *range(1, 21)),
}
"""What breaks the motion of a true render and leaves every frame as it is."""


@pytest.mark.parametrize("way", [as_it_is, through_h264])
@pytest.mark.parametrize("sham", SHAMS)
def test_frames_in_another_order_are_no_motion(sham: str, way):
    for seed, caption in enumerate(spread(6)):
        verdict = judge(way(SHAMS[sham](world.render(caption, seed, 21))), caption)
        assert (verdict.colour, verdict.shape, verdict.background) == (True, True, True)
        assert not verdict.direction or not verdict.speed
        assert not verdict.correct


def test_a_clip_in_random_order_has_no_direction():
    # Steps taken the short way round the torus have a mean of nearly nothing, which is right by chance along an axis.
    clips = ((world.render(c, i, 21), c, np.random.default_rng(i)) for i, c in enumerate(spread(200)))
    verdicts = [judge(clip[rng.permutation(21)], caption) for clip, caption, rng in clips]
    assert np.mean([v.direction for v in verdicts]) <= 1 / 8
    assert np.mean([v.speed for v in verdicts]) <= 1 / 2
    assert np.mean([v.frames["direction"] for v in verdicts]) < 1 / 2


@pytest.mark.parametrize(("order", "directed", "paced"), [((0, 1, 2, 2, 3, 4), 5, 5), ((0, 1, 2, 4, 5, 6), 6, 5)])
def test_a_bad_step_is_that_of_the_frame_it_leads_to(order: tuple[int, ...], directed: int, paced: int):
    caption = Caption("white", "circle", "slowly", "up", "black")
    verdict = judge(world.render(caption, 0, 8)[list(order)], caption)
    assert verdict.frames == pytest.approx(dict.fromkeys(PARTS, 1) | {"direction": directed / 6, "speed": paced / 6})
    assert verdict.frames_correct == pytest.approx(5 / 6)
    assert verdict.step_error == pytest.approx(1 / 5)


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


def moved(caption: Caption, places: np.ndarray) -> np.ndarray:
    """The shape of `caption` at `places` (y, x), which need not lie on pixels."""
    cover = world.coverage(caption.shape) / 256
    alpha = np.stack([ndimage.shift(cover, place, order=1, mode="grid-wrap") for place in places])[..., None]
    ink, paper = np.array(world.COLOURS[caption.colour]), np.array(world.BACKGROUNDS[caption.background])
    return np.round(alpha * ink + (1 - alpha) * paper).astype(np.uint8)


@pytest.mark.parametrize(
    ("step", "slow", "quick"),
    [(0.6, False, False), (0.75, True, False), (1.25, True, False), (1.4, False, False), (1.6, False, False),
     (1.75, False, True), (2.25, False, True), (2.4, False, False)],
)  # fmt: skip
def test_a_speed_between_the_two_is_neither(step: float, slow: bool, quick: bool):
    clip = moved(Caption("yellow", "circle", "slowly", "down", "navy"), np.outer(np.arange(21) * step, [1, 0]))
    for speed, paced in (("slowly", slow), ("quickly", quick)):
        verdict = judge(clip, Caption("yellow", "circle", speed, "down", "navy"))
        assert verdict.speed_measured == pytest.approx(step, abs=0.02)
        assert (verdict.direction, verdict.speed, verdict.correct) == (True, paced, paced)


@pytest.mark.parametrize(("wobble", "smooth"), [(0.2, True), (0.3, False)])
def test_steps_are_those_of_the_caption_to_half_a_pixel(wobble: float, smooth: bool):
    # A place that is off by `wobble` now to the one side, now to the other makes steps that are off by twice as much.
    caption = Caption("white", "square", "quickly", "to the left", "brown")
    time = np.arange(20)
    verdict = judge(moved(caption, np.stack([0 * time, -2 * time + wobble * (-1) ** time], axis=1)), caption)
    assert verdict.speed_measured == pytest.approx(2, abs=0.05)
    assert (verdict.direction, verdict.speed, verdict.correct) == (True, smooth, smooth)


def test_a_drift_across_the_direction_is_another_direction():
    caption = Caption("white", "square", "quickly", "to the left", "brown")
    for drift, straight in ((0.4, True), (0.6, False)):
        assert judge(moved(caption, np.outer(np.arange(20), [drift, -2])), caption).direction == straight


def test_a_diagonal_needs_the_speed_on_both_axes():
    caption = Caption("red", "circle", "slowly", "to the lower right", "black")
    still = world.render(caption, 2, 1)[0]
    clip = np.stack([np.roll(still, (2 * t, t), axis=(0, 1)) for t in range(21)])
    for speed in ("slowly", "quickly"):
        verdict = judge(clip, Caption("red", "circle", speed, "to the lower right", "black"))
        assert verdict.direction
        assert verdict.speed_measured == pytest.approx(1.5)
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


@pytest.mark.parametrize("frame", [0, 9, 19])
@pytest.mark.parametrize(("part", "word"), [("colour", "yellow"), ("background", "gray"), ("shape", "cross")])
@pytest.mark.parametrize("way", [as_it_is, through_h264])
def test_every_frame_must_hold(part: str, word: str, frame: int, way):
    caption = Caption("red", "square", "slowly", "down", "navy")
    clip = world.render(caption, 0, 20)
    clip[frame] = world.render(replace(caption, **{part: word}), 0, 20)[frame]
    verdict = judge(way(clip), caption)
    assert not verdict.correct
    assert {p for p in PARTS if not getattr(verdict, p)} == {part}
    assert verdict.frames == pytest.approx(dict.fromkeys(PARTS, 1) | {part: 19 / 20})
    assert verdict.frames_correct == pytest.approx(19 / 20)


def test_a_frame_without_the_shape_breaks_shape_and_motion():
    caption = Caption("blue", "triangle", "quickly", "to the left", "black")
    clip = world.render(caption, 0, 30)
    clip[[7, 8, 20]] = 0
    verdict = judge(clip, caption)
    assert [getattr(verdict, part) for part in PARTS] == [False, False, False, False, True]
    # Five steps lead from or to a blank frame; they count as none, 2 pixels short.
    assert verdict.frames == pytest.approx(
        {"colour": 0.9, "shape": 0.9, "direction": 25 / 30, "speed": 25 / 30, "background": 1}
    )
    assert verdict.frames_correct == pytest.approx(25 / 30)
    assert verdict.step_error == pytest.approx(5 * 2 / 29)
    assert verdict.speed_measured == pytest.approx(2.0)
    assert (verdict.shape_iou, verdict.shape_iou_worst) == (pytest.approx(0.9), 0.0)


@pytest.mark.parametrize("way", [as_it_is, through_h264])
def test_half_a_frame_of_another_background_is_another(way):
    caption = Caption("white", "circle", "slowly", "to the right", "black")
    clip = world.render(caption, 1, 12)
    paper = (clip == world.BACKGROUNDS["black"]).all(axis=3)
    paper[:, :, 18:] = False
    clip[paper] = world.BACKGROUNDS["navy"]
    for background in ("black", "navy"):
        assert not judge(way(clip), replace(caption, background=background)).background


@pytest.mark.parametrize("way", [as_it_is, through_h264])
def test_half_a_shape_of_another_colour_has_none(way):
    caption = Caption("green", "square", "slowly", "to the right", "black")
    clip = world.render(caption, 1, 12)
    y = world.start_position(1)[1]
    rows = (y + np.arange(1, 8)) % 32
    clip[:, rows] = world.render(replace(caption, colour="red"), 1, 12)[:, rows]
    for colour in ("green", "red"):
        assert not judge(way(clip), replace(caption, colour=colour)).colour


FIGURES = {
    "a ring": (lambda x, y: (x * x + y * y <= 64) & (x * x + y * y >= 16), "circle"),
    "an oblong": (lambda x, y: (abs(x) <= 9) & (abs(y) <= 5), "square"),
    "a small circle": (lambda x, y: x * x + y * y <= 6 * 6, "circle"),
    "a thin cross": (lambda x, y: np.minimum(abs(x), abs(y)) <= 1 + 0 * x, "cross"),
}


@pytest.mark.parametrize("name", FIGURES)
def test_another_figure_is_no_shape(name: str):
    inside, nearest = FIGURES[name]
    offsets = np.arange(32) - 16
    figure = np.where(inside(offsets[None, :], offsets[:, None])[..., None], np.uint8(255), np.uint8(16))
    clip = np.stack([np.roll(np.repeat(figure, 3, axis=2), t, axis=1) for t in range(12)])
    verdict = judge(clip, Caption("white", nearest, "slowly", "to the right", "black"))
    assert not verdict.shape
    assert verdict.frames["shape"] == 0


def test_two_shapes_of_the_world_overlap_less_than_a_shape_must():
    overlaps = [read(world.render(Caption("white", s, "slowly", "up", "black"), 0, 1)).overlap[0] for s in world.SHAPES]
    others = np.array(overlaps)[~np.eye(4, dtype=bool)]
    assert 0.79 < others.max() < MIN_IOU


def test_a_slice_of_a_reading_is_the_reading_of_the_slice():
    caption = spread(3)[2]
    clip = noisy(world.render(caption, 0, 24))
    assert hold(read(clip)[6:18], caption) == judge(clip[6:18], caption)
    assert isinstance(judge(clip, caption), Verdict)


def test_some_frames_are_judged_with_the_step_that_leads_to_them():
    caption = Caption("red", "circle", "slowly", "up", "black")
    clip = world.render(caption, 3, 24)
    clip[10:] = world.render(caption, 4, 24)[10:]
    reading = read(clip)
    assert hold(reading, caption, slice(0, 10)).correct
    assert hold(reading, caption, slice(11, 24)).correct
    after = hold(reading, caption, slice(10, 20))
    assert not after.correct
    assert after.frames_correct == pytest.approx(0.9)


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
