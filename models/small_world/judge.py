"""Reads a clip of the small world by rule, without a network, and holds it to a caption.

Each frame is read on its own (background, colour, shape, place), and a frame's motion is the step that leads to it; a
clip is right where every frame is. The rule knows the world's palette and shapes and nothing of how a clip was made.

The tolerances come from the world and from what H.264 does to it, never from what a model reaches: true renders that
were written and read again, also under noise, stay within every one (`tests/bench/bench_judge.py`, up to 0.42 pixels
off a step and down to an overlap of 0.83, both where the colours are as bright as the background).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from harness.errors import ClipError
from videomla_models.small_world import world
from videomla_models.small_world.world import BACKGROUNDS, COLOURS, DIRECTIONS, SHAPES, SIZE, SPEEDS, Caption

MIN_FRAMES = 4
"""Frames that a verdict needs; fewer do not define a speed."""

MIN_IOU = 0.8
"""Intersection over union with the template, up to which a blob is no shape: circle and square have 0.797."""

STEP_TOLERANCE = 0.5
"""Pixels along an axis by which a step may miss the caption's: nearer to it than to any other of whole pixels."""

SPEED_TOLERANCE = 0.3
"""Pixels per frame by which the mean step may miss the stated speed: halfway between both speeds, 1.5 is neither."""

PARTS = ("colour", "shape", "direction", "speed", "background")
"""What a caption says of a clip."""

_INK_PIXELS = 24
_MIN_CONTRAST = 60.0
_COLOUR_RADIUS = 80.0
_BACKGROUND_RADIUS = 36.0
_FAINT = 0.1
"""Coverage below which a pixel does not count towards the place: noise of the paper."""
_STRAY_PAPER = 1 / 8
"""Share of the frame that may lie outside the shape and yet be unlike the background. Soft edges are that unlike."""
_STRAY_INK = 1 / 4
"""Share of the shape that may be unlike every mixture of its colour and the background."""
_NOTHING = -1


@dataclass(frozen=True, slots=True)
class Reading:
    """What each frame shows, by itself; all arrays have the length of the clip.

    Attributes:
        background, colour, shape: index into `BACKGROUNDS`, `COLOURS`, `SHAPES`, or -1 where it is none of them.
        overlap: IoU with each shape at its best place, float64 [frames, 4].
        place: centre of the shape as (x, y) in pixels on the torus, float64 [frames, 2]; NaN without one.
    """

    background: NDArray[np.int64]
    colour: NDArray[np.int64]
    shape: NDArray[np.int64]
    overlap: NDArray[np.float64]
    place: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.background)

    def __getitem__(self, frames: slice) -> Reading:
        return Reading(
            self.background[frames], self.colour[frames], self.shape[frames], self.overlap[frames], self.place[frames]
        )

    def steps(self) -> NDArray[np.float64]:
        """Pixels as (x, y) from each frame to the next, the short way round the torus, float64 [frames - 1, 2].

        NaN where either of the two shows no shape.
        """
        return short_way(np.diff(self.place, axis=0))


