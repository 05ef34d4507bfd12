"""HPSv3 in the core: named protocols only, their frames, and what is available."""

import pytest

from harness.contracts import Availability, registry
from harness.errors import OptionError, RegistryError
from harness.metrics.jobs import job_frames


def test_there_is_no_protocol_without_a_name():
    assert [name for name in registry.metrics.names() if name.startswith("hpsv3")] == [
        "hpsv3/best_share",
        "hpsv3/keyframes",
        "hpsv3/mean_of_frames",
    ]
    with pytest.raises(RegistryError, match="hpsv3/"):
        registry.metrics.get("hpsv3")


@pytest.mark.parametrize(
    ("count", "parts", "numbers"),
    [
        (7, 2, [1, 5]),
        (81, 15, [2, 8, 13, 18, 24, 29, 35, 40, 45, 51, 56, 62, 67, 72, 78]),
        (3, 5, [0, 1, 2]),
        (1, 1, [0]),
    ],
)
def test_key_frames_are_the_middles_of_equal_parts(count, parts, numbers):
    assert job_frames.middles(count, parts) == numbers


def test_files_of_ones_own_come_in_pairs(tmp_path, monkeypatch):
    monkeypatch.setenv("VIDEOMLA_CACHE", str(tmp_path / "empty"))
    path, base = tmp_path / "h.safetensors", tmp_path / "base"
    path.write_bytes(b"1")
    alone = registry.metrics.create("hpsv3/keyframes", {"checkpoint": str(path)})
    assert "belong together" in alone.available().reason
    both = registry.metrics.create("hpsv3/keyframes", {"checkpoint": str(path), "base": str(base)})
    assert "base does not exist" in both.available().reason
    base.mkdir()
    (base / "config.json").write_text("{}")
    assert both.available().fix == "harness env build quality"
    assert set(both.identity()["weights"]) == {"h.safetensors", "config.json"}


def test_without_weights_the_command_that_brings_them(tmp_path, monkeypatch):
    monkeypatch.setenv("VIDEOMLA_WEIGHTS", str(tmp_path))
    metric = registry.metrics.create("hpsv3/best_share", {})
    monkeypatch.setattr(type(metric), "environment_available", lambda self: Availability(True))
    assert metric.available().fix == "harness fetch hpsv3"


@pytest.mark.parametrize(
    ("name", "options"),
    [("best_share", {"p": 0}), ("best_share", {"p": 1.1}), ("keyframes", {"n": None}), ("mean_of_frames", {"n": 0})],
)
def test_wrong_options(name, options):
    with pytest.raises(OptionError):
        registry.metrics.create(f"hpsv3/{name}", options)
