"""One pass over a clip's frames in small batches, so that memory does not grow with the clip's length.

Each dimension sees the pixels of the reader that VBench itself uses for it: OpenCV for temporal flickering, motion
smoothness, dynamic degree and the static filter, decord for all others. They agree to the last bit for 8-bit video
without colour tags; OpenCV 4.11 ignores those tags. Both read in the order in which frames decode: decord's random
access gives other frames than it is asked for in clips with open groups of pictures.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

T = TypeVar("T")


class ClipFault(ValueError):
    """A clip cannot be read, or is too short for what is asked of it."""


@dataclass(frozen=True)
class ClipInfo:
    """What a clip's header says. `frame_rate` is the average rate of a clip whose rate varies."""

    path: str
    frames: int
    height: int
    width: int
    frame_rate: float


@dataclass
class Batch:
    """Consecutive frames, with whatever has been computed from them so far.

    Attributes:
        start: index of the first frame within the clip.
        rgb: uint8 [frames, height, width, 3], as decord reads them.
        device: where tensors made from the frames live.
        opencv: the same frames as OpenCV reads them; the very batch where the pixels are equal.
    """

    start: int
    rgb: NDArray[np.uint8]
    device: str
    other: Batch | None = None
    _made: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rgb)

    @property
    def opencv(self) -> Batch:
        """As above."""
        return self.other or self

    def get(self, name: str, make: Callable[[], T]) -> T:
        """The result of `make`, computed once a batch under `name`, so that dimensions share it."""
        if name not in self._made:
            self._made[name] = make()
        value: T = self._made[name]
        return value

    def floats(self) -> torch.Tensor:
        """The frames as float32 [frames, 3, height, width] in 0 to 255."""

        def make() -> torch.Tensor:
            pixels = torch.from_numpy(self.rgb).to(self.device)
            return pixels.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)

        return self.get("floats", make)


def _open(path: str) -> Any:
    import cv2

    path = os.path.abspath(path)
    if not os.path.isfile(path):
        raise ClipFault(f"{path} does not exist")
    if os.path.getsize(path) == 0:
        raise ClipFault(f"{path} is empty")
    # By name, as OpenCV would otherwise fall back on other readers.
    capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG)
    if not capture.isOpened():
        capture.release()
        raise ClipFault(f"{path} is no video, or its end is missing")
    return capture


def describe(path: str) -> ClipInfo:
    """What the header of `path` says. Raises `ClipFault` when it cannot be opened."""
    import cv2

    capture = _open(path)
    try:
        info = ClipInfo(
            path=os.path.abspath(path),
            frames=max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT))),
            height=int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)),
            width=int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)),
            frame_rate=float(capture.get(cv2.CAP_PROP_FPS)),
        )
    finally:
        capture.release()
    return info


def open_decord(path: str) -> Any:
    """decord's reader as VBench opens it. Raises `ClipFault`."""
    import decord

    try:
        return decord.VideoReader(os.path.abspath(path), num_threads=1)
    except (decord.DECORDError, RuntimeError) as error:
        raise ClipFault(f"{path} is truncated, or no video that decord, VBench's own reader, can read") from error


def pixels_of(frame: Any) -> NDArray[np.uint8]:
    """A frame, or several, of decord's, whichever library the package has told it to give arrays of."""
    array: NDArray[np.uint8] = frame.asnumpy() if hasattr(frame, "asnumpy") else frame.numpy()
    return array


def decode(path: str, size: int, device: str) -> Iterator[Batch]:
    """The frames of `path` in batches of at most `size`. Raises `ClipFault` when there is none."""
    import cv2
    import decord

    capture = _open(path)
    start = 0
    try:
        reader = open_decord(path)
        while True:
            by_opencv: list[Any] = []
            while len(by_opencv) < size and (read := capture.read())[0]:
                by_opencv.append(cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB))
            if not by_opencv:
                break
            try:
                rgb = np.stack([pixels_of(reader.next()) for _ in by_opencv])
            except (decord.DECORDError, StopIteration, RuntimeError) as error:
                raise ClipFault(f"{path} is truncated, or cannot be decoded by decord from frame {start} on") from error
            stacked = np.stack(by_opencv)
            same = np.array_equal(rgb, stacked)
            yield Batch(start, rgb, device, None if same else Batch(start, stacked, device))
            start += len(rgb)
    finally:
        capture.release()
    if start == 0:
        raise ClipFault(f"{path} has no frame that decodes")


def whole(info: ClipInfo, decoded: int) -> None:
    """Raise `ClipFault` when fewer frames decode than the header of the clip promises."""
    if decoded < info.frames:
        raise ClipFault(f"{info.path} is truncated: {decoded} of {info.frames} frames decode")
