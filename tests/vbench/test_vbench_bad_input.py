import itertools
import math
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save
from vbench_helpers import clip_of, inside, texture, write

from harness.errors import ClipError, HarnessError, WeightsError
from harness.metrics.vbench import VBench, VBenchOptions
from harness.metrics.vbench_long import VBenchLong, VBenchLongOptions

pytestmark = pytest.mark.vbench

CHEAP = ("temporal_flickering", "background_consistency", "aesthetic_quality")


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return write(tmp_path_factory.mktemp("clips") / "good-0.mp4", texture(8, 64, 96, 0, 2))


@pytest.fixture(scope="module")
def metric(weights):
    metric = VBench(VBenchOptions(dimensions=CHEAP))
    metric.setup("cpu")
    yield metric
    metric.close()


def as_clip(good, path, **changes):
    """The good clip's description with another file behind it, as after damage on disk."""
    return replace(clip_of(good), path=path, **changes)


def test_identities(metric, tmp_path):
    still = np.repeat(texture(1, 64, 96, 1, 0), 5, axis=0)
    scores = metric.score(clip_of(write(tmp_path / "still-0.mp4", still, crf=0)))
    assert scores["temporal_flickering"] == 1.0
    assert scores["background_consistency"] == pytest.approx(1.0, abs=1e-6)
    moving = metric.score(clip_of(write(tmp_path / "moving-0.mp4", texture(5, 64, 96, 1, 5), crf=0)))
    assert moving["temporal_flickering"] < 0.95
    assert moving["background_consistency"] < 1.0 - 1e-5


