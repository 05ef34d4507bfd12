"""`harness vbench totals`: the leaderboard's numbers from the files that VBench itself writes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.cli.main import main

RAW = {
    "subject_consistency": 0.95,
    "background_consistency": 0.96,
    "temporal_flickering": 0.99,
    "motion_smoothness": 0.985,
    "dynamic_degree": 0.65,
    "aesthetic_quality": 0.62,
    "imaging_quality": 0.68,
    "object_class": 0.90,
    "multiple_objects": 0.75,
    "human_action": 0.95,
    "color": 0.88,
    "spatial_relationship": 0.78,
    "scene": 0.50,
    "appearance_style": 0.22,
    "temporal_style": 0.24,
    "overall_consistency": 0.26,
}
# What scripts/cal_final_score.py of Vchitect/VBench at 45e79ec prints for these.
QUALITY, SEMANTIC, TOTAL = 0.8372948911, 0.7790670380, 0.8256493205

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["vbench", "totals", *map(str, arguments)])
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


def results(path: Path, raw: dict[str, Any]) -> Path:
    """A file as VBench writes it: the overall value, and one for each video."""
    path.write_text(
        json.dumps({name: [value, [{"video_path": "a-0.mp4", "video_results": 1}]] for name, value in raw.items()})
    )
    return path


def test_the_totals_are_those_of_vbenchs_own_script(tmp_path: Path, call: Call) -> None:
    code, out, _ = call(results(tmp_path / "r_eval_results.json", RAW), "--json")
    assert code == 0
    body = json.loads(out)
    assert body["scores"]["quality"] == pytest.approx(QUALITY, abs=1e-10)
    assert body["scores"]["semantic"] == pytest.approx(SEMANTIC, abs=1e-10)
    assert body["scores"]["total"] == pytest.approx(TOTAL, abs=1e-10)
    assert body["normalised"]["subject_consistency"] == pytest.approx((0.95 - 0.1462) / (1 - 0.1462))
    assert body["raw"] == RAW
    code, out, _ = call(tmp_path / "r_eval_results.json")
    assert (code, f"{TOTAL:.9g}"[:10] in out) == (0, True)


def test_dimensions_may_lie_in_several_files_of_a_folder(tmp_path: Path, call: Call) -> None:
    for name, value in RAW.items():
        results(tmp_path / f"{name}_eval_results.json", {name.replace("_", " "): value})
    (tmp_path / "all_full_info.json").write_text("[]")
    _, out, _ = call(tmp_path, "--json")
    assert json.loads(out)["scores"]["total"] == pytest.approx(TOTAL, abs=1e-10)
    percents = results(tmp_path / "percents.json", {name: 100 * value for name, value in RAW.items()})
    _, out, _ = call(percents, "--percent", "--json")
    assert json.loads(out)["scores"]["total"] == pytest.approx(TOTAL, abs=1e-10)


def test_a_missing_dimension_is_not_taken_for_zero(tmp_path: Path, call: Call) -> None:
    without = {name: value for name, value in RAW.items() if name != "scene"}
    code, out, _ = call(results(tmp_path / "r.json", without))
    assert code == 0
    assert "not available: lacks scene" in out
    code, out, err = call(results(tmp_path / "s.json", {"scene": 0.5}))
    assert (code, "no score can be made of 1 of VBench's 16 dimensions" in err) == (3, True)


@pytest.mark.parametrize(
    ("raw", "options", "says"),
    [
        ({**RAW, "imaging_quality": 68.0}, [], "imaging_quality is 68, not from 0 to 1"),
        ({name: 100 * value for name, value in RAW.items()}, [], "say --percent if all values are from 0 to 100"),
        ({**{n: 100 * v for n, v in RAW.items()}, "color": 0.88}, ["--percent"], "color is 0.88, which is hardly"),
        ({**RAW, "color": -0.1}, [], "color is -0.1, not from 0 to 1"),
        ({**RAW, "colour": 0.9}, [], "VBench has no dimension 'colour'"),
        ({**RAW, "color": math.nan}, [], "color has no number first"),
        ({**RAW, "color": "0.9"}, [], "color has no number first"),
        ({**RAW, "color": True}, [], "color has no number first"),
        ({**RAW, "color": 10**400}, [], "color has no number first"),
        ({}, [], "no result of VBench"),
    ],
)
def test_values_of_no_scale_and_names_of_no_dimension_are_refused(
    tmp_path: Path, call: Call, raw: dict[str, Any], options: list[str], says: str
) -> None:
    code, out, err = call(results(tmp_path / "r.json", raw), *options)
    assert (code, out) == (2, "")
    assert says in err
    assert len(err.splitlines()) == 2


@pytest.mark.parametrize("content", [b"", b"[]", b"nonsense", b"[" * 100_000, b'{"color": []}', b"\xff\xfe"])
def test_what_is_no_result_file_is_one_line(tmp_path: Path, call: Call, content: bytes) -> None:
    (tmp_path / "r.json").write_bytes(content)
    for target in (tmp_path / "r.json", tmp_path, tmp_path / "absent.json"):
        code, _, err = call(target)
        assert (code, len(err.splitlines())) == (2, 2)


def test_two_values_of_one_dimension_are_refused(tmp_path: Path, call: Call) -> None:
    first = results(tmp_path / "a.json", RAW)
    second = results(tmp_path / "b.json", {"color": 0.5})
    code, _, err = call(first, second)
    assert (code, "color is 0.5, and 0.88 in" in err) == (2, True)
