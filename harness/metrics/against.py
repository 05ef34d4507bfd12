"""How far a clip is from that of another arm of equal prompt and seed: PSNR and SSIM along time, and when they part.

Rollouts that begin alike drift apart chaotically, so that a number of the whole clip says little: the README of
LingBot-v2 in Quant VideoGen (svg-project/Quant-VideoGen, 0601468) advises early windows and several examples. Both
clips are read from their files, so that differences below what the encoder keeps are not seen.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator
from scipy.ndimage import gaussian_filter

from harness.contracts import Clip, Curve, Direction, Frames, Metric, Options, Value
from harness.errors import ClipError

MOST_WINDOWS = 8
"""Windows with values of their own; the samples hold every frame."""

PSNR_CAP = 60.0
"""dB at most, as equal frames have no finite PSNR: the limit of libvmaf's feature `psnr` for 8 bits
(Netflix/vmaf, 401a0a8, libvmaf/src/feature/integer_psnr.c)."""

SIGMA, RADIUS = 1.5, 5
"""SSIM's Gaussian window of 11 x 11 pixels."""
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2

LUMA = np.array([0.299, 0.587, 0.114])
"""Weights of red, green and blue (ITU-R BT.601)."""

Floats = NDArray[np.float64]


class WindowOptions(Options):
    """Windows of time in which a clip is held against its reference.

    Attributes:
        window: length of a window, the first of which begins at frame 0. unit: of that length.
        windows: so many of them have values of their own; a window that the clip does not reach the end of has none.
    """

    window: float = Field(1.0, gt=0, le=100_000)
    unit: Literal["seconds", "frames"] = "seconds"
    windows: int = Field(4, ge=1, le=MOST_WINDOWS)

    @model_validator(mode="after")
    def _whole_frames(self) -> WindowOptions:
        if self.unit == "frames" and not self.window.is_integer():
            raise ValueError(f"a window of {self.window:g} frames is no whole number of them")
        return self

    def means(self, by_frame: Floats, frame_rate: float) -> list[float]:
        """The mean of each window that has a value, NaN beyond the clip's end. Raises `ClipError`."""
        length = self.window * (frame_rate if self.unit == "seconds" else 1.0)
        if length < 1:
            raise ClipError(
                f"a window of {self.window:g} s holds no frame at {frame_rate:g} a second", "set a longer window"
            )
        edges = [round(place * length) for place in range(self.windows + 1)]
        return [
            float(by_frame[start:stop].mean()) if stop <= len(by_frame) else math.nan for start, stop in pairwise(edges)
        ]


class AgainstOptions(WindowOptions):
    """The windows, and when two rollouts count as parted.

    Attributes:
        threshold: dB of PSNR below which a frame differs. hold: so many frames in a row must.
    """

    threshold: float = Field(25.0, gt=0, lt=PSNR_CAP)
    hold: int = Field(4, ge=1, le=100_000)


def windowed(
    name: str, unit: str, direction: Direction, label: str, low: float, high: float | None
) -> tuple[Value, ...]:
    """The values of a measure over the whole clip, and in each window."""
    windows = [(f"{name}_{number}", f"{label}, window {number}") for number in range(1, MOST_WINDOWS + 1)]
    return tuple(
        Value(each, unit, direction, heading, low=low, high=high) for each, heading in [(name, label), *windows]
    )


