import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
from vbench_helpers import Inside, clip_of, texture, write

from harness.errors import ClipError
from harness.metrics import vbench_totals
from harness.metrics.vbench import VBench, VBenchOptions
from harness.metrics.vbench_long import CONSISTENCY, VBenchLong, VBenchLongOptions

pytestmark = pytest.mark.vbench

RATE = 2
"""Frames per second, so that a piece of two seconds has four frames."""
PIECES = {"whole-0": 2, "rest-0": 3}
FIRSTS = [0, 4, 7]
"""First frames of the pieces of `rest-0`, which has eleven frames."""


def varied(frames, seed):
    """Frames whose motion and brightness change, so that no two pieces are alike."""
    pixels = texture(frames, 64, 96, seed, 3).astype(np.float64)
    fade = np.linspace(1.0, 0.4, frames)[:, None, None, None]
    return (pixels * fade).astype(np.uint8)


def opened(compat):
    metric = VBenchLong(VBenchLongOptions(compat=compat))
    metric.setup("cpu")
    return metric


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("long")
    write(folder / "whole-0.mp4", varied(8, 0), rate=RATE)
    write(folder / "rest-0.mp4", varied(11, 1), rate=RATE)
    return folder


@pytest.fixture(scope="module")
def long(weights):
    metric = opened("long")
    yield metric
    metric.close()


@pytest.fixture(scope="module")
def in_clip(weights):
    metric = opened("in_clip")
    yield metric
    metric.close()


@pytest.fixture(scope="module")
def lossless(long, tmp_path_factory):
    """A clip whose pixels are kept without loss, and its numbers in mode `long`."""
    path = write(tmp_path_factory.mktemp("lossless") / "source-0.mp4", varied(11, 1), rate=RATE, crf=0)
    return path, long.score(clip_of(path)), long.samples()


@pytest.fixture(scope="module")
def direct(environment, weights, folder, lossless, tmp_path_factory):
    """VBench-Long run by itself: with its development flag, without it, and on the first frames of pieces alone."""
    copies = [tmp_path_factory.mktemp("direct") / "videos" for _ in range(2)]
    for copy in copies:
        shutil.copytree(folder, copy)
    _, values, _ = lossless
    firsts = write(tmp_path_factory.mktemp("firsts") / "firsts-0.mp4", varied(11, 1)[FIRSTS], rate=RATE, crf=0)
    runs = [
        {"videos": str(copies[0]), "dimensions": vbench_totals.SIX, "dev": True},
        {"videos": str(copies[1]), "dimensions": CONSISTENCY, "dev": False},
        {"firsts": str(firsts), "in_clip": {name: values[f"{name}_in_clip"] for name in CONSISTENCY}},
    ]
    script = Inside(environment, "upstream_long.py", {"root": str(weights), "runs": runs}, weights)
    yield [script.answer() for _ in runs]
    script.close()


@pytest.fixture(scope="module")
def dev(weights, folder):
    """Numbers and samples by name, with those of a name that upstream cuts."""
    underscored = folder.parent / "whole_0-0.mp4"
    shutil.copy(folder / "whole-0.mp4", underscored)
    metric = opened("upstream_dev")
    paths = [*(folder / f"{name}.mp4" for name in PIECES), underscored]
    yield {path.stem: (metric.score(clip_of(path)), metric.samples()) for path in paths}
    metric.close()


def rows_of(results, dimension, name):
    """The package's rows for one long video, a row a piece."""
    return sorted(
        (row for row in results[dimension][1] if f"/{name}" in row["video_path"]), key=lambda r: r["video_path"]
    )


@pytest.mark.parametrize("name", PIECES)
def test_upstream_dev_gives_the_packages_own_numbers(dev, direct, name):
    values, samples = dev[name]
    assert values["pieces"] == PIECES[name]
    for dimension in vbench_totals.SIX:
        scale = 100 if dimension == "imaging_quality" else 1
        rows = rows_of(direct[0], dimension, name)
        scores = [row["video_results"] / scale for row in rows]
        pieces = [row.get("inclip_score", row["video_results"]) / scale for row in rows]
        assert samples[f"{dimension}_by_piece"] == pytest.approx(pieces, abs=1e-6), dimension
        assert values[dimension] == pytest.approx(np.mean(scores), abs=1e-6), dimension
    for dimension in CONSISTENCY:
        (row, *_) = rows_of(direct[0], dimension, name)
        assert 0 < row["clip2clip_score"] < row["mapped_clip2clip_score"] < 1
        assert values[f"{dimension}_clip_to_clip"] == pytest.approx(row["clip2clip_score"], abs=1e-6)
        assert values[f"{dimension}_long_range"] == pytest.approx(row["mapped_clip2clip_score"], abs=1e-6)
        halves = (values[f"{dimension}_in_clip"] + values[f"{dimension}_long_range"]) / 2
        assert values[dimension] == pytest.approx(halves, abs=1e-12)


