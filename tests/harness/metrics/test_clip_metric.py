"""CLIP in the core: what is available, what identifies a score, which frames and segments are taken."""

import shutil
import zipfile

import numpy as np
import pytest

from harness.contracts import Clip, registry
from harness.environments.weights.manifest import read_manifest
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
    metric = registry.metrics.create("clip/score", {"checkpoint": str(path), **PREPARED})
    assert "mine.pt does not exist" in metric.available().reason
    assert metric.identity()["weights"] == {"mine.pt": ""}
    path.write_bytes(b"1")
    assert metric.available().fix == "harness env build quality"
    first = metric.identity()
    assert len(first["weights"]["mine.pt"]) == 64
    path.write_bytes(b"22")
    assert metric.identity() != first


PREPARED = {
    "mean": (0.5, 0.5, 0.5),
    "std": (0.25, 0.25, 0.25),
    "interpolation": "bilinear",
    "resize": "squash",
    "quick_gelu": False,
}
INCEPTION = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "interpolation": "bicubic", "resize": "shortest"}
OPENAI = {
    "mean": (0.48145466, 0.4578275, 0.40821073),
    "std": (0.26862954, 0.26130258, 0.27577711),
    "interpolation": "bicubic",
    "resize": "shortest",
    "quick_gelu": True,
}


def test_a_file_that_nothing_is_known_of_must_be_told(tmp_path):
    path = tmp_path / "mine.pt"
    path.write_bytes(b"1")
    for left in PREPARED:
        options = {name: value for name, value in PREPARED.items() if name != left}
        state = registry.metrics.create("clip/score", {"checkpoint": str(path), **options}).available()
        assert not state.ready
        assert state.reason.endswith(f"prepared for mine.pt: {left}")
    metric = registry.metrics.create("clip/score", {"checkpoint": str(path), **PREPARED})
    assert metric.preparation() == PREPARED
    assert {name: metric.job_options()[name] for name in PREPARED} == PREPARED
    assert "preparation" not in metric.identity()
    named = registry.metrics.create("clip/score", {"checkpoint": str(path), "model": "ViT-B-32-quickgelu"})
    assert named.preparation() == {"quick_gelu": True}
    with pytest.raises(OptionError, match="has QuickGELU"):
        registry.metrics.create("clip/score", {"model": "ViT-B-32-quickgelu", "quick_gelu": False})


def test_an_archive_is_prepared_for_as_openai_s(tmp_path):
    path = tmp_path / "ViT-B-16.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ViT-B-16/code/__torch__.py", "")
    metric = registry.metrics.create("clip/score", {"checkpoint": str(path), "model": "ViT-B-16"})
    assert metric.preparation() == OPENAI
    assert metric.identity()["preparation"] == OPENAI
    other = registry.metrics.create("clip/score", {"checkpoint": str(path), "resize": "longest"})
    assert other.preparation() == {**OPENAI, "resize": "longest"}
    assert set(other.identity()["preparation"]) == set(OPENAI) - {"resize"}


def test_one_file_has_one_preparation(tmp_path, monkeypatch):
    monkeypatch.setenv("VIDEOMLA_WEIGHTS", str(tmp_path / "weights"))
    fetched = tmp_path / "weights" / "clip" / "ViT-L-14" / "laion2b_s32b_b82k.safetensors"
    fetched.parent.mkdir(parents=True)
    fetched.write_bytes(b"weights")
    shutil.copy(fetched, tmp_path / "copy.safetensors")
    tag = registry.metrics.create("clip/score", {"pretrained": "laion2b_s32b_b82k"})
    copy = registry.metrics.create("clip/score", {"checkpoint": str(tmp_path / "copy.safetensors")})
    assert tag.preparation() == copy.preparation() == {**INCEPTION, "quick_gelu": False}


def test_options_that_nobody_gives_are_in_no_key():
    metric = registry.metrics.create("clip/score", {})
    assert set(metric.options.model_dump()) == {
        "model", "pretrained", "checkpoint", "quick_gelu", "frames", "resize", "batch"
    }  # fmt: skip
    assert metric.options.resize == "shortest"
    assert set(metric.identity()) == {"environment", "weights"}
    assert metric.preparation() == OPENAI


def test_every_published_tag_has_its_preparation():
    assert all(file.preparation for file in read_manifest().get("clip").files)


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


@pytest.mark.parametrize(
    "options",
    [
        {"frames": 0},
        {"resize": "stretch"},
        {"mean": (0.5, 2, 0.5)},
        {"std": (0.5, 0, 0.5)},
        {"interpolation": "x"},
        {"batch": 0},
        {"models": "x"},
    ],
)
def test_wrong_options(options):
    with pytest.raises(OptionError):
        registry.metrics.create("clip/score", options)
    with pytest.raises(OptionError):
        registry.metrics.create("clip/segments", {"seconds": 0})