class Against(Metric):
    """PSNR and SSIM to the clip of another arm, in windows of time, and how long the two stay together.

    PSNR of a frame is 10 log10(255^2 / e) dB, e being the mean squared difference over its pixels and three channels,
    at most 60 dB, which is what equal frames have; `identical` says how many those are. SSIM is that of Wang, Bovik,
    Sheikh and Simoncelli (IEEE Transactions on Image Processing 13, 2004) on luma: a Gaussian window of 11 x 11 with
    sigma 1.5, K1 = 0.01, K2 = 0.03, over all places where it lies inside the frame. A value is the mean of its frames.

    Two rollouts part at the first of `hold` frames in a row whose PSNR is below `threshold` (a definition of this
    project; 25 dB and 4 frames unless given). `together` is the frame at which they do. A clip that never parts counts
    with its number of frames, so that the mean is restricted to the clip's length, as a restricted mean survival time.
    """

    schema = AgainstOptions
    takes_reference = True
    values: ClassVar[tuple[Value, ...]] = (
        *windowed("psnr", "dB", "higher", "PSNR", 0.0, PSNR_CAP),
        *windowed("ssim", "", "higher", "SSIM", -1.0, 1.0),
        Value("identical", "", "higher", "identical frames", share=True),
        Value("together", "frames", "higher", "frame at which they part", low=0.0),
        Value("parted", "", "lower", "clips that part", share=True),
    )
    curves: ClassVar[tuple[Curve, ...]] = (
        Curve(Value("psnr_by_frame", "dB", label="PSNR")),
        Curve(Value("ssim_by_frame", label="SSIM")),
    )

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._samples: dict[str, list[float]] = {}

    def asked_for(self) -> Collection[str]:
        """All values but those of windows beyond `windows`."""
        return [value.name for value in self.values if window_of(value.name) <= self.options.windows]

    def samples(self) -> Mapping[str, Sequence[float]]:
        """PSNR and SSIM of each frame."""
        return self._samples

    def score(self, clip: Clip) -> Mapping[str, float]:
        """Hold every frame against that of the reference. Raises `ClipError`."""
        self._samples = {}
        options: AgainstOptions = self.options
        first, second = both(clip)
        # Frame by frame, as the float64 copies of whole clips fill the memory.
        pairs = list(zip(first, second, strict=True))
        by_frame = {
            "psnr": np.array([psnr(*pair) for pair in pairs]),
            "ssim": np.array([ssim(*pair) for pair in pairs]),
        }
        scores = {value.name: math.nan for value in self.values}
        for name, numbers in by_frame.items():
            scores[name] = float(numbers.mean())
            means = options.means(numbers, clip.frame_rate)
            scores |= {f"{name}_{number}": mean for number, mean in enumerate(means, 1)}
        at = parting(by_frame["psnr"], options.threshold, options.hold)
        scores["identical"] = float(np.mean([np.array_equal(*pair) for pair in pairs]))
        scores["together"] = float(len(pairs) if at is None else at)
        scores["parted"] = float(at is not None)
        self._samples = {f"{name}_by_frame": numbers.tolist() for name, numbers in by_frame.items()}
        return scores


def window_of(name: str) -> int:
    """The number of the window that a value is of; 0 for one of the whole clip."""
    number = name.rpartition("_")[2]
    return int(number) if number.isdigit() else 0


def both(clip: Clip) -> tuple[Frames, Frames]:
    """The frames of a clip and of its reference. Raises `ClipError`."""
    if clip.reference is None:
        raise ClipError(f"{clip.path} has no reference to be held against", "name an arm with `against`")
    first, second = clip.read(), clip.reference.read()
    if first.shape != second.shape:
        raise ClipError(f"the clip has frames of shape {first.shape}, its reference {second.shape}")
    return first, second


def psnr(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> float:
    """dB between two frames [height, width, 3]; `PSNR_CAP` at most."""
    error = float(np.square(first.astype(np.float64) - second).mean())
    return min(PSNR_CAP, 10 * math.log10(255**2 / error)) if error else PSNR_CAP


def ssim(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> float:
    """Structural similarity of the luma of two frames [height, width, 3]. Raises `ClipError` for less than 11 x 11."""
    if min(first.shape[:2]) <= 2 * RADIUS:
        raise ClipError(f"SSIM takes frames of 11 x 11 pixels and more, not {first.shape[0]} x {first.shape[1]}")
    x, y = first @ LUMA, second @ LUMA
    moments = np.stack([x, y, x * x, y * y, x * y])
    smooth = gaussian_filter(moments, (0, SIGMA, SIGMA), truncate=RADIUS / SIGMA)
    mean_x, mean_y, xx, yy, xy = smooth[:, RADIUS:-RADIUS, RADIUS:-RADIUS]
    luminance = (2 * mean_x * mean_y + C1) / (mean_x**2 + mean_y**2 + C1)
    structure = (2 * (xy - mean_x * mean_y) + C2) / (xx - mean_x**2 + yy - mean_y**2 + C2)
    return float((luminance * structure).mean())


def parting(by_frame: Floats, threshold: float, hold: int) -> int | None:
    """The first of `hold` frames in a row below `threshold`; None where there are none."""
    below = 0
    for frame, number in enumerate(by_frame):
        below = below + 1 if number < threshold else 0
        if below == hold:
            return frame - hold + 1
    return None