def test_upstream_in_clip_gives_the_packages_own_numbers_without_its_flag(weights, folder, direct):
    metric = opened("upstream_in_clip")
    values = metric.score(clip_of(folder / "rest-0.mp4"))
    metric.close()
    for dimension in CONSISTENCY:
        rows = rows_of(direct[1], dimension, "rest-0")
        assert values[dimension] == pytest.approx(np.mean([row["video_results"] for row in rows]), abs=1e-6)
        assert values[f"{dimension}_clip_to_clip"] == pytest.approx(rows[0]["clip2clip_score"], abs=1e-6)
        assert math.isnan(values[f"{dimension}_long_range"])


def test_long_gives_the_packages_comparison_and_fusion_of_the_same_first_frames(lossless, direct):
    _, values, _ = lossless
    for dimension in CONSISTENCY:
        row = direct[2][dimension]
        assert values[f"{dimension}_clip_to_clip"] == pytest.approx(row["clip2clip_score"], abs=1e-6)
        assert values[f"{dimension}_long_range"] == pytest.approx(row["mapped_clip2clip_score"], abs=1e-6)
        assert values[dimension] == pytest.approx(row["video_results"], abs=1e-6)
        assert abs(values[dimension] - values[f"{dimension}_in_clip"]) > 1e-3


def test_the_half_is_in_the_mean_of_six(lossless):
    _, values, _ = lossless
    six = VBenchLong(VBenchLongOptions()).derive(values)["mean_of_six"]
    halves = sum((values[f"{name}_long_range"] - values[f"{name}_in_clip"]) / 2 for name in CONSISTENCY)
    without = {**values, **{name: values[f"{name}_in_clip"] for name in CONSISTENCY}}
    assert six == pytest.approx(vbench_totals.mean_of_six({n: without[n] for n in vbench_totals.SIX}) + halves / 6)


def test_an_underscore_loses_upstreams_long_range_half_and_not_ours(lossless, long, dev, tmp_path):
    path, values, _ = lossless
    shutil.copy(path, tmp_path / "0-0_ema.mp4")
    assert long.score(clip_of(tmp_path / "0-0_ema.mp4")) == values
    for name in CONSISTENCY:
        assert dev["whole_0-0"][0][f"{name}_clip_to_clip"] == dev["whole_0-0"][0][f"{name}_long_range"] == 0
        assert dev["whole_0-0"][0][name] == pytest.approx(dev["whole-0"][0][f"{name}_in_clip"], abs=1e-6)


def test_pieces_equal_vbench_on_the_same_frames(lossless, tmp_path):
    """A piece scores as a clip of its own does: here cut without loss, since the source is what is encoded anew."""
    pixels = varied(11, 1)
    _, values, samples = lossless
    short = VBench(VBenchOptions(dimensions=vbench_totals.SIX))
    short.setup("cpu")
    for index, first in enumerate(FIRSTS):
        piece = clip_of(write(tmp_path / f"piece-{index}.mp4", pixels[first : first + 4], rate=RATE, crf=0))
        for name, score in short.score(piece).items():
            if name in vbench_totals.SIX:
                assert samples[f"{name}_by_piece"][index] == pytest.approx(score, abs=1e-6), (name, index)
    short.close()
    for name in vbench_totals.SIX:
        mean = values[f"{name}_in_clip"] if name in CONSISTENCY else values[name]
        assert mean == pytest.approx(np.mean(samples[f"{name}_by_piece"]), abs=1e-12)


def test_in_clip_leaves_the_half_out_and_the_rest_as_it_is(in_clip, lossless):
    path, whole, _ = lossless
    values = in_clip.score(clip_of(path))
    for name in CONSISTENCY:
        assert values[name] == values[f"{name}_in_clip"] == whole[f"{name}_in_clip"]
        assert math.isnan(values[f"{name}_long_range"])
        assert abs(values[f"{name}_clip_to_clip"] - whole[f"{name}_clip_to_clip"]) > 1e-3
    for name in set(vbench_totals.SIX) - set(CONSISTENCY):
        assert values[name] == whole[name]


