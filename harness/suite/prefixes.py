"""Images and videos that clips continue. The files are untrusted; they are read within bounds and fitted to a model."""

from __future__ import annotations

import functools
import io
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.contracts import Frames, ModelCard, Prefix
from harness.errors import ClipError
from harness.system import video
from harness.system.digests import digest
from harness.system.files import read_limited

MAX_BYTES = 256 * 2**20
MAX_FRAMES = 480
"""Frames of a file: 20 s at 24 frames a second."""
MAX_PIXELS = 2**30
"""Pixels in all frames of a file together: 480 of 1920x1080, or one of 16384x16384 with room to spare."""


@dataclass(frozen=True, slots=True)
class PrefixFacts:
    """A file's SHA-256, number of frames, their size in pixels, and whether a display matrix turned them."""

    sha256: str
    frames: int
    height: int
    width: int
    turned: bool


def inspect(path: Path) -> PrefixFacts:
    """Decode the whole file once. Raises `ClipError`."""
    data = _bytes(path)
    count, size = 0, (0, 0)
    for picture in _pictures(data, path):
        count, size = count + 1, picture.shape[:2]
    return PrefixFacts(digest(data), count, *size, video.is_turned(io.BytesIO(data), f"prefix {path}"))


def frames_used(frames: int, ratio: int) -> int:
    """How many of a file's pixel frames are used: whole latent frames, the first of which is one pixel frame."""
    return 1 + (frames - 1) // ratio * ratio


def lazy_prefix(path: Path, sha256: str, frames: int, card: ModelCard) -> Prefix:
    """The file as a request hands it to the model of `card`. It is read when the model first asks, and kept.

    `sha256` and `frames` are those of `inspect`. `read` raises `ClipError` where the file has changed since.
    """
    count = frames_used(frames, card.temporal_ratio)

    @functools.cache
    def read() -> Frames:
        data = _bytes(path)
        if digest(data) != sha256:
            raise ClipError(f"prefix {path} has changed since it was planned", "run again, or bring the file back")
        # The last frames: the clip goes on where the file ends.
        frames_fitted = deque(
            (fit(picture, card.height, card.width) for picture in _pictures(data, path)), maxlen=count
        )
        return np.stack(frames_fitted)

    return Prefix(path, sha256, count, read)


def fit(picture: Frames, height: int, width: int) -> Frames:
    """One frame, uint8 [h, w, 3], at a size: its middle, cropped to the new shape, then scaled."""
    rows, columns = picture.shape[:2]
    high = min(rows, max(1, round(columns * height / width)))
    wide = min(columns, max(1, round(rows * width / height)))
    top, left = (rows - high) // 2, (columns - wide) // 2
    return video.scaled(picture[top : top + high, left : left + wide], height, width)


def _bytes(path: Path) -> bytes:
    try:
        return read_limited(path, MAX_BYTES)
    except FileNotFoundError as error:
        raise ClipError(f"prefix {path} does not exist") from error
    except OSError as error:
        raise ClipError(f"prefix {path} cannot be read: {error.strerror}") from error


def _pictures(data: bytes, path: Path) -> Iterator[Frames]:
    return video.pictures(io.BytesIO(data), f"prefix {path}", MAX_FRAMES, MAX_PIXELS)