def short_way(pixels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distances along an axis, the short way round the torus: from -16 to below 16."""
    return (pixels + SIZE / 2) % SIZE - SIZE / 2


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a clip shows each part of its caption in every frame, in how many it does, and how nearly.

    Attributes:
        colour, shape, direction, speed, background: whether every frame shows it. The motion of a frame is the step
            that leads to it, of a clip's first the one that leaves it. Of the speed, whether the mean step has it too.
        frames: share of the frames that show each of `PARTS`, 0 to 1.
        frames_correct: share of the frames that show all of them at once, 0 to 1.
        shape_iou: mean IoU with the stated shape over the frames, 0 to 1; `shape_iou_worst`: of the worst frame.
        speed_measured: mean pixels per frame along the axes that the clip moves on; 0 when it moves on none.
        step_error: mean distance in pixels of a step from the caption's; one that cannot be read counts as none.
    """

    colour: bool
    shape: bool
    direction: bool
    speed: bool
    background: bool
    frames: Mapping[str, float]
    frames_correct: float
    shape_iou: float
    shape_iou_worst: float
    speed_measured: float
    step_error: float

    @property
    def correct(self) -> bool:
        """All five parts at once, in every frame."""
        return self.colour and self.shape and self.direction and self.speed and self.background


def read(frames: NDArray[np.uint8]) -> Reading:
    """Read every frame of a clip, uint8 [frames, 32, 32, 3].

    Raises:
        ClipError: another size or dtype.
    """
    if frames.ndim != 4 or frames.shape[1:] != (SIZE, SIZE, 3) or frames.dtype != np.uint8:
        raise ClipError(
            f"the clip is {frames.dtype} {list(frames.shape)}: the small world is uint8 [frames, {SIZE}, {SIZE}, 3]",
            f"score only clips of {SIZE}x{SIZE} pixels with this metric",
        )
    # Colours first: every sum below then runs over pixels that lie side by side.
    pixels = np.ascontiguousarray(frames.reshape(-1, SIZE * SIZE, 3).transpose(0, 2, 1))
    paper = np.median(pixels, axis=2).astype(np.float32)
    away = pixels - paper[:, :, None]
    squared = (away * away).sum(axis=1)
    top = np.argpartition(squared, -_INK_PIXELS, axis=1)[:, -_INK_PIXELS:]
    contrast = np.sqrt(np.take_along_axis(squared, top, axis=1)).mean(axis=1)
    ink = np.take_along_axis(away, top[:, None, :], axis=2).mean(axis=2)
    seen = contrast >= _MIN_CONTRAST
    mask = (squared > (contrast[:, None] / 2) ** 2) & seen[:, None]
    coverage, unlike = _mixed(away, squared, ink)
    stray_paper = ((squared > _BACKGROUND_RADIUS**2) & ~mask).mean(axis=1) > _STRAY_PAPER
    stray_ink = ((unlike > _COLOUR_RADIUS**2) & mask).sum(axis=1) > _STRAY_INK * mask.sum(axis=1)
    overlap, _ = _shapes().overlap(mask.reshape(-1, SIZE, SIZE))
    return Reading(
        background=np.where(stray_paper, _NOTHING, _nearest(paper, BACKGROUNDS, _BACKGROUND_RADIUS)),
        colour=np.where(seen & ~stray_ink, _nearest(paper + ink, COLOURS, _COLOUR_RADIUS), _NOTHING),
        shape=np.where(seen & (overlap.max(axis=1) > MIN_IOU), overlap.argmax(axis=1), _NOTHING),
        overlap=overlap,
        place=centroid(np.where((coverage > _FAINT) & seen[:, None], coverage, 0).reshape(-1, SIZE, SIZE)),
    )


def _mixed(
    away: NDArray[np.float32], squared: NDArray[np.float32], ink: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Each pixel as the nearest mixture of background and ink: the ink's share, and the squared distance from it.

    All relative to the background. Soft edges are such mixtures, and stay so when H.264 halves the colours' resolution.
    """
    whole = np.maximum((ink * ink).sum(axis=1), 1)[:, None]
    along = np.matmul(ink[:, None, :], away)[:, 0]
    share = np.clip(along / whole, 0, 1)
    return share, squared - share * (2 * along - share * whole)


def _nearest(colours: NDArray[np.float32], named: dict[str, tuple[int, int, int]], radius: float) -> NDArray[np.int64]:
    distance = np.linalg.norm(colours[:, None, :] - np.array(list(named.values()))[None], axis=2)
    return np.where(distance.min(axis=1) <= radius, distance.argmin(axis=1), _NOTHING)


@dataclass(frozen=True, slots=True)
class Templates:
    """Masks that are sought in a picture: their spectra, conjugate, and their areas in pixels."""

    spectra: NDArray[np.complex64]
    areas: NDArray[np.int64]

    @classmethod
    def of(cls, masks: NDArray[np.bool_]) -> Templates:
        """From masks around pixel (16, 16), [templates, 32, 32]."""
        return cls(np.conj(fft.rfft2(masks.astype(np.float32))), masks.sum(axis=(1, 2)))

    def overlap(self, mask: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """IoU of each picture [frames, 32, 32] with each template at its best place, and that place as (x, y).

        Both for [frames, templates]; places are pixels on the torus, of what lies at (16, 16) of the template.
        """
        # Correlation theorem: one transform a frame and one a template give the intersection at all 1024 shifts. It
        # counts pixels, so rounding takes the error of the transforms away.
        products = fft.rfft2(mask.astype(np.float32))[:, None] * self.spectra[None]
        shifts = fft.irfft2(products, s=(SIZE, SIZE)).reshape(len(mask), len(self.areas), SIZE * SIZE)
        best = shifts.argmax(axis=2)
        both = np.rint(np.take_along_axis(shifts, best[..., None], axis=2)[..., 0].astype(np.float64))
        share: NDArray[np.float64] = both / (mask.sum(axis=(1, 2))[:, None] + self.areas[None] - both)
        return share, (np.stack([best % SIZE, best // SIZE], axis=-1) + SIZE // 2) % SIZE


@cache
def _shapes() -> Templates:
    return Templates.of(np.stack([world.coverage(shape) > world.FULL // 2 for shape in SHAPES]))


def centroid(weight: NDArray[Any]) -> NDArray[np.float64]:
    """Mean place of weights [frames, 32, 32] as (x, y), pixels on the torus; NaN where there is none."""
    # The mean direction on the circle does not care where the torus is cut.
    turn = np.exp(2j * np.pi * np.arange(SIZE) / SIZE)
    moments = np.stack([weight.sum(axis=1) @ turn, weight.sum(axis=2) @ turn], axis=1)
    place = np.angle(moments) * SIZE / (2 * np.pi) % SIZE
    return np.where(abs(moments) > 1e-3, place, np.nan)


def hold(reading: Reading, caption: Caption, frames: slice = slice(None)) -> Verdict:
    """The verdict on `frames` of a clip, or of a piece of one, that `read` has read and `caption` holds for.

    Raises:
        ClipError: fewer than `MIN_FRAMES` frames.
    """
    begin, end, _ = frames.indices(len(reading))
    if end - begin < MIN_FRAMES:
        raise ClipError(
            f"{end - begin} frames do not define a speed: the small world's rule reads {MIN_FRAMES} or more",
            "ask for longer clips",
        )
    by_part = {part: shares[begin:end] for part, shares in shown(reading, caption).items()}
    steps = reading.steps()[max(begin - 1, 0) : end - 1]
    legible = np.isfinite(steps.sum(axis=1))
    mean = abs(steps[legible].mean(axis=0)) if legible.any() else np.zeros(2)
    moving = mean[mean >= STEP_TOLERANCE]
    steady = len(moving) > 0 and bool((abs(moving - SPEEDS[caption.speed]) <= SPEED_TOLERANCE).all())
    overlap = reading.overlap[begin:end, SHAPES.index(caption.shape)]
    every = {part: bool(shares.all()) for part, shares in by_part.items()}
    return Verdict(
        **(every | {"speed": every["speed"] and steady}),
        frames={part: float(shares.mean()) for part, shares in by_part.items()},
        frames_correct=float(np.logical_and.reduce(list(by_part.values())).mean()),
        shape_iou=float(overlap.mean()),
        shape_iou_worst=float(overlap.min()),
        speed_measured=float(moving.mean()) if len(moving) else 0.0,
        step_error=float(np.hypot(*(np.where(legible[:, None], steps, 0) - caption.step).T).mean()),
    )


def shown(reading: Reading, caption: Caption) -> dict[str, NDArray[np.bool_]]:
    """The frames that show each of `PARTS`, bool [frames], of two or more frames.

    A step that cannot be read, NaN, shows nothing.
    """
    steps = reading.steps()
    pixels = np.abs(steps)
    moving = pixels >= STEP_TOLERANCE
    paced = abs(pixels - SPEEDS[caption.speed]) < STEP_TOLERANCE
    # The sign of what cannot be read is no number, and equals no direction.
    signs = np.where(moving | np.isnan(steps), np.sign(steps), 0)
    directed: NDArray[np.bool_] = np.all(signs == DIRECTIONS[caption.direction], axis=1)
    timely: NDArray[np.bool_] = np.any(moving, axis=1) & np.all(paced | ~moving, axis=1)
    return {
        "colour": reading.colour == list(COLOURS).index(caption.colour),
        "shape": reading.shape == SHAPES.index(caption.shape),
        "direction": np.concatenate([directed[:1], directed]),
        "speed": np.concatenate([timely[:1], timely]),
        "background": reading.background == list(BACKGROUNDS).index(caption.background),
    }


def judge(frames: NDArray[np.uint8], caption: Caption) -> Verdict:
    """The verdict on a whole clip, uint8 [frames, 32, 32, 3]. Raises as `read` and `hold` do."""
    return hold(read(frames), caption)
