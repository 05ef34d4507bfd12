"""The small world: 32x32 clips of one coloured shape that moves over a plain background, and their captions.

Pure numpy and integer arithmetic, so that (caption, seed) gives the same bytes on every machine.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import astuple, dataclass
from functools import cache, partial
from itertools import product

import numpy as np
from numpy.typing import NDArray

from harness.system.digests import digest
from videomla_models.small_world.words import Words

SIZE = 32
"""Height and width of a frame, in pixels. The frame is a torus: what leaves on one side enters on the other."""

FRAME_RATE = 8.0
"""Nominal frames per second of the clips."""

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (230, 40, 40),
    "green": (40, 205, 70),
    "blue": (70, 130, 255),
    "yellow": (245, 220, 50),
    "magenta": (225, 60, 225),
    "white": (240, 240, 240),
}
"""RGB of the shapes, each at least 100 away from every other and from every background."""

BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "black": (16, 16, 16),
    "navy": (20, 30, 95),
    "gray": (90, 90, 90),
    "brown": (95, 55, 20),
}
"""RGB of the backgrounds."""

SHAPES = ("circle", "square", "triangle", "cross")

DIRECTIONS: dict[str, tuple[int, int]] = {
    "to the left": (-1, 0),
    "to the right": (1, 0),
    "up": (0, -1),
    "down": (0, 1),
    "to the upper left": (-1, -1),
    "to the upper right": (1, -1),
    "to the lower left": (-1, 1),
    "to the lower right": (1, 1),
}
"""Signs of the step as (x to the right, y downwards)."""

SPEEDS: dict[str, int] = {"slowly": 1, "quickly": 2}
"""Pixels per frame along each axis that the shape moves on."""

GRAMMAR = "a COLOUR SHAPE moves SPEED DIRECTION on a BACKGROUND background"
EXAMPLE = "a red circle moves slowly to the left on a navy background"

_SUBSAMPLES = 16

FULL = _SUBSAMPLES**2
"""What `coverage` counts for a pixel that lies inside the shape."""

_SILENT = frozenset({"a", "moves", "to", "the", "on", "background"})

WORDS = Words.of((phrase for group in (COLOURS, SHAPES, SPEEDS, DIRECTIONS, BACKGROUNDS) for phrase in group), _SILENT)
"""A caption fills at most six ids."""


@dataclass(frozen=True, slots=True)
class Caption:
    """What a clip shows, and the text that says so. Raises `ValueError` for a word that the world lacks."""

    colour: str
    shape: str
    speed: str
    direction: str
    background: str

    def __post_init__(self) -> None:
        kinds: tuple[Collection[str], ...] = (COLOURS, SHAPES, SPEEDS, DIRECTIONS, BACKGROUNDS)
        for name, value, kind in zip(self.__slots__, astuple(self), kinds, strict=True):
            if value not in kind:
                raise ValueError(f"{name} {value!r} is not one of: {', '.join(kind)}")

    def __str__(self) -> str:
        return f"a {self.colour} {self.shape} moves {self.speed} {self.direction} on a {self.background} background"

    @property
    def step(self) -> tuple[int, int]:
        """Pixels per frame as (x to the right, y downwards)."""
        x, y = DIRECTIONS[self.direction]
        return x * SPEEDS[self.speed], y * SPEEDS[self.speed]

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
                f'{shown} is no caption of the small world: it reads "{GRAMMAR}", as in "{EXAMPLE}", with '
                f"COLOUR {'|'.join(COLOURS)}, SHAPE {'|'.join(SHAPES)}, SPEED {'|'.join(SPEEDS)}, "
                f"DIRECTION {'|'.join(DIRECTIONS)}, BACKGROUND {'|'.join(BACKGROUNDS)}"
            )
        return cls(*match.groups())


@cache
def _pattern() -> re.Pattern[str]:
    colour, shape, speed, direction, background = (
        "(" + "|".join(words) + ")" for words in (COLOURS, SHAPES, SPEEDS, DIRECTIONS, BACKGROUNDS)
    )
    return re.compile(f"a {colour} {shape} moves {speed} {direction} on a {background} background")


@cache
def all_captions() -> tuple[Caption, ...]:
    """Every caption of the world (1536), in a fixed order."""
    return tuple(Caption(*words) for words in product(COLOURS, SHAPES, SPEEDS, DIRECTIONS, BACKGROUNDS))


@cache
def held_out() -> tuple[Caption, ...]:
    """The tenth or so of `all_captions` that training never shows, chosen by a digest of the text.

    Every word occurs in training too, so these test whether known words are combined anew.
    """
    return tuple(caption for caption in all_captions() if kept_back(str(caption)))


@cache
def training_captions() -> tuple[Caption, ...]:
    """`all_captions` without `held_out`, in the same order."""
    return tuple(caption for caption in all_captions() if not kept_back(str(caption)))


def number(text: str) -> int:
    """64 bits of a digest of `text`: chance that is the same on every machine."""
    return int(digest(text)[:16], 16)


def kept_back(text: str) -> bool:
    """Whether training never shows the caption `text`: of one in ten."""
    return number(f"held out: {text}") % 10 == 0


def start_position(seed: int) -> tuple[int, int]:
    """Pixel (x, y) of the shape's centre in frame 0: all that a seed decides."""
    place = number(f"start: {seed}") % (SIZE * SIZE)
    return place % SIZE, place // SIZE


