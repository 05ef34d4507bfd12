"""The marked world: a small world of which the caption says too little, so that a model's cache must carry the rest.

Every shape bears a mark, 2 x 2 squares of black or white, and every background a pattern, 4 x 4 squares of two shades.
The seed draws both, and the caption says nothing of them. Captions are of four kinds, by what they add:

- `plain`: nothing.
- `covered`: a lid covers the shape while its centre is in the far half of its way across the frame, 8 or 16 frames
  of every 16 or 32: longer than the two recent frames that the small models keep. It starts uncovered.
- `pair`: a dot of another colour keeps its place beside the shape.
- `drift`: the background moves by a pixel a frame, so the first frame's is stale.

Pure numpy and integer arithmetic, as `videomla_models.small_world.world`, whose torus and held-out rule it shares.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import astuple, dataclass
from functools import cache, partial
from itertools import product
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from videomla_models.small_world.words import Words
from videomla_models.small_world.world import FULL, SIZE, SPEEDS, covered, kept_back, number

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (230, 40, 40),
    "green": (40, 205, 70),
    "blue": (70, 130, 255),
    "yellow": (245, 220, 50),
}
"""RGB of shapes and dots."""

BACKGROUNDS: dict[str, tuple[tuple[int, int, int], tuple[int, int, int]]] = {
    "navy": ((10, 15, 70), (40, 60, 155)),
    "brown": ((65, 35, 0), (130, 85, 30)),
    "gray": ((50, 50, 50), (115, 115, 115)),
}
"""RGB of the two shades of each background, the dark one first."""

INKS = ((0, 0, 0), (245, 245, 245))
"""RGB of a mark's squares."""
LID = (225, 60, 225)
"""RGB of the lid."""

SHAPES = ("circle", "bar", "pillar", "cross")
DIRECTIONS: dict[str, tuple[int, int]] = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
"""Signs of the step as (x to the right, y downwards)."""

Kind = Literal["plain", "covered", "pair", "drift"]
KINDS: tuple[Kind, ...] = ("plain", "covered", "pair", "drift")
COVERED = ", covered halfway"
DRIFTS = {", the camera drifts left": 1, ", the camera drifts right": -1}
"""Pixels per frame, to the right, by which the background moves."""
BESIDE = {"above": (0, -13), "below": (0, 13), "to its left": (-13, 0), "to its right": (13, 0)}
"""Pixels from the shape's centre to the dot's."""
DOTS = {f", a {colour} dot {where}": (colour, BESIDE[where]) for colour in COLOURS for where in BESIDE}
EXTRAS: dict[str, Kind] = {
    "": "plain",
    COVERED: "covered",
    **dict.fromkeys(DOTS, "pair"),
    **dict.fromkeys(DRIFTS, "drift"),
}
"""What a caption may add, and the kind that it is then of."""

CELL, CELLS = 8, 16
"""Side of a square of the pattern, and their number."""
MARK_CELL = 4
"""Side of a square of the mark."""
MARK_CELLS = 4
LID_REACH = 10
"""Pixels from the shape's centre to the lid's sides."""
GRID = 4
"""Pixels between the places where a shape may start: of a mark's square, and of a latent position."""
FIRST = 3
"""Frames of the first chunk, against which the later ones are judged."""

GRAMMAR = (
    "a COLOUR SHAPE moves SPEED DIRECTION on a BACKGROUND background"
    "[, covered halfway|, a COLOUR dot WHERE|, the camera drifts left|right]"
)
EXAMPLE = "a red circle moves slowly left on a navy background, a green dot above"

WORDS = Words.of(
    (*COLOURS, *SHAPES, *SPEEDS, *DIRECTIONS, *BACKGROUNDS, *EXTRAS),
    frozenset({"a", "moves", "on", "background", "halfway", "the", "camera", "to", "its", ",", "dot"}),
)
"""A caption fills at most seven ids."""


