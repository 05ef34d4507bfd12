"""Time and disk of a plan from earlier records, checked by arithmetic."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from road import base, planned

from harness.runs.estimate import RECORD_BYTES, costs_of, estimate
from harness.runs.line import Record
from harness.runs.plan import Plan, Unit
from harness.runs.records import RecordFile

BEGAN = datetime(2030, 1, 1, tzinfo=UTC)


def suite(**changes: Any) -> dict[str, Any]:
    models = [{"name": "fake/moving", "label": "a"}, {"name": "fake/moving", "label": "b", "options": {"chunk": 2}}]
    sections = [
        {"name": "short", "prompts": "p", "seeds": [0, 1], "frames": 6, "metrics": ["fake/brightness"]},
        {"name": "long", "prompts": "p", "frames": 60},
    ]
    return base(**{"models": models, "generate": sections, **changes})


def record(unit: Unit, seconds: float, **members: Any) -> Record:
    ended = (BEGAN + timedelta(seconds=seconds)).isoformat()
    started = BEGAN.isoformat()
    return Record(unit.key, unit.kind, "ok", unit.preimage, unit.context, started=started, ended=ended, **members)


def written(folder: Path, records: list[Record]) -> RecordFile:
    with RecordFile(folder / "records.jsonl") as file:
        file.append_all(records)
    return file


def of(plan: Plan, kind: str, arm: str, section: str = "short") -> list[Unit]:
    return [
        unit for unit in plan.units if (unit.kind, unit.context["arm"], unit.context["section"]) == (kind, arm, section)
    ]


def test_clips_cost_by_frame_and_scores_by_clip(tmp_path: Path) -> None:
    plan = planned(tmp_path, suite())
    clip, score = of(plan, "generate", "a")[0], of(plan, "score", "a")[0]
    file = written(
        tmp_path,
        [record(clip, 12.0, clip={"frames": 6, "bytes": 600}), record(score, 3.0, values={"brightness": 1.0})],
    )
    cost = estimate(plan, [*of(plan, "generate", "a"), *of(plan, "score", "a")], costs_of([file]))
    # Two seconds and 100 bytes a frame: four clips of six frames, and four scores.
    assert cost.seconds == pytest.approx(4 * 6 * 2.0 + 4 * 3.0)
    assert cost.bytes == pytest.approx(4 * 6 * 100 + 8 * RECORD_BYTES)
    assert (cost.units, dict(cost.without), cost.unweighed) == (8, {}, 0)
    assert estimate(plan, of(plan, "generate", "a", "long"), costs_of([file])).seconds == pytest.approx(2 * 60 * 2.0)


def test_the_same_options_count_before_the_same_name_and_the_median_of_all(tmp_path: Path) -> None:
    plan = planned(tmp_path, suite())
    slow, fast = of(plan, "generate", "a"), of(plan, "generate", "b")
    times = [record(unit, 6.0 * n, clip={"frames": 6, "bytes": 6}) for n, unit in zip((1, 2, 90), slow, strict=False)]
    file = written(tmp_path, times)
    assert estimate(plan, slow, costs_of([file])).seconds == pytest.approx(4 * 6 * 2.0)
    # No record has the options of the other arm, but its name is known.
    assert estimate(plan, fast, costs_of([file])).seconds == pytest.approx(4 * 6 * 2.0)
    (tmp_path / "more").mkdir()
    more = written(tmp_path / "more", [record(fast[0], 3.0, clip={"frames": 6, "bytes": 6})])
    assert estimate(plan, fast, costs_of([file, more])).seconds == pytest.approx(4 * 6 * 0.5)


def test_clips_of_a_batch_share_its_seconds(tmp_path: Path) -> None:
    plan = planned(tmp_path, suite())
    units = of(plan, "generate", "a")
    made = [record(unit, 24.0, clip={"frames": 6, "bytes": 6}, notes={"batch": 4}) for unit in units]
    assert estimate(plan, units, costs_of([written(tmp_path, made)])).seconds == pytest.approx(24.0)


def test_what_nothing_is_known_of_is_named(tmp_path: Path) -> None:
    plan = planned(tmp_path, suite(measure=[{"name": "count", "probe": "fake/count", "prompts": "p", "frames": 4}]))
    cost = estimate(plan, plan.units, costs_of([RecordFile(tmp_path / "absent.jsonl")]))
    assert dict(cost.without) == {"fake/moving": 12, "fake/brightness": 8, "fake/count": 2}
    assert (cost.seconds, cost.unweighed) == (0.0, 12)


def test_failed_records_tell_nothing(tmp_path: Path) -> None:
    plan = planned(tmp_path, suite())
    units = of(plan, "generate", "a")
    file = written(tmp_path, [replace(record(units[0], 900.0), status="failed")])
    assert estimate(plan, units, costs_of([file])).without == {"fake/moving": 4}


def test_flops_at_a_rate_stand_in_for_records(tmp_path: Path) -> None:
    plan = planned(tmp_path, suite())
    arms = tuple(
        replace(arm, card=replace(arm.card, details={"flops_per_chunk": {"mlp": 1e9, "total": 5e9}}))
        for arm in plan.arms
    )
    plan = replace(plan, arms=arms)
    cost = estimate(plan, [*of(plan, "generate", "a"), *of(plan, "score", "a")], {}, rate=1e9)
    # Four clips of six frames in chunks of four: two chunks each, five seconds a chunk.
    assert (cost.seconds, cost.by_rate, dict(cost.without)) == (pytest.approx(40.0), 4, {"fake/brightness": 4})


def test_records_that_say_too_little_are_passed_over(tmp_path: Path) -> None:
    plan = planned(tmp_path, suite())
    units = of(plan, "generate", "a")
    good = record(units[0], 12.0, clip={"frames": 6, "bytes": 6})
    bad = [
        replace(record(units[1], 1.0), started=""),
        replace(record(units[2], 1.0), started="2030-01-01T00:00:00"),
        replace(record(units[3], 1.0), preimage={"kind": "generate"}),
    ]
    cost = estimate(plan, units, costs_of([written(tmp_path, [*bad, good])]))
    assert cost.seconds == pytest.approx(4 * 6 * 2.0)
