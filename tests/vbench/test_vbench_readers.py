"""Each dimension sees what VBench's own reader for it sees, and VBench finds every clip by its name."""

import json
from pathlib import Path

import numpy as np
import pytest
from ffmpeg import MOVING, decode, make
from vbench_helpers import clip_of, inside

from harness.metrics.vbench import VBench, VBenchOptions
from harness.metrics.vbench_totals import DIMENSIONS
from harness.runs.by_prompt import safe_name

pytestmark = pytest.mark.vbench

GREEN = (30, 200, 30)
PLAIN = "color=0x1ec81e:size=64x64:rate=16:duration=0.5,format=rgb24"
OPEN = "log-level=0:keyint=16:min-keyint=16:open-gop=1:bframes=4"


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("readers")
    tagged = "scale=out_color_matrix={0}:out_range={1},setparams=colorspace={0}:range={1},format=yuv420p"
    kinds = {"bt709 tv": ("bt709", "tv"), "bt709 pc": ("bt709", "pc"), "bt2020 tv": ("bt2020nc", "tv")}
    paths = {
        name: make(folder / f"{name}.mp4", "-vf", tagged.format(*kind), "-c:v", "libx264", source=PLAIN)
        for name, kind in kinds.items()
    }
    paths["none"] = make(folder / "none.mp4", "-c:v", "libx264", "-pix_fmt", "yuv420p", source=MOVING)
    long = "testsrc2=size=128x96:rate=16:duration=5.1"
    paths["open"] = make(folder / "open.mp4", "-c:v", "libx265", "-x265-params", OPEN, source=f"{long},format=yuv420p")
    return paths


@pytest.fixture(scope="module")
def seen(environment, weights, clips):
    answers = inside(environment, "readers.py", {"paths": [str(path) for path in clips.values()]}, weights)
    return dict(zip(clips, answers, strict=True))


@pytest.mark.parametrize("name", ["bt709 tv", "bt709 pc", "bt2020 tv"])
def test_tagged_colours_are_those_of_the_packages_reader(clips, seen, name):
    """decord honours the tag, as ffmpeg does; OpenCV 4.11 does not, neither here nor in the package."""
    by_ffmpeg = decode(clips[name], 64, 64).reshape(-1, 3).mean(0)
    assert np.abs(by_ffmpeg - GREEN).max() <= 2
    assert np.abs(np.array(seen[name]["decord"]) - by_ffmpeg).max() <= 2
    assert seen[name]["decord"] == seen[name]["package"]
    assert np.abs(np.array(seen[name]["opencv"]) - by_ffmpeg).max() > 10
    assert not seen[name]["shared"]


def test_readers_that_agree_share_their_frames(seen):
    assert seen["none"]["shared"]
    assert seen["open"]["shared"]
    assert seen["none"]["jumping differs"] == 0


def test_frames_are_chosen_in_order_and_the_record_says_where_the_package_gets_others(clips, seen, weights):
    assert seen["open"]["frames"] == 82
    assert seen["open"]["jumping differs"] > 0
    metric = VBench(VBenchOptions(dimensions=("overall_consistency",)))
    metric.setup("cpu")
    try:
        metric.score(clip_of(clips["open"]))
        samples = metric.samples()
        assert samples["overall_consistency_other_frames_upstream"] == [seen["open"]["jumping differs"]]
        assert metric.notes()["readers"]["decord"] == "all other dimensions"
        metric.score(clip_of(clips["none"]))
        assert not metric.samples()
    finally:
        metric.close()


def test_vbench_finds_every_clip_by_its_name(environment, weights, tmp_path):
    """Five samples of each of its 944 prompts, under the names that `harness by-prompt` gives."""
    (info,) = environment.root.glob("lib/python*/site-packages/vbench/VBench_full_info.json")
    entries = json.loads(Path(info).read_text(encoding="utf-8"))
    folder = tmp_path / "clips"
    folder.mkdir()
    prompts = {entry["prompt_en"] for entry in entries}
    assert len(prompts) == 944
    for prompt in prompts:
        for sample in range(5):
            (folder / f"{safe_name(prompt)}-{sample}.mp4").touch()
    request = {"folder": str(folder), "info": str(info), "out": str(tmp_path), "dimensions": list(DIMENSIONS)}
    found = inside(environment, "readers.py", request, weights)
    expected = {name: sum(name in entry["dimension"] for entry in entries) for name in DIMENSIONS}
    assert {name: counts.count(5) for name, counts in found.items()} == expected
    assert all(set(counts) == {5} for counts in found.values())