@dataclass(frozen=True, slots=True)
class Caption:
    """What a clip shows, and the text that says so. Raises `ValueError` for words that the world lacks.

    Attributes:
        extra: one of `EXTRAS`; a dot's colour is not the shape's.
    """

    colour: str
    shape: str
    speed: str
    direction: str
    background: str
    extra: str = ""

    def __post_init__(self) -> None:
        kinds: tuple[Collection[str], ...] = (COLOURS, SHAPES, SPEEDS, DIRECTIONS, BACKGROUNDS, EXTRAS)
        for name, value, kind in zip(self.__slots__, astuple(self), kinds, strict=True):
            if value not in kind:
                raise ValueError(f"{name} {value!r} is not one of: {', '.join(kind)}")
        if self.dot and self.dot[0] == self.colour:
            raise ValueError(f"the dot is {self.colour} as the {self.shape} is: give it another colour")

    def __str__(self) -> str:
        said = f"a {self.colour} {self.shape} moves {self.speed} {self.direction} on a {self.background} background"
        return said + self.extra

    @property
    def kind(self) -> Kind:
        """By what it adds."""
        return EXTRAS[self.extra]

    @property
    def dot(self) -> tuple[str, tuple[int, int]] | None:
        """Colour of the dot, and pixels (x, y) from the shape's centre to its own."""
        return DOTS.get(self.extra)

    @property
    def drift(self) -> int:
        """Pixels per frame, to the right, by which the background moves."""
        return DRIFTS.get(self.extra, 0)

    @property
    def step(self) -> tuple[int, int]:
        """Pixels per frame as (x to the right, y downwards)."""
        x, y = DIRECTIONS[self.direction]
        return x * SPEEDS[self.speed], y * SPEEDS[self.speed]

    @property
    def axis(self) -> int:
        """That it moves along: 0 is x, 1 is y."""
        return 0 if self.step[0] else 1

    @classmethod
    def parse(cls, text: str) -> Caption:
        """The caption that `text` states; letter case and the amount of white space do not matter.

        Raises:
            ValueError: `text` is no caption of this world; the message gives the grammar.
        """
        match = _pattern().fullmatch(" ".join(text.lower().split()))
        if match is None:
            shown = repr(text if len(text) <= 80 else text[:79] + "…")
            raise ValueError(
                f'{shown} is no caption of the marked world: it reads "{GRAMMAR}", as in "{EXAMPLE}", with '
                f"COLOUR {'|'.join(COLOURS)}, SHAPE {'|'.join(SHAPES)}, SPEED {'|'.join(SPEEDS)}, "
                f"DIRECTION {'|'.join(DIRECTIONS)}, BACKGROUND {'|'.join(BACKGROUNDS)}, WHERE {'|'.join(BESIDE)}"
            )
        return cls(*match.groups())


@cache
def _pattern() -> re.Pattern[str]:
    colour, shape, speed, direction, background, extra = (
        "(" + "|".join(words) + ")" for words in (COLOURS, SHAPES, SPEEDS, DIRECTIONS, BACKGROUNDS, EXTRAS)
    )
    return re.compile(f"a {colour} {shape} moves {speed} {direction} on a {background} background{extra}")


@cache
def all_captions(kind: Kind) -> tuple[Caption, ...]:
    """Every caption of a kind, in a fixed order."""
    extras = [extra for extra, its_kind in EXTRAS.items() if its_kind == kind]
    words = product(COLOURS, SHAPES, SPEEDS, DIRECTIONS, BACKGROUNDS, extras)
    return tuple(Caption(*said) for said in words if DOTS.get(said[5], ("", ()))[0] != said[0])


@cache
def held_out(kind: Kind) -> tuple[Caption, ...]:
    """The tenth or so of `all_captions` that training never shows."""
    return tuple(caption for caption in all_captions(kind) if kept_back(str(caption)))


@cache
def training_captions(kind: Kind) -> tuple[Caption, ...]:
    """`all_captions` without `held_out`, in the same order."""
    return tuple(caption for caption in all_captions(kind) if not kept_back(str(caption)))


# ------------------------------------------------------------------------------------- what a seed draws


def start_position(caption: Caption, seed: int) -> tuple[int, int]:
    """Pixel (x, y) of the shape's centre in frame 0, multiples of `GRID`; no lid comes within the first chunk.

    The axis that it does not move along stays on the grid, so that a mark lies in few ways across a network's patches.
    """
    place = number(f"start: {seed}")
    step = np.array(caption.step)[:, None, None] * np.arange(FIRST)
    line = np.arange(0, SIZE, GRID)[:, None]
    start = []
    for axis in (0, 1):
        hidden = under_lid(line + step[axis]).any(axis=1)
        open_for_long = line[~hidden | (caption.kind != "covered" or axis != caption.axis), 0]
        start.append(int(open_for_long[(place >> 16 * axis) % len(open_for_long)]))
    return start[0], start[1]


