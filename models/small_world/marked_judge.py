"""Reads a clip of the marked world by rule, without a network: what its caption says, and what it keeps of its start.

Each frame is read on its own, against the world's colours and figures alone. What is kept is held to the clip's own
first chunk, since the caption says nothing of it; what that chunk did not show, or hid, counts for nothing.

By chance a foreign mark is right in 1 of 16 frames and a square of a foreign background in 1 of 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from harness.errors import ClipError
from videomla_models.small_world import marked
from videomla_models.small_world.judge import STEP_TOLERANCE, Templates, centroid, short_way
from videomla_models.small_world.marked import (
    BACKGROUNDS,
    CELL,
    COLOURS,
    FIRST,
    INKS,
    LID,
    LID_REACH,
    MARK_CELL,
    SHAPES,
    Caption,
)
from videomla_models.small_world.world import FULL, SIZE

MIN_FRAMES = 2 * FIRST
"""Frames that a verdict needs: a first chunk, and another one that is held to it."""

MIN_IOU = 0.65
"""Overlap with a template, the mark left out, up to which a blob is no shape: circle and cross have 0.61."""

LONG = 6
"""Frames under the lid after which the window of recent frames holds none that shows the shape."""

PARTS = ("colour", "shape", "motion", "background", "extra")
"""What a caption says of a frame; `extra` is that the lid or the dot is where it should be, or nowhere."""

_LID_TOLERANCE = 2.0
"""Pixels from the place where the lid comes or goes within which a frame may have it or not."""
_DOT_TOLERANCE = 1.5
_MIN_INK, _MIN_DOT, _MIN_LID = 60, 10, (2 * LID_REACH + 1) ** 2 // 2
"""Pixels of a colour that make a shape, a dot, a lid."""
_INK_RADIUS = 80.0
_FAINT = 0.1
"""Share of the shape's colour below which a pixel does not count towards its place: noise of the background."""
_SHADE_RADIUS = 36.0
_MARK_CONTRAST = 48.0
"""Least distance of a mark's square from the middle gray, over its colours' mean: plain colours come less far."""
_MIN_OPEN = 12
"""Pixels of a square of the pattern that must lie open to be read, of the 36 within its edge."""
_MIN_SQUARES = 0.9
"""Share of the open squares that must have a shade of the stated background."""

_INK = np.array(
    [*COLOURS.values(), LID, *INKS, *(shade for shades in BACKGROUNDS.values() for shade in shades)], np.float32
)
_LID, _SHADES = len(COLOURS), len(COLOURS) + 1 + len(INKS)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of each frame what it shows of its caption, and what of the clip's first chunk.

    Attributes:
        parts: whether it shows each of `PARTS`, bool [frames].
        step_error: pixels by which the step to a frame misses the caption's, float64 [frames - 1]; NaN where it cannot
            be read.
        hidden: whether a lid covers the shape, bool [frames].
        mark: whether the whole mark is the first chunk's, float64 [frames]; NaN under a lid that the caption speaks of.
        pattern: share of the squares that lie open, and did in the first chunk, whose shade is the same, float64
            [frames]; NaN where there are none.
        drawn: whether the first chunk shows a mark of two colours, on which all its frames agree: shapes without a mark
            or with an unsteady one do not. Of true renders 7 in 8 do, as 1 mark in 8 has one colour.
        light: share of the light squares of the first chunk's mark and pattern; NaN where none can be read.
    """

    parts: dict[str, NDArray[np.bool_]]
    step_error: NDArray[np.float64]
    hidden: NDArray[np.bool_]
    mark: NDArray[np.float64]
    pattern: NDArray[np.float64]
    drawn: bool
    light: tuple[float, float]

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether a frame shows all of its caption, bool [frames]."""
        every: NDArray[np.bool_] = np.all(list(self.parts.values()), axis=0)
        return every

    @property
    def kept(self) -> NDArray[np.bool_]:
        """Whether it also has the whole mark, if that is not covered, and every square of the background."""
        # A frame without any square, or with an uncovered shape without a mark, keeps nothing.
        mark = np.where(np.isnan(self.mark), self.hidden, self.mark == 1)
        return np.asarray(self.correct & mark & (self.pattern == 1))

    def after_occlusion(self) -> float:
        """Share of the open frames after the lid has gone, having covered `LONG` frames or more, that have the mark.

        0 where there are none of them.
        """
        edges = np.flatnonzero(np.diff(np.concatenate([[False], self.hidden, [False]]).astype(int)))
        ends = [stop for start, stop in zip(edges[::2], edges[1::2], strict=True) if stop - start >= LONG]
        after = self.mark[min(ends, default=len(self.mark)) :]
        after = after[~np.isnan(after)]
        return float(after.mean()) if len(after) else 0.0


