import math
import shutil

import numpy as np
import pytest
from vbench_helpers import clip_of, inside, texture, write

from harness.metrics import vbench_score
from harness.metrics.vbench import VBench, VBenchOptions
from harness.metrics.vbench_long import VBenchLong, VBenchLongOptions

pytestmark = pytest.mark.vbench

RATE = 2
"""Frames per second, so that a piece of two seconds has four frames."""


def varied(frames, seed):
    """Frames whose motion and brightness change, so that no two pieces are alike."""
    pixels = texture(frames, 64, 96, seed, 3).astype(np.float64)
    fade = np.linspace(1.0, 0.4, frames)[:, None, None, None]
    return (pixels * fade).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("long")
    write(folder / "whole-0.mp4", varied(8, 0), rate=RATE)
    write(folder / "rest-0.mp4", varied(11, 1), rate=RATE)
    return folder


@pytest.fixture(scope="module")
def long(weights):
    metric = VBenchLong(VBenchLongOptions())
    metric.setup("cpu")
    yield metric
    metric.close()


@pytest.fixture(scope="module")
def direct(environment, weights, folder, tmp_path_factory):
    """VBench-Long run by itself on the folder of both clips."""
    copied = tmp_path_factory.mktemp("direct") / "videos"
    shutil.copytree(folder, copied)
    return inside(environment, "upstream_long.py", {"videos": str(copied), "dimensions": vbench_score.SIX}, weights)


@pytest.fixture(scope="module")
def compat(weights, folder):
    metric = VBenchLong(VBenchLongOptions(compat="upstream"))
    metric.setup("cpu")
    found = {}
    for name in ("whole-0", "rest-0"):
        values = metric.score(clip_of(folder / f"{name}.mp4"))
        found[name] = (values, metric.samples())
    underscored = folder / "whole_0-0.mp4"
    shutil.copy(folder / "whole-0.mp4", underscored)
    found["whole_0-0"] = (metric.score(clip_of(underscored)), metric.samples())
    underscored.unlink()
    metric.close()
    return found


def test_compat_gives_upstreams_pieces(compat, direct):
    for dimension in vbench_score.SIX:
        scale = 100 if dimension == "imaging_quality" else 1
        rows = direct[dimension][1]
        for name, pieces in (("whole-0", 2), ("rest-0", 3)):
            theirs = sorted(
                (r["video_path"], r["video_results"] / scale) for r in rows if f"/{name}" in r["video_path"]
            )
            ours = compat[name][1][f"{dimension}_by_piece"]
            assert len(ours) == len(theirs) == pieces == compat[name][0]["pieces"]
            assert ours == pytest.approx([value for _, value in theirs], abs=1e-6), dimension


def test_upstreams_overall_is_the_mean_over_pieces_and_not_over_videos(compat, direct):
    pieces = [value for name in ("whole-0", "rest-0") for value in compat[name][1]["aesthetic_quality_by_piece"]]
    assert direct["aesthetic_quality"][0] == pytest.approx(np.mean(pieces), abs=1e-6)


def test_an_underscore_loses_upstreams_comparison_of_pieces(compat):
    assert compat["whole-0"][0]["subject_consistency_clip_to_clip"] > 0
    assert compat["whole_0-0"][0]["subject_consistency_clip_to_clip"] == 0


def test_pieces_equal_vbench_on_the_same_frames(long, folder, tmp_path, weights):
    """A piece scores as a clip of its own does: here cut without loss, since the source is what is encoded anew."""
    pixels = varied(11, 1)
    source = write(tmp_path / "source-0.mp4", pixels, rate=RATE, crf=0)
    values = long.score(clip_of(source))
    samples = long.samples()
    short = VBench(VBenchOptions(dimensions=vbench_score.SIX))
    short.setup("cpu")
    for index, (first, end) in enumerate([(0, 4), (4, 8), (7, 11)]):
        piece = clip_of(write(tmp_path / f"piece-{index}.mp4", pixels[first:end], rate=RATE, crf=0))
        for name, score in short.score(piece).items():
            if name in vbench_score.SIX:
                assert samples[f"{name}_by_piece"][index] == pytest.approx(score, abs=1e-6), (name, index)
    short.close()
    for name in vbench_score.SIX:
        assert values[name] == pytest.approx(np.mean(samples[f"{name}_by_piece"]), abs=1e-12)


def test_drift_stands_beside_the_mean(long, folder):
    values = long.score(clip_of(folder / "rest-0.mp4"))
    pieces = long.samples()["imaging_quality_by_piece"]
    assert values["imaging_spread"] == pytest.approx(np.std(pieces), abs=1e-12)
    assert values["imaging_change"] == pytest.approx(pieces[-1] - pieces[0], abs=1e-12)
    assert values["imaging_spread"] > 0
    assert values["dynamic_degree"] in (0.0, pytest.approx(1 / 3), pytest.approx(2 / 3), 1.0)


def test_any_file_name_gives_the_same_numbers(long, tmp_path):
    plain = write(tmp_path / "plain-0.mp4", varied(5, 4), rate=RATE)
    expected = long.score(clip_of(plain))
    assert expected["subject_consistency_clip_to_clip"] > 0
    for stem in ("0-0_ema", 'it\'s a "dog" - 100% _x_', "a" * 251, "-Scene-1", "é ü 猫"):
        named = tmp_path / f"{stem}.mp4"
        shutil.copy(plain, named)
        assert long.score(clip_of(named)) == expected, stem


def test_a_clip_of_one_piece_has_no_comparison_of_pieces(long, tmp_path):
    path = write(tmp_path / "one-0.mp4", varied(3, 2), rate=RATE)
    values = long.score(clip_of(path))
    assert values["pieces"] == 1
    assert math.isnan(values["subject_consistency_clip_to_clip"])
    assert values["imaging_spread"] == values["imaging_change"] == 0


def test_a_still_clip_is_consistent_from_piece_to_piece(long, tmp_path):
    still = np.repeat(texture(1, 64, 96, 3, 0), 9, axis=0)
    values = long.score(clip_of(write(tmp_path / "still-0.mp4", still, rate=RATE, crf=0)))
    for name in ("subject_consistency", "background_consistency"):
        assert values[name] == pytest.approx(1.0, abs=1e-6)
        assert values[f"{name}_clip_to_clip"] == pytest.approx(1.0, abs=1e-6)
    assert values["imaging_spread"] == pytest.approx(0.0, abs=1e-6)