# -------------------------------------------------------------------------------------------- pictures


@cache
def coverage(shape: str) -> NDArray[np.int64]:
    """Share of each pixel that `shape`, centred on pixel (16, 16), covers, in 1/256: int64 [32, 32].

    The sizes keep straight edges away from the middle of a pixel, where a threshold at one half would be a tie.
    """
    return covered(partial(_inside, shape))


def covered(inside: Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.bool_]]) -> NDArray[np.int64]:
    """Share of each pixel, in 1/256, whose points (x, y) from pixel (16, 16) lie `inside`: int64 [32, 32]."""
    offsets = (np.arange(_SUBSAMPLES) + 0.5) / _SUBSAMPLES - 0.5
    line = (np.arange(SIZE)[:, None] - SIZE // 2 + offsets).ravel()
    points = inside(line[None, :], line[:, None])
    cover: NDArray[np.int64] = points.reshape(SIZE, _SUBSAMPLES, SIZE, _SUBSAMPLES).sum(axis=(1, 3), dtype=np.int64)
    return cover


def _inside(shape: str, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.bool_]:
    # Every constant is a multiple of 1/8 and every coordinate one of 1/32: float64 is exact here.
    if shape == "circle":
        return np.asarray(x * x + y * y <= 7.75 * 7.75)
    if shape == "square":
        return np.asarray(np.maximum(abs(x), abs(y)) <= 6.75)
    if shape == "triangle":
        # Apex (0, -8.75), base at y = 6.75: half the width is 5/8 of the distance from the apex.
        return np.asarray((8 * abs(x) <= 5 * (y + 8.75)) & (y <= 6.75))
    if shape == "cross":
        near, far = np.minimum(abs(x), abs(y)), np.maximum(abs(x), abs(y))
        return np.asarray((near <= 2.75) & (far <= 8.75))
    raise ValueError(f"shape {shape!r} is not one of: {', '.join(SHAPES)}")


@cache
def _windows() -> NDArray[np.int64]:
    # [shape, 32, 32, 32, 32]: entry (s, i, j) is the picture rolled by (-i, -j); a view, so that it costs no memory.
    tiled = np.stack([np.tile(coverage(shape), (2, 2)) for shape in SHAPES])
    return np.lib.stride_tricks.sliding_window_view(tiled, (SIZE, SIZE), axis=(1, 2))


@cache
def _palette() -> NDArray[np.uint8]:
    # [colour, background, coverage 0..256, 3], rounded to the nearest integer.
    alpha = np.arange(FULL + 1)[:, None]
    ink = np.array(list(COLOURS.values()), np.int64)[:, None, None, :]
    paper = np.array(list(BACKGROUNDS.values()), np.int64)[None, :, None, :]
    return ((ink * alpha + paper * (FULL - alpha) + FULL // 2) // FULL).astype(np.uint8)


def render_batch(
    captions: Sequence[Caption], seeds: Sequence[int], frames: int, starts: Sequence[int] | None = None
) -> NDArray[np.uint8]:
    """Clips of equal length, uint8 [batch, frames, 32, 32, 3].

    Args:
        captions: one for each clip.
        seeds: one for each clip; the seed decides where the shape is in frame 0 and nothing else.
        frames: pixel frames of each clip.
        starts: the frame at which each clip begins, 0 unless given: `starts=[s]` equals `[s:]` of the longer clip.

    Raises:
        ValueError: the lengths differ, or `frames` is negative.
    """
    starts = [0] * len(captions) if starts is None else starts
    if not len(captions) == len(seeds) == len(starts):
        raise ValueError(f"{len(captions)} captions, {len(seeds)} seeds and {len(starts)} starts: give one each a clip")
    if frames < 0:
        raise ValueError(f"frames is {frames}: give 0 or more")
    if not captions:
        return np.zeros((0, frames, SIZE, SIZE, 3), np.uint8)
    shape, colour, background = (
        np.array([list(kind).index(getattr(caption, name)) for caption in captions])
        for name, kind in (("shape", SHAPES), ("colour", COLOURS), ("background", BACKGROUNDS))
    )
    time = np.asarray(starts)[:, None] + np.arange(frames)
    origin = np.array([start_position(seed) for seed in seeds])[:, None, :]
    centre = origin + time[:, :, None] * np.array([caption.step for caption in captions])[:, None, :]
    roll = (SIZE // 2 - centre) % SIZE
    alpha = _windows()[shape[:, None], roll[:, :, 1], roll[:, :, 0]]
    table = (colour * len(BACKGROUNDS) + background) * (FULL + 1)
    clips: NDArray[np.uint8] = np.take(_palette().reshape(-1, 3), alpha + table[:, None, None, None], axis=0)
    return clips


def render(caption: Caption, seed: int, frames: int) -> NDArray[np.uint8]:
    """The clip of `caption` and `seed`, uint8 [frames, 32, 32, 3]."""
    clip: NDArray[np.uint8] = render_batch([caption], [seed], frames)[0]
    return clip