def test_empty_truncated_and_alien_files(metric, good, tmp_path):
    whole = good.read_bytes()
    damaged = {
        "empty": b"",
        "truncated": whole[: len(whole) // 2],
        "text": b"this is no video\n" * 100,
    }
    for name, content in damaged.items():
        path = tmp_path / f"{name}-0.mp4"
        path.write_bytes(content)
        with pytest.raises(ClipError, match=name):
            metric.score(as_clip(good, path))
    with pytest.raises(ClipError, match="does not exist"):
        metric.score(as_clip(good, tmp_path / "absent-0.mp4"))
    assert metric.score(clip_of(good))["temporal_flickering"] > 0


def test_a_clip_whose_frames_stop_early_is_truncated(metric, good, tmp_path):
    """The index stands at the front and promises more frames than are there."""
    import av

    front = tmp_path / "front-0.mp4"
    with av.open(str(good)) as source, av.open(str(front), "w", options={"movflags": "faststart"}) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    data = front.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    cut = tmp_path / "cut-0.mp4"
    cut.write_bytes(data[: -len(data) // 3])
    with pytest.raises(ClipError, match=r"truncated|no video|no frame"):
        metric.score(as_clip(good, cut))


def test_one_frame_is_too_short_for_what_compares_frames(metric, tmp_path):
    path = write(tmp_path / "one-0.mp4", texture(1, 64, 96, 2, 0))
    with pytest.raises(ClipError, match=r"1 frames; .* needs 2"):
        metric.score(clip_of(path))
    alone = VBench(VBenchOptions(dimensions=("aesthetic_quality",)))
    alone.setup("cpu")
    assert math.isfinite(alone.score(clip_of(path))["aesthetic_quality"])
    alone.close()


def test_odd_sizes_and_varying_rates_score(metric, tmp_path):
    times = list(itertools.accumulate([0, 40, 120, 60, 200, 20]))
    for path in (
        write(tmp_path / "odd-0.mp4", texture(6, 35, 51, 3, 1)),
        write(tmp_path / "varying-0.mp4", texture(6, 64, 96, 3, 1), times=times),
    ):
        scores = metric.score(clip_of(path))
        assert all(math.isfinite(scores[name]) for name in CHEAP)


@pytest.mark.parametrize(
    "stem",
    ["0-0_ema", "a - b-0", 'it\'s "quoted"', "a" * 251, "-starts with a dash", "50% _d %02d", "é 猫", "a;b&c $x"],
)
def test_any_file_name_scores_the_same(metric, good, tmp_path, stem):
    named = tmp_path / f"{stem}.mp4"
    shutil.copy(good, named)
    assert metric.score(clip_of(named)) == pytest.approx(dict(metric.score(clip_of(good))), nan_ok=True, abs=0)


def test_a_prompt_outside_the_suite_is_refused_in_standard_mode(weights, good):
    metric = VBench(VBenchOptions(mode="standard", dimensions=("temporal_flickering", "aesthetic_quality")))
    metric.setup("cpu")
    with pytest.raises(ClipError, match="not in VBench's suite"):
        metric.score(clip_of(good, "a prompt of my own"))
    still = metric.score(clip_of(good, "In a still frame, a stop sign"))
    assert math.isfinite(still["temporal_flickering"])
    assert math.isnan(still["aesthetic_quality"])
    metric.close()


def test_without_a_prompt_only_what_compares_with_it_fails(weights, good):
    for names in (("overall_consistency",), ("temporal_flickering", "human_action")):
        metric = VBench(VBenchOptions(dimensions=names))
        metric.setup("cpu")
        with pytest.raises(ClipError, match=f"no prompt; {names[-1]}"):
            metric.score(clip_of(good, " "))
        metric.close()
    metric = VBench(VBenchOptions(dimensions=("temporal_flickering",)))
    metric.setup("cpu")
    assert metric.score(clip_of(good, ""))["temporal_flickering"] > 0
    metric.close()


def test_augmented_prompts_are_scored_by_the_short_ones(weights, good, tmp_path):
    table = tmp_path / "prompts.jsonl"
    table.write_text('{"prompt": "a very long still frame of a sign", "short": "In a still frame, a stop sign"}\n')
    options = VBenchOptions(mode="standard", dimensions=("temporal_flickering",), prompts=str(table))
    metric = VBench(options)
    metric.setup("cpu")
    scores = metric.score(clip_of(good, "a very long still frame of a sign"))
    assert math.isfinite(scores["temporal_flickering"])
    metric.close()


def test_the_static_filter_is_the_packages_own(weights, tmp_path, environment, monkeypatch):
    """Random flow is strong everywhere; weakened, the same clip stands still; below 128 pixels it is no number."""
    weak = tmp_path / "weak"
    _linked(weights, weak / "vbench")
    raft = weak / "vbench" / "raft_model" / "models" / "raft-things.pth"
    state = torch.load(raft, weights_only=True)
    raft.unlink()
    torch.save({key: tensor * 0.01 if "flow_head.conv2" in key else tensor for key, tensor in state.items()}, raft)
    large = write(tmp_path / "large-0.mp4", texture(5, 128, 160, 4, 3))
    small = write(tmp_path / "small-0.mp4", texture(5, 64, 96, 4, 3))
    static = []
    for root, paths in ((weights.parent, (large, small)), (weak, (large,))):
        monkeypatch.setenv("VIDEOMLA_WEIGHTS", str(root))
        metric = VBench(VBenchOptions(dimensions=("temporal_flickering",), static_filter=True))
        metric.setup("cpu")
        static += [not math.isnan(metric.score(clip_of(path))["temporal_flickering"]) for path in paths]
        metric.close()
    strong = weights / "raft_model" / "models" / "raft-things.pth"
    cases = [(str(strong), str(large)), (str(strong), str(small)), (str(raft), str(large))]
    assert static == inside(environment, "upstream_static.py", {"cases": cases}, weights) == [False, True, True]


WRONG = {
    "dino_model/dino_vitbase16_pretrain.pth": "subject_consistency",
    "clip_model/ViT-B-32.pt": "background_consistency",
    "aesthetic_model/emb_reader/sa_0_4_vit_l_14_linear.pth": "aesthetic_quality",
    "pyiqa_model/musiq_spaq_ckpt-358bb6af.pth": "imaging_quality",
    "amt_model/amt-s.pth": "motion_smoothness",
    "raft_model/models/raft-things.pth": "dynamic_degree",
    "umt_model/l16_ptk710_ftk710_ftk400_f16_res224.pth": "human_action",
    "ViCLIP/ViClip-InternVid-10M-FLT.pth": "overall_consistency",
}


class Harmful:
    """Would create a file if it were unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.fixture(scope="module")
def spoilt(weights, tmp_path_factory):
    """A copy of the weights by links, to be spoilt a file at a time, and a worker that reads them."""
    root = tmp_path_factory.mktemp("spoilt")
    _linked(weights, root / "vbench")
    before, os.environ["VIDEOMLA_WEIGHTS"] = os.environ["VIDEOMLA_WEIGHTS"], str(root)
    anchor = VBench(VBenchOptions(dimensions=("temporal_flickering",)))
    anchor.setup("cpu")
    yield root / "vbench"
    anchor.close()
    os.environ["VIDEOMLA_WEIGHTS"] = before


@pytest.mark.parametrize("file", WRONG)
def test_a_wrong_checkpoint_is_refused(spoilt, good, tmp_path, file):
    target, harmed = spoilt / file, tmp_path / "harmed"
    link = target.readlink()
    contents = [{}, {"state_dict": {}, "model": {}}, {"x": torch.zeros(1)}, Harmful(str(harmed)), None]
    metric = VBench(VBenchOptions(dimensions=(WRONG[file],)))
    metric.setup("cpu")
    for content in contents:
        target.unlink()
        if content is None:
            target.write_bytes(b"nonsense" * 100)
        else:
            torch.save(content, target)
        with pytest.raises(WeightsError, match=re.escape(target.name)):
            metric.score(clip_of(good, "A person is abseiling"))
    metric.close()
    target.unlink()
    target.symlink_to(link)
    assert not harmed.exists()


def test_wrong_files_of_the_long_range_half_are_refused_by_name(spoilt, tmp_path):
    """An adapter whose tensors fit no layer would leave the ensemble as it is: the package takes it without a word."""
    clip = clip_of(write(tmp_path / "long-0.mp4", texture(5, 64, 96, 0, 2), rate=2))
    adapter = spoilt / "dreamsim_model" / "ensemble_lora" / "adapter_model.safetensors"
    alien = {name.replace("qkv", "proj"): tensor for name, tensor in load_file(adapter).items()}
    cases = [
        (spoilt / "dinov2_model" / "dinov2_vitb14_pretrain.pth", b"nonsense", "cannot be read"),
        (spoilt / "dreamsim_model" / "clip_vitb16_pretrain.pth.tar", b"nonsense", "cannot be read"),
        (adapter, save(alien), "is no adapter of DreamSim's ensemble: 72 of 72 tensors are missing, 72 are unknown"),
        (spoilt / "long_tables" / "subject_mapping_table.yaml", b"[1, 2]", "is no table of similarities"),
    ]
    metric = VBenchLong(VBenchLongOptions())
    metric.setup("cpu")
    for target, content, cause in cases:  # a network that has been loaded is not read again
        link = target.readlink()
        target.unlink()
        target.write_bytes(content)
        with pytest.raises(WeightsError, match=f"{re.escape(target.name)} {cause}"):
            metric.score(clip)
        target.unlink()
        target.symlink_to(link)
    metric.close()


def _linked(source, target):
    """A copy of a weights folder by links."""
    for path in source.rglob("*"):
        below = target / path.relative_to(source)
        if path.is_dir():
            below.mkdir(parents=True, exist_ok=True)
        else:
            below.parent.mkdir(parents=True, exist_ok=True)
            below.symlink_to(path.resolve())


def test_a_checkpoint_of_another_network_is_refused(weights, good, tmp_path, monkeypatch):
    """In a worker of its own: one that has loaded the network reads no second file for it."""
    _linked(weights, tmp_path / "vbench")
    monkeypatch.setenv("VIDEOMLA_WEIGHTS", str(tmp_path))
    target = tmp_path / "vbench" / "clip_model" / "ViT-B-32.pt"
    link = target.readlink()
    target.unlink()
    target.symlink_to(link.with_name("ViT-L-14.pt"))
    metric = VBench(VBenchOptions(dimensions=("background_consistency",)))
    metric.setup("cpu")
    with pytest.raises(WeightsError, match="patches of 14"):
        metric.score(clip_of(good))
    metric.close()


def test_a_foreign_object_beside_the_weights_is_passed_over(spoilt, good):
    """As in AMT's published file, which carries its configuration."""
    target = spoilt / "amt_model" / "amt-s.pth"
    link = target.readlink()
    metric = VBench(VBenchOptions(dimensions=("motion_smoothness",)))
    target.unlink()
    held = torch.load(link, weights_only=True)
    torch.save({**held, "config": SimpleNamespace(width=3), "path": Path("x"), "epoch": np.float64(3.0)}, target)
    metric.setup("cpu")
    assert 0 < metric.score(clip_of(good))["motion_smoothness"] < 1
    metric.close()
    target.unlink()
    target.symlink_to(link)


def test_long_refuses_what_cannot_be_cut(weights, good, tmp_path):
    metric = VBenchLong(VBenchLongOptions())
    metric.setup("cpu")
    broken = tmp_path / "broken-0.mp4"
    broken.write_bytes(good.read_bytes()[:300])
    with pytest.raises(HarnessError, match="broken"):
        metric.score(as_clip(good, broken))
    metric.close()
