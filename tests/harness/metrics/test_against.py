"""Clips held against each other: PSNR and SSIM by their formulas and by another library, and when they part."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.contracts import Clip, registry
from harness.errors import ClipError, OptionError
from harness.metrics import against
from harness.testing import check_metric

RATE = 8.0


def clip_of(frames: np.ndarray) -> Clip:
    count, height, width = frames.shape[:3]
    return Clip(Path("none.mp4"), "p", 0, 0, count, height, width, RATE, "", lambda: frames)


def score(frames: np.ndarray, reference: np.ndarray, **options: Any) -> tuple[Any, Any, Any]:
    metric = registry.metrics.create("against", options)
    values = metric.score(replace(clip_of(frames), reference=clip_of(reference)))
    return values, metric.samples(), metric


def noise(count: int, size: tuple[int, int] = (24, 32), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *size, 3), dtype=np.uint8)


def ramp(size: tuple[int, int]) -> np.ndarray:
    """A picture that any library can be given: red grows to the right, green downwards, blue with both."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    return np.stack([7 * columns % 256, 5 * rows % 256, 3 * (rows + columns) % 256], -1).astype(np.uint8)


def ssim_by_loops(first: np.ndarray, second: np.ndarray) -> float:
    """The formula of Wang et al. 2004, a window at a time."""
    x, y = (
        0.299 * f[..., 0] + 0.587 * f[..., 1] + 0.114 * f[..., 2] for f in (first.astype(float), second.astype(float))
    )
    line = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    weights = np.outer(line, line) / np.outer(line, line).sum()
    total, count = 0.0, 0
    for row in range(x.shape[0] - 10):
        for column in range(x.shape[1] - 10):
            a, b = x[row : row + 11, column : column + 11], y[row : row + 11, column : column + 11]
            mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
            var_a, var_b = (weights * (a - mean_a) ** 2).sum(), (weights * (b - mean_b) ** 2).sum()
            both = (weights * (a - mean_a) * (b - mean_b)).sum()
            c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
            total += (
                (2 * mean_a * mean_b + c1) * (2 * both + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
            )
            count += 1
    return total / count


def test_psnr_of_a_known_error() -> None:
    reference = np.full((16, 16, 16, 3), 100, np.uint8)
    values, samples, _ = score(reference + np.uint8(5), reference)
    # Every difference is 5, so that the mean square is 25.
    assert samples["psnr_by_frame"] == pytest.approx([10 * math.log10(255**2 / 25)] * 16)
    assert values["psnr"] == pytest.approx(34.1514, abs=1e-4)
    assert values["identical"] == 0


def test_equal_frames_have_the_cap_and_are_counted() -> None:
    reference = noise(8)
    frames = reference.copy()
    frames[2, 0, 0, 0] ^= 1  # one step of one channel of one pixel, far above the cap
    frames[5] = 255 - frames[5]
    values, samples, _ = score(frames, reference)
    assert samples["psnr_by_frame"][0] == samples["psnr_by_frame"][2] == against.PSNR_CAP == 60
    assert values["identical"] == 6 / 8
    assert all(map(math.isfinite, samples["psnr_by_frame"]))
    assert samples["ssim_by_frame"][0] == pytest.approx(1)


def test_ssim_is_the_formula_window_by_window() -> None:
    first, second = noise(1)[0], noise(1, seed=1)[0]
    half = ((first.astype(int) + second) // 2).astype(np.uint8)
    for other in (second, half, first):
        assert against.ssim(first, other) == pytest.approx(ssim_by_loops(first, other), abs=1e-9)


def test_windows_are_means_of_their_frames_and_end_with_the_clip() -> None:
    reference, frames = noise(21), noise(21, seed=1)
    values, samples, metric = score(frames, reference, window=1.0, windows=3)
    psnr = samples["psnr_by_frame"]
    assert values["psnr_1"] == pytest.approx(np.mean(psnr[:8]))
    assert values["psnr_2"] == pytest.approx(np.mean(psnr[8:16]))
    # The third would reach to frame 24.
    assert math.isnan(values["psnr_3"])
    assert values["ssim"] == pytest.approx(np.mean(samples["ssim_by_frame"]))
    assert "psnr_3" in metric.asked_for()
    assert "psnr_4" not in metric.asked_for()
    by_frames, _, _ = score(frames, reference, window=7, unit="frames", windows=3)
    assert by_frames["ssim_3"] == pytest.approx(np.mean(samples["ssim_by_frame"][14:21]))


def test_rollouts_part_at_the_first_of_so_many_frames_below_the_threshold() -> None:
    reference = noise(20)
    frames = reference.copy()
    frames[3] = 255 - frames[3]  # alone
    frames[9:] = 255 - frames[9:]
    values, _, _ = score(frames, reference, threshold=25, hold=4)
    assert (values["together"], values["parted"]) == (9, 1)
    assert score(frames, reference, threshold=25, hold=1)[0]["together"] == 3
    never, _, _ = score(frames, reference, threshold=25, hold=12)
    assert (never["together"], never["parted"]) == (20, 0)


def test_one_line_says_what_cannot_be_compared() -> None:
    metric = registry.metrics.create("against", {})
    with pytest.raises(ClipError, match="no reference"):
        metric.score(clip_of(noise(4)))
    with pytest.raises(ClipError, match="of shape"):
        score(noise(4), noise(5))
    with pytest.raises(ClipError, match="11 x 11"):
        score(noise(4, (8, 32)), noise(4, (8, 32)))
    with pytest.raises(ClipError, match="holds no frame"):
        score(noise(4), noise(4), window=0.1)
    for options, said in (
        ({"window": 1.5, "unit": "frames"}, "whole number"),
        ({"windows": 9}, "windows"),
        ({"threshold": 60}, "threshold"),
        ({"window": 0}, "window"),
    ):
        with pytest.raises(OptionError, match=said):
            registry.metrics.create("against", options)


def test_the_metric_keeps_its_contract() -> None:
    assert all(finding.ok for finding in check_metric("against"))


@pytest.mark.parametrize(
    ("change", "ssim", "psnr"),
    [
        (lambda frame: 255 - frame, -0.1260554943109092, 5.084256632818745),
        (lambda frame: np.roll(frame, 1, axis=1), 0.9709051754653752, 19.990992852314385),
        (lambda frame: (frame // 16 * 16 + 8).astype(np.uint8), 0.9395091855061066, 34.669448054365326),
    ],
)
def test_the_numbers_of_scikit_image(change: Any, ssim: float, psnr: float) -> None:
    # skimage.metrics 0.26.0 on the same luma, with gaussian_weights, sigma 1.5 and no sample covariance.
    first = ramp((24, 40))
    assert against.ssim(first, change(first)) == pytest.approx(ssim, abs=1e-12)
    assert against.psnr(first, change(first)) == pytest.approx(psnr, abs=1e-12)