def under_lid(place: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether a lid covers a shape whose centre is at `place` on the axis that it moves along; any shape, pixels."""
    return np.asarray(place % SIZE >= SIZE // 2)


def mark(seed: int) -> tuple[int, ...]:
    """Which of `INKS` each square of the mark has, row by row."""
    bits = number(f"mark: {seed}")
    return tuple(bits >> cell & 1 for cell in range(MARK_CELLS))


def pattern(seed: int) -> tuple[int, ...]:
    """Which shade each square of the background has, row by row: 1 is the light one."""
    bits = number(f"pattern: {seed}")
    return tuple(bits >> cell & 1 for cell in range(CELLS))


# ---------------------------------------------------------------------------------------------- pictures


@cache
def coverage(shape: str) -> NDArray[np.int64]:
    """As `world.coverage`: of a shape, or of a `dot`."""
    return covered(partial(_inside, shape))


def _inside(shape: str, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.bool_]:
    # Multiples of 1/4 off the middle and the edges of pixels: no pixel is half covered.
    if shape == "circle":
        return np.asarray(x * x + y * y <= 8.75 * 8.75)
    if shape == "bar":
        return np.asarray((abs(x) <= 9.75) & (abs(y) <= 5.75))
    if shape == "pillar":
        return np.asarray((abs(x) <= 5.75) & (abs(y) <= 9.75))
    if shape == "cross":
        near, far = np.minimum(abs(x), abs(y)), np.maximum(abs(x), abs(y))
        return np.asarray((near <= 3.75) & (far <= 9.75))
    if shape == "dot":
        return np.asarray(x * x + y * y <= 2.75 * 2.75)
    raise ValueError(f"shape {shape!r} is not one of: {', '.join(SHAPES)}, dot")


@cache
def mark_square() -> NDArray[np.int64]:
    """Number of the mark's square that each pixel around (16, 16) belongs to, -1 outside of it: int64 [32, 32]."""
    line = (np.arange(SIZE) - SIZE // 2 + MARK_CELL) // MARK_CELL
    inside = (line >= 0) & (line < 2)
    square: NDArray[np.int64] = np.where(inside[:, None] & inside[None], 2 * line[:, None] + line[None], -1)
    return square


def render_batch(
    captions: Sequence[Caption], seeds: Sequence[int], times: NDArray[np.int64]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Frames of clips, and which of their pixels are not background.

    Args:
        captions, seeds: one for each clip. times: numbers of the frames wanted of each, int64 [batch, frames].

    Returns:
        uint8 [batch, frames, 32, 32, 3] and bool [batch, frames, 32, 32].

    Raises:
        ValueError: the lengths differ.
    """
    if not len(captions) == len(seeds) == len(times):
        raise ValueError(f"{len(captions)} captions, {len(seeds)} seeds, times of {len(times)} clips: give one each")
    clips = np.zeros((*times.shape, SIZE, SIZE, 3), np.uint8)
    figure = np.zeros(clips.shape[:-1], np.bool_)
    for index, (caption, seed) in enumerate(zip(captions, seeds, strict=True)):
        clips[index], figure[index] = _render(caption, seed, times[index])
    return clips, figure


def _render(caption: Caption, seed: int, times: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    line = np.arange(SIZE)
    column = ((line - caption.drift * times[:, None]) % SIZE // CELL)[:, None, :]
    shade = np.array(pattern(seed))[line[:, None] // CELL * (SIZE // CELL) + column]
    frames = np.array(BACKGROUNDS[caption.background], np.int32)[shade]
    centre = np.array(start_position(caption, seed)) + times[:, None] * np.array(caption.step)
    figure = np.zeros(frames.shape[:-1], np.bool_)

    def paint(cover: NDArray[np.int64], colours: NDArray[np.int64], away: tuple[int, int] = (0, 0)) -> None:
        """Lay `colours`, [3] or [32, 32, 3] around (16, 16), over the frames, at the shape's centre and `away`."""
        nonlocal frames, figure
        column, row = ((line - (centre[:, axis, None] + away[axis]) + SIZE // 2) % SIZE for axis in (0, 1))
        alpha = cover.astype(np.int32)[row[:, :, None], column[:, None, :]][..., None]
        laid = colours.astype(np.int32)
        if laid.ndim > 1:
            laid = laid[row[:, :, None], column[:, None, :]]
        frames = (laid * alpha + frames * (FULL - alpha) + FULL // 2) // FULL
        figure = figure | (alpha[..., 0] > 0)

    paint(coverage(caption.shape), np.array(COLOURS[caption.colour]))
    paint(np.where(mark_square() < 0, 0, FULL), np.array(INKS)[np.array(mark(seed))[mark_square()]])
    if caption.dot:
        paint(coverage("dot"), np.array(COLOURS[caption.dot[0]]), caption.dot[1])
    if caption.kind == "covered":
        reach = abs(line - SIZE // 2) <= LID_REACH
        hidden = under_lid(centre[:, caption.axis])[:, None, None]
        open_frames, open_figure = frames, figure
        paint(np.where(reach[:, None] & reach[None], FULL, 0), np.array(LID))
        frames = np.where(hidden[..., None], frames, open_frames)
        figure = np.where(hidden, figure, open_figure)
    return frames.astype(np.uint8), figure


def render(caption: Caption, seed: int, frames: int) -> NDArray[np.uint8]:
    """The clip of `caption` and `seed`, uint8 [frames, 32, 32, 3]."""
    clip: NDArray[np.uint8] = render_batch([caption], [seed], np.arange(frames)[None])[0][0]
    return clip
