"""Values with bounds: an interval stays inside them, and the end of a search is a lower bound."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from run_folders import Arm, Plain, Speed, write_run

from harness.contracts import Value, enforce, registry
from harness.errors import PluginFault
from harness.report.comparison import compare, side_of
from harness.report.render import latex, markdown
from harness.report.table import AT_LEAST, Table
from harness.report.tables import build
from harness.runs.records import load_run


@registry.metrics.register("fake/bounded")
class Bounded(Plain):
    values = (Value("sharpness", low=0.0, high=10.0),)


@registry.probes.register("fake/searched")
class Searched(Speed):
    values = (Value("rate", "requests", at_least_unless="found"), Value("found", "", "none"))


def test_an_interval_stays_inside_the_bounds_of_its_value(tmp_path: Path) -> None:
    # Mean 8 of four prompts with a deviation of 4: Student's t reaches 3.182 * 4 / 2 = 6.4 to either side.
    scores = [10.0, 10.0, 10.0, 2.0]
    cells = {}
    for metric in ("fake/plain", "fake/bounded"):
        write_run(tmp_path / metric, [Arm("a", scores)], metric=metric)
        cells[metric] = build([load_run(tmp_path / metric)])[0].rows[0].cells[0]
    free, held = cells["fake/plain"], cells["fake/bounded"]
    assert (free.low, free.high) == pytest.approx((8 - 6.3649, 8 + 6.3649), abs=1e-3)
    assert (held.low, held.high, held.value) == (free.low, 10.0, 8.0)
    assert held.spread == "[1.635, 10.000]"


@pytest.mark.parametrize(
    ("value", "number", "outside"),
    [
        (Value("v", low=0.0, high=1.0), 1.000001, False),
        # The next numbers of float16 above 1, in which a network's cosines may end.
        (Value("v", low=-1.0, high=1.0), 1 + 2 / 1024, False),
        (Value("v", low=-1.0, high=1.0), 1 + 3 / 1024, True),
        (Value("v", low=0.0, high=1.0), 1.1, True),
        (Value("v", low=0.0), -0.1, True),
        (Value("v", low=0.0), 1e9, False),
        (Value("v", share=True), 1.2, True),
        (Value("v"), -1e9, False),
        (Value("v", low=0.0, high=1.0), float("nan"), False),
    ],
)
def test_a_number_outside_of_its_bounds_is_a_fault(value: Value, number: float, outside: bool) -> None:
    if outside:
        with pytest.raises(PluginFault, match=r"metric m gave v .*, outside of"):
            enforce.values("metric m", [value], {"v": number})
    else:
        enforce.values("metric m", [value], {"v": number})


def searched(folder: Path, found: Mapping[str, float], relative: Any = False) -> Table:
    """A table of searches that ended at 16 for a and at 32 for b, each at a limit where `found` says 1."""
    arms = [Arm("a", [0.5] * 4, speed=(16.0, 16.0)), Arm("b", [0.5] * 4, speed=(32.0, 32.0))]
    measure = [{"name": "speed", "probe": "fake/searched", "prompts": "p", "rounds": 2}]
    column = {"value": "speed:rate", "format": "d" if not relative else ".2f", "relative": relative}
    write_run(folder, arms, measure=measure, tables=[{"name": "t", "columns": [column]}])
    path = folder / "records.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        if line["kind"] == "measure":
            line["values"]["found"] = found[line["context"]["arm"]]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return build([load_run(folder)])[0]


def texts(table: Table) -> list[str]:
    return [row.cells[0].text for row in table.rows]


def test_a_search_that_ended_before_a_limit_is_a_lower_bound_and_ranks_nothing(tmp_path: Path) -> None:
    both = searched(tmp_path / "a", {"a": 1, "b": 1})
    assert texts(both) == ["16", "32"]
    assert [row.cells[0].best for row in both.rows] == [False, True]
    ended = searched(tmp_path / "b", {"a": 1, "b": 0})
    assert texts(ended) == ["16", ">= 32"]
    assert not any(row.cells[0].best for row in ended.rows)
    assert ended.rows[1].cells[0].marks == (AT_LEAST,)
    assert ">= 32" in markdown(ended)
    assert r"\textgreater{}= 32$\diamond$" in latex(ended)
    run = load_run(tmp_path / "b")
    (finding,) = compare([(side_of(run, "a"), side_of(run, "b"))], ["speed:rate"])
    assert (finding.verdict, finding.reason) == ("not compared", "a search ended before it met a limit")


@pytest.mark.parametrize(
    ("found", "relative", "expected"),
    [
        ({"a": 1, "b": 0}, True, ["1.00", ">= 2.00"]),
        ({"a": 1, "b": 0}, "inverse", ["1.00", "<= 0.50"]),
        ({"a": 0, "b": 1}, True, ["1.00", "<= 2.00"]),
        ({"a": 0, "b": 0}, True, ["1.00", "undefined"]),
        ({"a": 1, "b": 1}, True, ["1.00", "2.00"]),
    ],
)
def test_a_ratio_of_lower_bounds_says_what_it_bounds(
    tmp_path: Path, found: Mapping[str, float], relative: Any, expected: list[str]
) -> None:
    assert texts(searched(tmp_path, found, relative)) == expected


@pytest.mark.parametrize("metric", ["clip/score", "clip/segments"])
def test_cosines_lie_between_their_ends(metric: str) -> None:
    declared = {value.name: (value.low, value.high) for value in registry.metrics.get(metric).values}
    # A difference of two cosines reaches twice as far.
    assert declared.pop("change", (-2.0, 2.0)) == (-2.0, 2.0)
    assert set(declared.values()) == {(-1.0, 1.0)}


FROM_0_TO_1 = "subject_consistency", "background_consistency", "temporal_flickering", "motion_smoothness"
COSINES = "appearance_style", "temporal_style", "overall_consistency"
SHARES = "dynamic_degree", "human_action", "object_class", "multiple_objects", "color", "scene"
NO_ENDS = "aesthetic_quality", "imaging_quality"


@pytest.mark.parametrize("metric", ["vbench", "vbench_long"])
def test_dimensions_of_vbench_have_the_ends_of_their_definitions(metric: str) -> None:
    ends = dict.fromkeys((*FROM_0_TO_1, "spatial_relationship"), (0.0, 1.0, False))
    ends |= dict.fromkeys(COSINES, (-1.0, 1.0, False)) | dict.fromkeys(SHARES, (None, None, True))
    ends |= dict.fromkeys((*NO_ENDS, "imaging_change"), (None, None, False))
    ends |= {"imaging_spread": (0.0, None, False), "pieces": (1.0, None, False)}
    halves = ("in_clip", "clip_to_clip", "long_range")
    ends |= {f"{name}_{half}": (0.0, 1.0, False) for name in FROM_0_TO_1[:2] for half in halves}
    declared = registry.metrics.get(metric).values
    assert len(declared) == (16 if metric == "vbench" else 6 + 6 + 3)
    for value in declared:
        assert (value.low, value.high, value.share) == ends[value.name], value.name


def test_ratings_distances_and_overlaps_stay_where_they_can_be() -> None:
    ends = {
        value.name: (value.low, value.high)
        for metric in (
            "judge",
            "frames/difference",
            "frames/flow",
            "against/lpips",
            "toy/world",
            "toy/survival",
            "toy/kept",
        )
        for value in registry.metrics.get(metric).values
        if not value.share
    }
    assert ends.pop("shape_drift") == (-1.0, 1.0)
    assert ends.pop("step") == (0.0, 255.0)
    assert {ends.pop(name) for name in ("shape_iou", "shape_iou_worst")} == {(0.0, 1.0)}
    assert {ends.pop(value.name) for value in registry.metrics.get("judge").values} == {(1.0, 5.0)}
    assert set(ends.values()) == {(0.0, None)}
