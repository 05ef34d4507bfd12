"""How far each frame of a clip is from the one before, without weights: by its pixels, and by optical flow.

The samples show where chunks meet (a step over a border against one inside), where motion collapses, and when the
picture changes after a prompt switch.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from importlib import metadata
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from harness.contracts import Availability, Clip, Curve, Frames, Json, Metric, Options, Value

DISTANCES = (2, 5, 10, 20, 50)
"""Frames between the two of a pair, as issue 206 of Vchitect/VBench proposes for DINO features."""

SIDE = 64
"""Pixels of the longer side, at most, of the small pictures by which frames far apart are compared."""

LOOK_BACK_S = 4.0
"""Seconds before a switch whose own changes the change after it must exceed. Chosen here."""


class FrameDifference(Metric):
    """Mean absolute difference of neighbouring frames, likeness of frames far apart, and how soon a switch shows.

    A switch shows at the first frame that differs from the last one before it by more than any two frames as near to
    each other did in the four seconds before. Both are compared as small pictures.
    """

    values: ClassVar[tuple[Value, ...]] = (
        Value("step", "grey levels", "none", "frame difference", low=0.0, high=255.0),
        Value("switch_s", "s", "lower", "switch to changed picture", low=0.0),
        Value("switches_seen", "", "higher", "switches that show", share=True),
    )
    curves: ClassVar[tuple[Curve, ...]] = (
        Curve(Value("step_by_frame", "grey levels", "none", "frame difference"), "step"),
        Curve(Value("alike_by_distance", label="pixel correlation"), "distance", frames="distances"),
    )

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._samples: dict[str, list[float]] = {}

    def samples(self) -> Mapping[str, Sequence[float]]:
        """The steps, the likeness by distance, and of each switch its frame and the first that shows it, or NaN."""
        return self._samples

    def score(self, clip: Clip) -> Mapping[str, float]:
        """The mean step; of the switches that show the mean seconds until then, and their share. Raises `ClipError`."""
        self._samples = {}
        frames = clip.read()
        steps = [float(np.abs(after.astype(np.int16) - before).mean()) for before, after in pairwise(frames)]
        pictures = small(frames)
        distances, alike = _by_distance(pictures)
        switches = [frame for frame, _ in clip.switches if 0 < frame < len(frames)]
        seen = [_first_changed(pictures, *stretch) for stretch in _stretches(switches, clip)]
        waits = [(at - frame) / clip.frame_rate for frame, at in zip(switches, seen, strict=True) if at is not None]
        self._samples = {
            "step_by_frame": steps,
            "distances": distances,
            "alike_by_distance": alike,
            "switch_frames": [float(frame) for frame in switches],
            "changed_frames": [np.nan if at is None else float(at) for at in seen],
        }
        return {
            "step": _mean(steps),
            "switch_s": _mean(waits),
            "switches_seen": _mean([float(at is not None) for at in seen]),
        }


def _mean(numbers: Sequence[float]) -> float:
    return float(np.mean(numbers)) if numbers else float("nan")


def small(frames: Frames) -> NDArray[np.float32]:
    """Means over equal blocks of pixels, float32 [frames, rows, columns, 3]; at most `SIDE` of either.

    Rows and columns that do not fill a block are left out.
    """
    count, height, width, _ = frames.shape
    block = max(1, -(-max(height, width) // SIDE))
    rows, columns = max(1, height // block), max(1, width // block)
    deep, broad = height // rows, width // columns
    pictures = np.empty((count, rows, columns, 3), np.float32)
    for number, frame in enumerate(frames):
        cut = frame[: rows * deep, : columns * broad].reshape(rows, deep, columns, broad, 3)
        pictures[number] = cut.mean(axis=(1, 3), dtype=np.float32)
    return pictures


def _by_distance(pictures: NDArray[np.float32]) -> tuple[list[float], list[float]]:
    """Distances that the clip has, and the mean Pearson correlation of the pixels of all pairs that far apart.

    Two frames without any contrast correlate by 1 where they are equal; else the pair is left out.
    """
    flat = pictures.reshape(len(pictures), -1).astype(np.float64)
    centred = flat - flat.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(centred, axis=1)
    distances, alike = [], []
    for distance in (each for each in DISTANCES if each < len(flat)):
        products = (centred[distance:] * centred[:-distance]).sum(axis=1)
        sizes = norms[distance:] * norms[:-distance]
        equal = (flat[distance:] == flat[:-distance]).all(axis=1)
        pairs = np.where(equal, 1.0, np.divide(products, sizes, out=np.full(len(sizes), np.nan), where=sizes > 0))
        distances.append(float(distance))
        alike.append(_mean(pairs[~np.isnan(pairs)].tolist()))
    return distances, alike


def _stretches(switches: Sequence[int], clip: Clip) -> list[tuple[int, int, int]]:
    """For each switch (from, at, to): the frames to look back to and on to, cut at its neighbours."""
    back = max(2, round(LOOK_BACK_S * clip.frame_rate))
    edges = [0, *switches, clip.frames]
    return [
        (max(before, at - back), at, after)
        for (before, at), (_, after) in zip(pairwise(edges), pairwise(edges[1:]), strict=False)
    ]


def _first_changed(pictures: NDArray[np.float32], start: int, at: int, stop: int) -> int | None:
    """The first frame from `at` on that differs from the last one before by more than the frames before did.

    None where none does before `stop`, or fewer than two frames came before.
    """
    before, last = pictures[start:at], pictures[at - 1]
    if len(before) < 2:
        return None
    usual = [float(np.abs(before[lag:] - before[:-lag]).mean(axis=(1, 2, 3)).max()) for lag in range(1, len(before))]
    limits = np.maximum.accumulate(usual)
    for lag, picture in enumerate(pictures[at:stop], 1):
        if np.abs(picture - last).mean() > limits[min(lag, len(limits)) - 1]:
            return at + lag - 1
    return None


class FrameFlow(Metric):
    """Mean length of the optical flow between neighbouring frames, by Farneback's method in OpenCV; no weights.

    Its settings are those of Helios' motion amplitude (`eval/1_get_motion_amplitude.py`). That takes the mean of the
    signed components, in which left and right cancel; here it is the length.
    """

    values: ClassVar[tuple[Value, ...]] = (Value("flow", "px/frame", "none", "optical flow", low=0.0),)
    curves: ClassVar[tuple[Curve, ...]] = (Curve(Value("flow_by_frame", "px/frame", "none", "optical flow"), "step"),)

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._flow: list[float] = []

    def available(self) -> Availability:
        """Whether OpenCV is installed."""
        if importlib.util.find_spec("cv2") is None:
            fix = "pip install -c constraints.txt '.[flow]'"
            return Availability(False, "OpenCV is not installed", fix)
        return Availability(True)

    def samples(self) -> Mapping[str, Sequence[float]]:
        """The flow into each frame but the first."""
        return {"flow_by_frame": self._flow}

    def notes(self) -> Mapping[str, Json]:
        """The version of OpenCV."""
        return {"packages": {"opencv": _opencv_version()}}

    def score(self, clip: Clip) -> Mapping[str, float]:
        """The mean over frames. Raises `ClipError`."""
        import cv2

        self._flow = []
        grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in clip.read()]
        self._flow = [_flow(cv2, before, after) for before, after in pairwise(grey)]
        return {"flow": _mean(self._flow)}


def _flow(cv2: Any, before: NDArray[np.uint8], after: NDArray[np.uint8]) -> float:
    field = cv2.calcOpticalFlowFarneback(before, after, None, 0.5, 3, 15, 3, 5, 1.2, 0)
    return float(np.linalg.norm(field, axis=2).mean())


def _opencv_version() -> str:
    for name in ("opencv-python-headless", "opencv-python"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return "none"
