import numpy as np
import pytest
from vbench_helpers import clip_of, inside, texture, write

from harness.metrics.vbench import VBench, VBenchOptions
from harness.metrics.vbench_protocol import ENTRIES, SAMPLES, entries, suite

pytestmark = pytest.mark.vbench

DIMENSIONS = {
    "object_class": ("a cat", {"object": "cat"}),
    "multiple_objects": ("a dog and a cat", {"object": "dog and cat"}),
    "color": ("a red dog", {"color": "red"}),
    "spatial_relationship": (
        "a dog on the left of a cat",
        {"spatial_relationship": {"object_a": "dog", "object_b": "cat", "relationship": "on the left of"}},
    ),
}


def test_detector_dimensions_read_frames_and_count_as_the_package_does(environment, tmp_path):
    fade = np.linspace(0.4, 1.3, 20)[:, None, None, None]
    pixels = np.clip(texture(20, 64, 96, 0, 2) * fade, 0, 255).astype(np.uint8)
    path = write(tmp_path / "fading-0.mp4", pixels)
    checkpoint = tmp_path / "weights" / "grit_model" / "grit_b_densecap_objectdet.pth"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    request = {"root": str(tmp_path / "weights"), "path": str(path), "dimensions": DIMENSIONS}
    found = inside(environment, "fake_grit.py", request, tmp_path / "weights")
    for name, (ours, theirs) in found.items():
        assert ours == pytest.approx(theirs, abs=1e-12), name
        assert 0 < ours < 1, name


def test_without_detectron2_the_four_are_not_available(environment):
    for name in DIMENSIONS:
        found = VBench(VBenchOptions(mode="standard", dimensions=(name,))).available()
        assert not found.ready
        assert "detectron2" in found.reason
    assert len(VBench(VBenchOptions(mode="standard")).scored_dimensions()) == 12


def test_the_suite_is_the_packages_own(environment):
    listed = entries(environment)
    merged = suite(listed)
    assert len(listed) == ENTRIES
    assert len(merged) == 944
    assert sum(entry.samples for entry in merged) == (944 - 75) * SAMPLES + 75 * 25
    assert sum(len(entry.dimensions) for entry in listed) == 1362
    assert max(len(entry.text) for entry in listed) == 210


def test_records_say_what_scored(weights, tmp_path):
    metric = VBench(VBenchOptions(dimensions=("temporal_flickering",)))
    metric.setup("cpu")
    metric.score(clip_of(write(tmp_path / "a-0.mp4", texture(4, 32, 48, 0, 1))))
    notes = metric.notes()
    metric.close()
    assert notes["packages"]["vbench"] == "0.1.5"
    assert metric.identity()["dimensions"] == ["temporal_flickering"]