@dataclass(frozen=True, slots=True)
class _Figures:
    """The moving things of each frame: number of the shape's colour and of the shape, or -1; place of the centre."""

    colour: NDArray[np.int64]
    shape: NDArray[np.int64]
    place: NDArray[np.float64]
    hidden: NDArray[np.bool_]


def judge(frames: NDArray[np.uint8], caption: Caption) -> Verdict:
    """The verdict on a whole clip, uint8 [frames, 32, 32, 3].

    Raises:
        ClipError: another size or dtype, or fewer than `MIN_FRAMES` frames.
    """
    if frames.ndim != 4 or frames.shape[1:] != (SIZE, SIZE, 3) or frames.dtype != np.uint8:
        raise ClipError(
            f"the clip is {frames.dtype} {list(frames.shape)}: the marked world is uint8 [frames, {SIZE}, {SIZE}, 3]",
            f"score only clips of {SIZE}x{SIZE} pixels with this metric",
        )
    if len(frames) < MIN_FRAMES:
        raise ClipError(
            f"{len(frames)} frames have no later chunk to hold to the first: the rule reads {MIN_FRAMES} or more",
            "ask for longer clips",
        )
    pixels = frames.astype(np.float32)
    distance = ((pixels[..., None, :] - _INK) ** 2).sum(axis=-1)
    labels = np.where(distance.min(axis=-1) <= _INK_RADIUS**2, distance.argmin(axis=-1), -1)
    seen = _figures(pixels, labels)
    mark, pattern, shade = _marks(pixels, seen), *_squares(pixels, caption, seen)
    steps = short_way(np.diff(seen.place, axis=0))
    missed = np.linalg.norm(steps - caption.step, axis=1)
    right = np.asarray((abs(steps - caption.step) < STEP_TOLERANCE).all(axis=1))
    stated = shade // 2 == list(BACKGROUNDS).index(caption.background)
    parts = {
        "colour": (seen.colour == list(COLOURS).index(caption.colour)) | seen.hidden,
        "shape": (seen.shape == SHAPES.index(caption.shape)) | seen.hidden,
        "motion": np.concatenate([right[:1], right]),
        "background": stated.sum(axis=1) >= np.maximum(1, _MIN_SQUARES * (shade > -2).sum(axis=1)),
        "extra": _lid(seen, caption) & _dot(labels, seen, caption),
    }
    first_mark, first_pattern = _agreed(mark[:FIRST]), _agreed(pattern[:FIRST])
    same_mark = ((mark == first_mark) & (first_mark >= 0)).all(axis=1).astype(np.float64)
    mark_seen = np.where(seen.hidden & (caption.kind == "covered"), np.nan, same_mark)
    both = (pattern > -2) & (first_pattern > -2)
    same = (pattern == first_pattern) & (first_pattern >= 0) & both
    with np.errstate(invalid="ignore"):
        squares = same.sum(axis=1) / both.sum(axis=1)
    light = tuple(
        float(bits[bits >= 0].mean()) if (bits >= 0).any() else np.nan for bits in (first_mark, first_pattern)
    )
    drawn = bool(first_mark.min() == 0 and first_mark.max() == 1)
    return Verdict(parts, missed, seen.hidden, mark_seen, squares, drawn, (light[0], light[1]))


