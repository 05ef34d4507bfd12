"""Parts of a plan: shares that together are the whole, whatever their number, and the units of some models alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from road import base, planned

from harness.errors import HarnessError
from harness.execute.shares import Shard, only, share
from harness.runs.plan import Plan

COUNTS = [1, 2, 3, 4, 7, 16, 100]


def suite(**changes: Any) -> dict[str, Any]:
    """Two models, clips of two lengths with scores, and measurements."""
    models = [{"name": "fake/moving", "label": "a"}, {"name": "fake/alone", "label": "b"}]
    sections = [
        {"name": "short", "prompts": "p", "seeds": [0, 1, 2], "frames": 6, "metrics": ["fake/brightness"], "batch": 4},
        {"name": "long", "prompts": "p", "seeds": [0], "frames": 24, "metrics": ["fake/brightness"]},
    ]
    measure = [
        {"name": "count", "probe": "fake/count", "prompts": "p", "frames": 4, "rounds": 2},
        {"name": "alone", "probe": "fake/device"},
    ]
    texts = [f"prompt {number}" for number in range(10)]
    return base(**{"models": models, "prompts": {"p": texts}, "generate": sections, "measure": measure, **changes})


def keys(plan: Plan) -> list[str]:
    return [unit.key for unit in plan.units]


@pytest.mark.parametrize("count", COUNTS)
def test_every_unit_is_in_exactly_one_share(tmp_path: Path, count: int) -> None:
    plan = planned(tmp_path, suite())
    shares = [share(plan, Shard(number, count)) for number in range(1, count + 1)]
    counted = Counter(key for each in shares for key in keys(each))
    assert counted == Counter(keys(plan))
    assert all(each.groups == plan.groups for each in shares)


@pytest.mark.parametrize("count", COUNTS)
def test_a_score_is_in_the_share_of_its_clip_and_a_section_of_measurements_in_one(tmp_path: Path, count: int) -> None:
    plan = planned(tmp_path, suite())
    sections = []
    for number in range(1, count + 1):
        part = share(plan, Shard(number, count))
        clips = {unit.key for unit in part.units if unit.kind == "generate"}
        assert {unit.preimage["generate"] for unit in part.units if unit.kind == "score"} == clips
        sections += list({unit.context["section"] for unit in part.units if unit.kind == "measure"})
    assert sorted(sections) == ["alone", "count"]


def test_shares_are_of_equal_frames_and_few_models(tmp_path: Path) -> None:
    plan = planned(tmp_path, suite())
    frames, arms = [], []
    for number in range(1, 5):
        clips = [unit for unit in share(plan, Shard(number, 4)).units if unit.kind == "generate"]
        frames.append(sum(unit.preimage["frames"] for unit in clips))
        arms.append({unit.context["arm"] for unit in clips})
    # 2 models x 10 prompts x (3 seeds x 6 frames + 24 frames); a batch of four short clips stays whole.
    assert sum(frames) == 840
    assert max(frames) - min(frames) <= 2 * 24
    assert all(len(each) == 1 for each in arms)


def test_a_share_holds_whole_batches(tmp_path: Path) -> None:
    plan = planned(tmp_path, suite())
    for number in range(1, 6):
        clips = [unit for unit in share(plan, Shard(number, 5)).units if unit.kind == "generate"]
        counts = Counter(unit.context["arm"] for unit in clips if unit.context["section"] == "short")
        # Thirty clips a model: seven batches of four, and one of two.
        assert all(count % 4 in (0, 2) for count in counts.values())


def test_a_share_does_not_depend_on_the_order_of_a_suite(tmp_path: Path) -> None:
    there = suite(measure=[])
    other = suite(
        models=there["models"][::-1],
        prompts={"p": there["prompts"]["p"][::-1]},
        generate=there["generate"][::-1],
        measure=[],
    )
    for number in range(1, 4):
        parts = [share(planned(tmp_path, data), Shard(number, 3)) for data in (there, other)]
        assert set(keys(parts[0])) == set(keys(parts[1]))


@pytest.mark.parametrize(
    "text", ["0/0", "5/4", "0/4", "-1/4", "1/-4", "1", "a/b", "1/4/4", "", "1.0/2", "1/1000000", "٣/٤"]
)
def test_a_shard_that_is_none_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(HarnessError, match="expected NUMBER/COUNT") as refused:
        Shard.parse(text)
    assert refused.value.exit_code == 2
    assert "\n" not in refused.value.message


def test_only_some_models_and_sections(tmp_path: Path) -> None:
    grid = {"name": "fake/moving", "label": "g", "grid": {"chunk": [2, 3]}}
    plan = planned(tmp_path, suite(models=[*suite()["models"], grid]))

    def places(*names: str) -> set[tuple[Any, Any]]:
        return {(unit.context["arm"], unit.context["section"]) for unit in only(plan, names).units}

    assert only(plan, []) is plan
    assert places("a") == {("a", "short"), ("a", "long"), ("a", "count")}
    assert places("long") == {(arm, "long") for arm in ("a", "b", "g [chunk=2]", "g [chunk=3]")}
    assert places("a", "b", "short") == {("a", "short"), ("b", "short")}
    assert places("g", "count") == {("g [chunk=2]", "count"), ("g [chunk=3]", "count")}
    assert places("g [chunk=2]", "count") == {("g [chunk=2]", "count")}
    assert places("alone") == {("", "alone")}
    assert only(plan, ["a"]).groups == plan.groups


@pytest.mark.parametrize(
    ("names", "message"),
    [(["lnog"], "did you mean long"), (["a", "alone"], "no section that is named has a model that is")],
)
def test_only_what_there_is(tmp_path: Path, names: list[str], message: str) -> None:
    with pytest.raises(HarnessError, match=message):
        only(planned(tmp_path, suite()), names)


def test_a_name_of_a_model_and_of_a_section_is_refused(tmp_path: Path) -> None:
    models = [{"name": "fake/moving", "label": "short"}]
    with pytest.raises(HarnessError, match="a model and a section of that name"):
        only(planned(tmp_path, suite(models=models)), ["short"])


def test_clips_that_are_taken_whole_are_shared_by_their_number(tmp_path: Path) -> None:
    plan = planned(tmp_path, suite(measure=[]))
    units = [replace(unit, preimage={**unit.preimage, "frames": "all"}) for unit in plan.units]
    whole = replace(plan, units=tuple(units))
    counts = [len(share(whole, Shard(number, 4)).units) for number in range(1, 5)]
    assert sum(counts) == len(units)
    assert max(counts) - min(counts) <= 2 * 4
