"""CLIP in the core: what is available, what identifies a score, which frames and segments are taken."""

import numpy as np
import pytest

from harness.contracts import Clip, registry
from harness.environments.worker.client import clip_fields
from harness.environments.worker.program import Clip as JobClip
from harness.errors import OptionError
from harness.metrics.jobs import job_frames
from harness.system import video


def job_clip(path="a.mp4", frames=960, size=(8, 8), rate=16.0, switches=(), prompt="first"):
    clip = Clip(path, prompt, 0, 0, frames, *size, rate, "d", lambda: None, tuple(switches))
    return JobClip(clip_fields(clip), {})


@pytest.mark.parametrize(
    ("count", "wanted", "numbers"),
    [
        (5, None, [0, 1, 2, 3, 4]),
        (5, 9, [0, 1, 2, 3, 4]),
        (81, 5, [0, 20, 40, 60, 80]),
        (7, 3, [0, 3, 6]),
        (6, 1, [2]),
        (1, 1, [0]),
        (2, 2, [0, 1]),
    ],
)
def test_frames_are_evenly_spread_ends_included(count, wanted, numbers):
    assert job_frames.spread(count, wanted) == numbers


def test_six_prompts_of_ten_seconds_are_six_segments(tmp_path):
    switches = [(160 * number, f"prompt {number}") for number in range(1, 6)]
    clip = job_clip(tmp_path / "a.mp4", switches=switches)
    assert job_frames.cut(clip, 10.0) == [(160 * number, 160 * number + 160) for number in range(6)]
    assert [job_frames.prompt_at(clip, frame) for frame in (0, 159, 160, 959)] == [
        "first",
        "first",
        "prompt 1",
        "prompt 5",
    ]


@pytest.mark.parametrize(
    ("frames", "switches", "segments"),
    [
        (400, [], [(0, 160), (160, 320), (320, 400)]),
        (399, [], [(0, 160), (160, 399)]),
        (30, [], [(0, 30)]),
        (320, [(200, "x")], [(0, 200), (200, 320)]),
        (320, [(320, "x")], [(0, 160), (160, 320)]),
    ],
)
def test_a_short_rest_belongs_to_the_segment_before_it(tmp_path, frames, switches, segments):
    clip = job_clip(tmp_path / "a.mp4", frames=frames, switches=switches)
    assert job_frames.cut(clip, 10.0) == segments
    assert segments[0][0] == 0
    assert segments[-1][1] == frames


@pytest.mark.parametrize("size", [(64, 96), (37, 51)])
@pytest.mark.parametrize("kept", [True, False])
def test_a_job_sees_the_pixels_that_the_core_decodes(tmp_path, monkeypatch, size, kept):
    if not kept:
        monkeypatch.setattr(job_frames, "KEEP_BYTES", 0)
    path = tmp_path / "a 'b'_-\".mp4"
    noise = np.random.default_rng(0).integers(0, 256, (9, *size, 3), dtype=np.uint8)
    video.write(path, [noise], 16.0, 20, "ultrafast")
    truth = video.read(path)
    clip = job_clip(path, frames=9, size=size)
    for number, frame in zip((0, 4, 8), job_frames.read(clip, [0, 4, 8]), strict=True):
        np.testing.assert_array_equal(frame, truth[number])
    assert len(clip.shared["frames"]) == (9 if kept else 3)
    with pytest.raises(job_frames.ClipError, match="ends after 9 of 12 frames"):
        job_frames.read(job_clip(path, frames=12, size=size), [11])


@pytest.mark.parametrize("content", [b"", b"no video at all", b"\x00\x00\x00\x18ftypmp42" + bytes(40)])
def test_a_file_that_is_no_clip(tmp_path, content):
    path = tmp_path / "x.mp4"
    path.write_bytes(content)
    with pytest.raises(job_frames.ClipError, match=r"cannot be decoded|no picture|ends after 0"):
        job_frames.read(job_clip(path, frames=4), [0])


def test_a_truncated_file(tmp_path):
    path = tmp_path / "x.mp4"
    noise = np.random.default_rng(0).integers(0, 256, (30, 64, 64, 3), dtype=np.uint8)
    video.write(path, [noise], 16.0, 10, "ultrafast")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(job_frames.ClipError):
        job_frames.read(job_clip(path, frames=30, size=(64, 64)), list(range(30)))


def test_a_checkpoint_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.setenv("VIDEOMLA_CACHE", str(tmp_path))
    path = tmp_path / "mine.pt"
    metric = registry.metrics.create("clip/score", {"checkpoint": str(path)})
    assert "mine.pt does not exist" in metric.available().reason
    assert metric.identity()["weights"] == {"mine.pt": ""}
    path.write_bytes(b"1")
    assert metric.available().fix == "harness env build quality"
    first = metric.identity()
    assert len(first["weights"]["mine.pt"]) == 64
    path.write_bytes(b"22")
    assert metric.identity() != first


def test_weights_that_nobody_publishes():
    state = registry.metrics.create("clip/score", {"model": "ViT-B-32", "pretrained": "mine"}).available()
    assert not state.ready
    assert "no published weights 'mine' of ViT-B-32" in state.reason
    assert "checkpoint" in state.fix


def test_a_checkpoint_takes_the_place_of_the_tag():
    metric = registry.metrics.create("clip/score", {"checkpoint": "mine.pt"})
    assert metric.options.pretrained == ""
    assert type(metric.options).model_validate(metric.options.model_dump()) == metric.options
    with pytest.raises(OptionError, match="either a pretrained tag or a checkpoint"):
        registry.metrics.create("clip/score", {"checkpoint": "mine.pt", "pretrained": "openai"})


@pytest.mark.parametrize("options", [{"frames": 0}, {"resize": "stretch"}, {"batch": 0}, {"models": "x"}])
def test_wrong_options(options):
    with pytest.raises(OptionError):
        registry.metrics.create("clip/score", options)
    with pytest.raises(OptionError):
        registry.metrics.create("clip/segments", {"seconds": 0})