@cache
def _templates() -> Templates:
    """Shapes without their mark."""
    cover = np.stack([marked.coverage(shape) for shape in SHAPES])
    return Templates.of((cover > FULL // 2) & (marked.mark_square() < 0))


def _figures(pixels: NDArray[np.float32], labels: NDArray[np.int64]) -> _Figures:
    """From frames, float32 [frames, 32, 32, 3], and the number of each pixel's colour in `_INK`, [frames, 32, 32]."""
    counts = np.stack([(labels == colour).sum(axis=(1, 2)) for colour in range(len(_INK))], axis=1)
    inks = counts[:, : len(COLOURS)]
    colour = np.where(inks.max(axis=1) >= _MIN_INK, inks.argmax(axis=1), -1)
    overlap, places = _templates().overlap((labels == colour[:, None, None]) & (colour >= 0)[:, None, None])
    best = overlap.argmax(axis=1)
    shape = np.where(overlap.max(axis=1) > MIN_IOU, best, -1)
    near = places[np.arange(len(best)), best]
    backgrounds = counts[:, _SHADES:].reshape(len(pixels), -1, 2).sum(axis=2).argmax(axis=1)
    shades = _INK[_SHADES:].reshape(-1, 2, 3)[backgrounds]
    place = np.where((colour >= 0)[:, None], near + _centre(pixels, _INK[colour], shades, near), np.nan)
    lid = labels == _LID
    hidden = counts[:, _LID] >= _MIN_LID
    return _Figures(colour, shape, np.where(hidden[:, None], centroid(lid), place), hidden)


def _centre(
    pixels: NDArray[np.float32], ink: NDArray[np.float32], shades: NDArray[np.float32], near: NDArray[np.int64]
) -> NDArray[np.float64]:
    """How far a shape's mean place is from `near`, pixels as (x, y), float64 [frames, 2].

    Each pixel counts by its share of the shape's colour: it is the nearest mixture of `ink` [frames, 3] and one of two
    `shades` [frames, 2, 3]. Such mixtures stay ones when H.264 halves the resolution of colours.
    """
    reach = np.arange(-LID_REACH - 1, LID_REACH + 2)
    column, row = ((near[:, axis, None] + reach) % SIZE for axis in (0, 1))
    seen = pixels[np.arange(len(pixels))[:, None, None], row[:, :, None], column[:, None, :]]
    whole = ink[:, None] - shades
    away = seen[:, None] - shades[:, :, None, None]
    share = np.clip(
        np.einsum("fsyxc,fsc->fsyx", away, whole) / np.maximum((whole**2).sum(-1), 1)[..., None, None], 0, 1
    )
    unlike = ((away - share[..., None] * whole[:, :, None, None]) ** 2).sum(-1)
    weight = np.take_along_axis(share, unlike.argmin(axis=1)[:, None], axis=1)[:, 0].astype(np.float64)
    middle = (reach >= -MARK_CELL) & (reach < MARK_CELL)
    weight[:, middle[:, None] & middle] = 1
    weight[weight < _FAINT] = 0
    moments = [np.einsum("fyx,x->f", weight, reach), np.einsum("fyx,y->f", weight, reach)]
    return np.asarray(np.stack(moments, axis=1) / weight.sum(axis=(1, 2))[:, None])


def _window(image: NDArray[np.float32], place: NDArray[np.float64]) -> NDArray[np.float32]:
    """The frame rolled so that `place` comes to lie at pixel (16, 16)."""
    x, y = (SIZE // 2 - np.rint(place).astype(int)).tolist()
    return np.roll(image, (y, x), axis=(0, 1))


def _marks(pixels: NDArray[np.float32], seen: _Figures) -> NDArray[np.int64]:
    """Each square of each frame's mark: 0, 1, or -1 where it cannot be read; int64 [frames, 4]."""
    marks = np.full((len(pixels), marked.MARK_CELLS), -1)
    for index, (image, place) in enumerate(zip(pixels, seen.place, strict=True)):
        if np.isnan(place).any() or seen.hidden[index]:
            continue
        low, high = SIZE // 2 - MARK_CELL, SIZE // 2 + MARK_CELL
        squares = _window(image, place)[low:high, low:high].reshape(2, MARK_CELL, 2, MARK_CELL, 3)
        # A pixel at the edges is left out: it may be mixed with the next square.
        brightness = squares[:, 1:-1, :, 1:-1].mean(axis=(1, 3, 4)).ravel() - 127.5
        marks[index] = np.where(abs(brightness) >= _MARK_CONTRAST, brightness > 0, -1)
    return marks


@cache
def _near() -> NDArray[np.bool_]:
    """Pixels that a shape, its mark or its soft edges may cover, around (16, 16)."""
    covered = np.any([marked.coverage(shape) > 0 for shape in SHAPES], axis=0)
    near: NDArray[np.bool_] = np.any(
        [np.roll(covered, (y, x), axis=(0, 1)) for x in (-1, 0, 1) for y in (-1, 0, 1)], axis=0
    )
    return near


def _squares(
    pixels: NDArray[np.float32], caption: Caption, seen: _Figures
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Each square of each frame's pattern, as it lay in frame 0; int64 [frames, 16] both.

    Returns:
        0, 1, -1 where it has no shade, -2 where it is covered; and the number of its shade among those of all
        backgrounds, or the same.
    """
    shades = np.full((len(pixels), marked.CELLS), -2)
    row, column = np.indices((SIZE, SIZE)) - SIZE // 2
    block = (abs(row) <= LID_REACH + 1) & (abs(column) <= LID_REACH + 1)
    dot = (0, 0) if caption.dot is None else caption.dot[1]
    beside = np.roll((row**2 + column**2 <= 4.5**2) & (caption.dot is not None), dot[::-1], axis=(0, 1))
    for index, (image, place) in enumerate(zip(pixels, seen.place, strict=True)):
        covered = np.zeros((SIZE, SIZE), np.bool_)
        if not np.isnan(place).any():
            x, y = (np.rint(place).astype(int) - SIZE // 2).tolist()
            covered = np.roll((block if seen.hidden[index] else _near()) | beside, (y, x), axis=(0, 1))
        away = -caption.drift * index
        inner = (slice(None), slice(1, -1), slice(None), slice(1, -1))
        cells = SIZE // CELL
        open_ = ~np.roll(covered, away, axis=1).reshape(cells, CELL, cells, CELL)[inner]
        inside = np.roll(image, away, axis=1).reshape(cells, CELL, cells, CELL, 3)[inner]
        count = open_.sum(axis=(1, 3))
        mean = (inside * open_[..., None]).sum(axis=(1, 3)) / np.maximum(count, 1)[..., None]
        distance = np.linalg.norm(mean[..., None, :] - _INK[_SHADES:], axis=-1)
        shade = np.where(distance.min(axis=-1) <= _SHADE_RADIUS, distance.argmin(axis=-1), -1)
        shades[index] = np.where(count >= _MIN_OPEN, shade, -2).ravel()
    return np.where(shades < 0, shades, shades % 2), shades


def _agreed(bits: NDArray[np.int64]) -> NDArray[np.int64]:
    """What frames that can be read agree on, int64 [frames, squares] to [squares]: -1 where they differ or none can.

    -2 where all frames have it covered.
    """
    low = np.where(bits > -2, bits, 1).min(axis=0)
    agreed = np.where(low == bits.max(axis=0), low, -1)
    return np.where((bits > -2).any(axis=0), agreed, -2)


def _lid(seen: _Figures, caption: Caption) -> NDArray[np.bool_]:
    """Whether each frame has a lid where there must be one, and none where there must not."""
    if caption.kind != "covered":
        return ~seen.hidden
    along = seen.place[:, caption.axis]
    early, late = (marked.under_lid(along + away) for away in (-_LID_TOLERANCE, _LID_TOLERANCE))
    return np.asarray((seen.hidden == early) | (seen.hidden == late))


def _dot(labels: NDArray[np.int64], seen: _Figures, caption: Caption) -> NDArray[np.bool_]:
    """Whether each frame has the stated dot at its place, or none of any colour."""
    right = np.ones(len(labels), np.bool_)
    for colour, name in enumerate(COLOURS):
        mask = labels == colour
        there = mask.sum(axis=(1, 2)) >= _MIN_DOT
        if caption.dot and name == caption.dot[0]:
            missed = abs(short_way(centroid(mask) - seen.place - caption.dot[1]))
            right &= there & (missed <= _DOT_TOLERANCE).all(axis=1)
        elif name != caption.colour:
            right &= ~there
    return right