def test_drift_stands_beside_the_mean(lossless):
    _, values, samples = lossless
    pieces = samples["imaging_quality_by_piece"]
    assert values["imaging_spread"] == pytest.approx(np.std(pieces), abs=1e-12)
    assert values["imaging_change"] == pytest.approx(pieces[-1] - pieces[0], abs=1e-12)
    assert values["imaging_spread"] > 0
    assert values["dynamic_degree"] in (0.0, pytest.approx(1 / 3), pytest.approx(2 / 3), 1.0)


def test_frames_are_compared_at_every_distance_that_the_clip_has(lossless, in_clip, tmp_path):
    _, _, samples = lossless
    assert samples["piece_starts"] == FIRSTS
    assert samples["dino_distances"] == [2, 5, 10]
    assert all(-1 <= alike < 1 for alike in samples["dino_by_distance"])
    still = np.repeat(varied(1, 5), 9, axis=0)
    in_clip.score(clip_of(write(tmp_path / "still-0.mp4", still, rate=RATE, crf=0)))
    assert in_clip.samples()["dino_by_distance"] == pytest.approx([1.0, 1.0], abs=1e-4)


def test_any_file_name_gives_the_same_numbers(in_clip, tmp_path):
    plain = write(tmp_path / "plain-0.mp4", varied(5, 4), rate=RATE)
    expected = in_clip.score(clip_of(plain))
    assert expected["subject_consistency_clip_to_clip"] > 0
    for stem in ('it\'s a "dog" - 100% _x_', "a" * 251, "-Scene-1", "é ü 猫"):
        named = tmp_path / f"{stem}.mp4"
        shutil.copy(plain, named)
        assert in_clip.score(clip_of(named)) == pytest.approx(expected, abs=0, nan_ok=True), stem


def test_a_clip_of_one_piece(weights, long, in_clip, tmp_path):
    """Refused where a half would be missing; upstream leaves the half out without a word, and its own mode does so."""
    path = clip_of(write(tmp_path / "one-0.mp4", varied(4, 2), rate=RATE))
    with pytest.raises(ClipError, match=r"one-0\.mp4 has 4 frames, no more than one piece of 2 s: .*in_clip$") as fault:
        long.score(path)
    assert "\n" not in fault.value.message
    upstream = opened("upstream_dev")
    for metric in (in_clip, upstream):
        values = metric.score(path)
        assert values["pieces"] == 1
        assert values["imaging_spread"] == values["imaging_change"] == 0
        for name in CONSISTENCY:
            assert values[name] == pytest.approx(values[f"{name}_in_clip"], abs=1e-9)
            assert math.isnan(values[f"{name}_clip_to_clip"])
            assert math.isnan(values[f"{name}_long_range"])
    upstream.close()


def test_a_still_clip_is_consistent_from_piece_to_piece(long, tmp_path):
    still = np.repeat(texture(1, 64, 96, 3, 0), 9, axis=0)
    values = long.score(clip_of(write(tmp_path / "still-0.mp4", still, rate=RATE, crf=0)))
    for name in CONSISTENCY:
        assert values[f"{name}_clip_to_clip"] == pytest.approx(1.0, abs=1e-6)
        assert values[name] == pytest.approx(1.0, abs=1e-4)
    assert values["imaging_spread"] == pytest.approx(0.0, abs=1e-6)


def test_records_name_the_parts_of_the_mode(long, lossless):
    notes = long.notes()
    assert notes["compat"] == "long"
    assert notes["parts"]["weights"] == {"in_clip": 0.5, "long_range": 0.5}
    assert notes["packages"]["dreamsim"] == "0.2.1"


@pytest.mark.parametrize("compat", ["long", "upstream_dev"])
def test_a_damaged_clip_is_told_by_name(weights, folder, tmp_path, compat):
    whole = (folder / "rest-0.mp4").read_bytes()
    clip = clip_of(folder / "rest-0.mp4")
    metric = opened(compat)
    for name, content in {"empty": b"", "half": whole[: len(whole) // 2], "text": b"this is no video\n" * 50}.items():
        path = tmp_path / f"{name}-0.mp4"
        path.write_bytes(content)
        with pytest.raises(ClipError, match=f"{name}-0.mp4 is"):
            metric.score(replace(clip, path=path))
    metric.close()
