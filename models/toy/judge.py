"""Reads a clip of the small world by rule, without a network, and holds it to a caption.

Each frame is read on its own (background, colour, shape, place); a clip is right where enough of its frames are.
The rule knows the world's palette and shapes and nothing of how a clip was made.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from harness.errors import ClipError
from models.toy import world
from models.toy.world import BACKGROUNDS, COLOURS, DIRECTIONS, SHAPES, SIZE, SPEEDS, Caption

MIN_FRAMES = 4
"""Frames that a verdict needs; fewer do not define a speed."""

SHARE = 0.8
"""Share of the frames that must show the stated colour, shape and background."""

MIN_IOU = 0.65
"""Intersection over union with the template, below which a blob is no shape."""

MOVING = 0.4
"""Mean pixels per frame along an axis, above which a clip moves along it."""

SPEED_TOLERANCE = 0.3
"""Pixels per frame: a blur of both speeds at 1.5 is neither."""

_INK_PIXELS = 24
_MIN_CONTRAST = 60.0
_COLOUR_RADIUS = 80.0
_BACKGROUND_RADIUS = 36.0
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

    def velocity(self) -> tuple[float, float]:
        """Mean pixels per frame as (x, y) between neighbouring frames, each taken the short way round the torus.

        NaN where no two neighbours show a shape.
        """
        steps = np.diff(self.place, axis=0)
        steps = steps[~np.isnan(steps).any(axis=1)]
        if not len(steps):
            return float("nan"), float("nan")
        x, y = ((steps + SIZE / 2) % SIZE - SIZE / 2).mean(axis=0)
        return float(x), float(y)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a clip shows each part of its caption, and how nearly.

    Attributes:
        shape_iou: mean IoU with the stated shape over the frames, 0 to 1.
        speed_measured: mean pixels per frame along the axes that the clip moves on; 0 when it moves on none.
    """

    colour: bool
    shape: bool
    direction: bool
    speed: bool
    background: bool
    shape_iou: float
    speed_measured: float

    @property
    def correct(self) -> bool:
        """All five parts at once."""
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
    pixels = frames.reshape(len(frames), SIZE * SIZE, 3).astype(np.float64)
    paper = np.median(pixels, axis=1)
    distance = np.linalg.norm(pixels - paper[:, None, :], axis=2)
    top = np.argpartition(distance, -_INK_PIXELS, axis=1)[:, -_INK_PIXELS:]
    contrast = np.take_along_axis(distance, top, axis=1).mean(axis=1)
    ink = np.take_along_axis(pixels, top[:, :, None], axis=1).mean(axis=1)
    seen = contrast >= _MIN_CONTRAST
    mask = (distance > contrast[:, None] / 2).reshape(-1, SIZE, SIZE) & seen[:, None, None]
    overlap = _overlap(mask)
    best = overlap.argmax(axis=1)
    return Reading(
        background=_nearest(paper, BACKGROUNDS, _BACKGROUND_RADIUS),
        colour=np.where(seen, _nearest(ink, COLOURS, _COLOUR_RADIUS), _NOTHING),
        shape=np.where(seen & (overlap.max(axis=1) > MIN_IOU), best, _NOTHING),
        overlap=overlap,
        place=_place(mask),
    )


def _nearest(found: NDArray[np.float64], named: dict[str, tuple[int, int, int]], radius: float) -> NDArray[np.int64]:
    distance = np.linalg.norm(found[:, None, :] - np.array(list(named.values()))[None], axis=2)
    return np.where(distance.min(axis=1) <= radius, distance.argmin(axis=1), _NOTHING)


@cache
def _templates() -> tuple[NDArray[np.complex128], NDArray[np.int64]]:
    masks = np.stack([world.coverage(shape) > world.FULL // 2 for shape in SHAPES])
    return np.conj(np.fft.rfft2(masks)), masks.sum(axis=(1, 2))


def _overlap(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    # Correlation theorem: one transform a frame and one a shape give the intersection at all 1024 shifts.
    spectra, areas = _templates()
    both = np.fft.irfft2(np.fft.rfft2(mask)[:, None] * spectra[None], s=(SIZE, SIZE)).max(axis=(2, 3))
    share: NDArray[np.float64] = both / (mask.sum(axis=(1, 2))[:, None] + areas[None] - both)
    return share


def _place(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    # The mean direction on the circle: a centroid that does not care where the torus is cut.
    turn = np.exp(2j * np.pi * np.arange(SIZE) / SIZE)
    moments = np.stack([mask.sum(axis=1) @ turn, mask.sum(axis=2) @ turn], axis=1)
    place = np.angle(moments) * SIZE / (2 * np.pi) % SIZE
    return np.where(abs(moments) > 1e-6, place, np.nan)


def hold(reading: Reading, caption: Caption) -> Verdict:
    """The verdict on a clip, or on a slice of one, that `read` has read.

    Raises:
        ClipError: fewer than `MIN_FRAMES` frames.
    """
    if len(reading) < MIN_FRAMES:
        raise ClipError(
            f"{len(reading)} frames do not define a speed: the small world's rule reads {MIN_FRAMES} or more",
            "ask for longer clips",
        )
    velocity = reading.velocity()
    moving = [abs(v) for v in velocity if abs(v) > MOVING]
    signs = tuple((v > MOVING) - (v < -MOVING) for v in velocity)
    stated = SPEEDS[caption.speed]
    shape = SHAPES.index(caption.shape)
    return Verdict(
        colour=_holds(reading.colour, list(COLOURS).index(caption.colour)),
        shape=_holds(reading.shape, shape),
        direction=signs == DIRECTIONS[caption.direction],
        speed=bool(moving) and all(abs(v - stated) <= SPEED_TOLERANCE for v in moving),
        background=_holds(reading.background, list(BACKGROUNDS).index(caption.background)),
        shape_iou=float(reading.overlap[:, shape].mean()),
        speed_measured=float(np.mean(moving)) if moving else 0.0,
    )


def _holds(found: NDArray[np.int64], stated: int) -> bool:
    return bool((found == stated).mean() >= SHARE)


def judge(frames: NDArray[np.uint8], caption: Caption) -> Verdict:
    """The verdict on a whole clip, uint8 [frames, 32, 32, 3]. Raises as `read` and `hold` do."""
    return hold(read(frames), caption)
