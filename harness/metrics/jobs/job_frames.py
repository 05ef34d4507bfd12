"""Frames of a clip inside a metric environment: the same pixels as the core's decoder, decoded once for all jobs."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

KEEP_BYTES = 256 << 20
"""Bytes. A smaller clip is kept whole for the next jobs; of a larger one only the frames that a job reads are kept."""

_FORMATS = "mov,mp4,matroska,webm,avi,flv,asf,yuv4mpegpipe"
_SIZE = re.compile(r"videomla-bench size=(\d+)x(\d+)")


class ClipError(ValueError):
    """A clip cannot be read, or is not what its record says."""


def spread(count: int, number_of_frames: int | None) -> list[int]:
    """`wanted` frame numbers evenly spread over `count` frames, first and last included; the middle one for 1.

    All of them when `wanted` is None or not below `count`.
    """
    if number_of_frames is None or number_of_frames >= count:
        return list(range(count))
    if number_of_frames == 1:
        return [(count - 1) // 2]
    return [round(number * (count - 1) / (number_of_frames - 1)) for number in range(number_of_frames)]


def middles(count: int, parts: int) -> list[int]:
    """The middle frame of each of `parts` equal parts of `count` frames; every frame when there are fewer."""
    if parts >= count:
        return list(range(count))
    return [(2 * number + 1) * count // (2 * parts) for number in range(parts)]


def by_distance(features: np.ndarray, numbers: Sequence[int]) -> tuple[list[float], list[float]]:
    """Frames between two of evenly spread frames, and the mean cosine of all pairs that lie so far apart.

    Args:
        features: of unit length, float [frames, width]. numbers: of the frames.
    """
    lags = range(1, len(numbers))
    distances = [float(np.mean(np.subtract(numbers[lag:], numbers[:-lag]))) for lag in lags]
    alike = [float((features[lag:] * features[:-lag]).sum(axis=1, dtype=np.float64).mean()) for lag in lags]
    return distances, alike


def cut(clip: Any, seconds: float) -> list[tuple[int, int]]:
    """First and one-past-last frame of each segment: cut at every prompt switch, and then every `seconds`.

    A rest shorter than half a segment belongs to the segment before it.
    """
    length = max(1, round(seconds * clip.frame_rate))
    edges = [0, *(frame for frame, _ in clip.switches if 0 < frame < clip.frames), clip.frames]
    segments = []
    for start, end in itertools.pairwise(edges):
        starts = list(range(start, end, length))
        if len(starts) > 1 and end - starts[-1] < length / 2:
            starts.pop()
        segments += list(zip(starts, [*starts[1:], end], strict=True))
    return segments


def prompt_at(clip: Any, frame: int) -> str:
    """The prompt in force at a frame."""
    prompt: str = clip.prompt
    for start, text in clip.switches:
        if frame >= start:
            prompt = text
    return prompt


def read(clip: Any, numbers: Sequence[int]) -> list[np.ndarray]:
    """The frames of these numbers, uint8 [height, width, 3] each. Raises `ClipError`."""
    frame_by_number: dict[int, np.ndarray] = clip.shared.setdefault("frames", {})
    absent = set(numbers) - frame_by_number.keys()
    if absent:
        keep_all = clip.frames * clip.height * clip.width * 3 <= KEEP_BYTES
        frame_by_number.update(_decode(clip, set(range(clip.frames)) if keep_all else absent))
    return [frame_by_number[number] for number in numbers]


def _decode(clip: Any, numbers: set[int]) -> dict[int, np.ndarray]:
    import av

    frame_by_number = {}
    last = max(numbers)
    number = -1
    try:
        with open(clip.path, "rb") as file:
            limits = {"format_whitelist": _FORMATS, "protocol_whitelist": "file"}
            with av.open(file, "r", options=limits) as container:
                if not container.streams.video:
                    raise ClipError(f"{clip.path} has no picture")
                container.streams.video[0].thread_count = 1
                size = _true_size(container)
                for number, frame in enumerate(container.decode(video=0)):
                    if number in numbers:
                        frame_by_number[number] = _pixels(frame, size)
                    if number == last:
                        break
    except (av.error.FFmpegError, OSError) as error:
        raise ClipError(f"{clip.path} cannot be decoded: {error.strerror or error}") from error
    if number < last:
        raise ClipError(f"{clip.path} ends after {number + 1} of {clip.frames} frames")
    return frame_by_number


def _true_size(container: Any) -> tuple[int, int] | None:
    match = _SIZE.search(container.metadata.get("comment", ""))
    return (int(match[1]), int(match[2])) if match else None


def _pixels(frame: Any, size: tuple[int, int] | None) -> np.ndarray:
    from av.video.reformatter import Interpolation as By

    # The core's decoder converts with these very flags; equal planes then give equal pixels.
    flags = By.BICUBIC | By.ACCURATE_RND | By.BITEXACT | By.FULL_CHR_H_INP | By.FULL_CHR_H_INT
    picture = frame.reformat(format="rgb24", interpolation=flags, threads=1)
    pixels: np.ndarray = picture.to_ndarray()
    return pixels[: size[0], : size[1]] if size else pixels
