"""LPIPS through the worker against torchvision's layers called one by one in float64, with random weights.

With the package's heads and one random backbone the job's network also gives what lpips 0.1.4 gives, to 1e-7.
"""

from dataclasses import replace
from pathlib import Path

import pytest
from quality_clips import in_environment, moving, write

from harness.contracts import registry
from harness.environments.worker.client import JobFault
from harness.errors import ClipError

pytestmark = pytest.mark.quality
DIRECT = Path(__file__).with_name("lpips_direct.py")


def test_each_frame_is_held_against_its_own(tmp_path, monkeypatch):
    weights = tmp_path / "weights"
    monkeypatch.setenv("VIDEOMLA_WEIGHTS", str(weights))
    registry.metrics.create("against/lpips", {}).draw(weights)
    first, second = moving(18), moving(18)[:, ::-1]
    second[3] = first[3]
    clip, reference = write(tmp_path / "a.mp4", first, "p"), write(tmp_path / "b.mp4", second, "p")
    arrays = [each.path.with_suffix(".npy") for each in (clip, reference)]
    truth = in_environment("quality", DIRECT, weights / "lpips", *arrays)["distances"]
    metric = registry.metrics.create("against/lpips", {"window": 1.0, "windows": 3})
    metric.setup("cpu")
    try:
        values = metric.score(replace(clip, reference=reference))
        assert metric.samples()["lpips_by_frame"] == pytest.approx(truth, rel=1e-4, abs=1e-6)
        assert values["lpips"] == pytest.approx(sum(truth) / 18, rel=1e-4)
        assert values["lpips_1"] == pytest.approx(sum(truth[:8]) / 8, rel=1e-4)
        assert values["lpips_3"] != values["lpips_3"]
        with pytest.raises(ClipError, match="no reference"):
            metric.score(clip)
        small = [write(tmp_path / f"{name}.mp4", moving(2, 24, 24), "p") for name in "cd"]
        with pytest.raises(JobFault, match="31 x 31"):
            metric.score(replace(small[0], reference=small[1]))
    finally:
        metric.close()
