"""Scores of two clips: planned, waited for, kept and redone with both, by every road that makes clips."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from record_lines import drop_digests
from road import FAKES, base, outcome_of, planned, run, write

from harness.cli.main import main
from harness.contracts import registry
from harness.errors import SuiteError
from harness.execute import merging
from harness.execute.run import run_plan
from harness.execute.shares import Shard, only, share
from harness.report.comparison import compare, side_of
from harness.report.tables import build
from harness.runs.line import Record
from harness.runs.plan import Plan, scored_clips
from harness.runs.records import RecordFile, load_run
from harness.suite.load import load_suite

USE = {"name": "against", "against": "a", "options": {"window": 2, "unit": "frames", "windows": 2}}
# The second makes the pixels of the first, under another name; the third a plain frame.
ARMS = [
    {"name": "fake/moving", "label": "a"},
    {"name": "fake/alone", "label": "b"},
    {"name": "fake/by_width", "label": "c"},
]


def suite(**changes: Any) -> dict[str, Any]:
    section = {**base()["generate"][0], "metrics": [USE, "fake/brightness"]}
    return base(**{"models": ARMS, "generate": [section], **changes})


def records(folder: Path) -> dict[str, Record]:
    """The newest record of each unit."""
    return {record.key: record for record in RecordFile(folder / "records.jsonl").records()}


def scores(plan: Plan) -> list[Any]:
    return [unit for unit in plan.units if unit.context["plugin"] == "against"]


def clip_key(plan: Plan, arm: str, prompt: str, seed: int) -> str:
    facts = [("arm", arm), ("prompt", prompt), ("seed", seed)]
    return next(u.key for u in plan.units if u.kind == "generate" and all(u.context[n] == v for n, v in facts))


def test_each_clip_is_held_against_that_of_equal_prompt_and_seed(tmp_path: Path) -> None:
    plan = planned(tmp_path, suite())
    found = scores(plan)
    assert Counter(unit.context["arm"] for unit in found) == {"b": 4, "c": 4}
    for unit in found:
        facts = unit.context["prompt"], unit.context["seed"]
        expected = clip_key(plan, unit.context["arm"], *facts), clip_key(plan, "a", *facts)
        assert scored_clips(unit) == expected
        assert (unit.preimage["generate"], unit.preimage["reference"]) == expected
    # Another reference is another key, and the other metric knows nothing of it.
    other = planned(tmp_path, suite(generate=[{**suite()["generate"][0], "metrics": [{**USE, "against": "b"}]}]))
    assert not {unit.key for unit in scores(other)} & {unit.key for unit in found}


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
@pytest.mark.parametrize("more", [{}, {"batch": 3}])
def test_a_run_scores_when_both_clips_are_there_whatever_the_order(
    tmp_path: Path, order: tuple[int, ...], more: dict[str, Any]
) -> None:
    data = suite(models=[ARMS[number] for number in order], reference="a")
    data["generate"][0].update(more)
    outcome = run(tmp_path, data)
    assert (outcome.exit_code, outcome.planned, outcome.done_now) == (0, 12 + 8 + 12, 32)
    digests = {
        key: record.clip["digest"] for key, record in records(tmp_path / "run").items() if record.kind == "generate"
    }
    for record in records(tmp_path / "run").values():
        if record.context["plugin"] == "against":
            assert record.clip["digest"] == digests[str(record.preimage["generate"])]
            assert record.clip["reference"] == digests[str(record.preimage["reference"])]
            same = record.context["arm"] == "b"
            assert (record.values["identical"], record.values["psnr"] == 60) == (float(same), same)
    assert run(tmp_path, data).done_now == 0


def test_it_goes_on_after_any_number_of_units(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    run(tmp_path / "whole", suite())
    done = 0
    while (outcome := run(tmp_path, suite(), limit=3)).done_now:
        assert outcome.done_now <= 3
        done += outcome.done_now
    assert done == 32
    assert outcome_of(tmp_path / "run") == outcome_of(tmp_path / "whole" / "run")


def test_a_reference_that_is_made_again_otherwise_has_its_scores_made_again(tmp_path: Path) -> None:
    plan = planned(tmp_path, suite())
    run_plan(plan, tmp_path / "run")
    key = clip_key(plan, "a", "one", 0)
    path = tmp_path / "run" / "records.jsonl"
    lost = records(tmp_path / "run")[key].clip
    digest = str(lost["digest"])
    (tmp_path / "run" / str(lost["path"])).unlink()
    # Made again as it was, its scores stand.
    assert run_plan(plan, tmp_path / "run").done_now == 1
    # Of another clip they do not: those of the two arms that are held against it.
    path.write_text(drop_digests(path).read_text().replace(f'"reference":"{digest}"', f'"reference":"{"0" * 64}"'))
    assert run_plan(plan, tmp_path / "run").done_now == 2


def test_a_missing_clip_skips_its_scores_and_says_which(tmp_path: Path) -> None:
    broken = {"name": "fake/raises", "label": "a", "options": {"when": "two"}}
    outcome = run(tmp_path, suite(models=[broken, *ARMS[1:]]))
    reasons = Counter(
        str(record.notes.get("reason")) for record in records(tmp_path / "run").values() if record.status == "skipped"
    )
    assert reasons == {"its reference clip was not made": 4, "its clip was not made": 2}
    assert (outcome.failed, outcome.skipped) == (2, 6)
    # It was tried once, and is tried once again.
    assert run(tmp_path, suite(models=[broken, *ARMS[1:]])).failed == 2


def test_clips_of_another_length_fail_with_one_line(tmp_path: Path) -> None:
    for label, frames in (("long", 8), ("short", 6)):
        made = base(models=[ARMS[0]])
        made["generate"][0].update(frames=frames, metrics=[])
        folder = tmp_path / label
        folder.mkdir()
        run(folder, made)
        view = tmp_path / f"{label}-clips"
        view.mkdir()
        for record in records(folder / "run").values():
            name = f"{record.context['prompt']}-{record.context['index']}.mp4"
            (view / name).write_bytes((folder / "run" / str(record.clip["path"])).read_bytes())
    arms = [
        {"name": "folder", "label": label, "options": {"path": str(tmp_path / f"{label}-clips")}}
        for label in ("long", "short")
    ]
    data = suite(models=arms)
    data["generate"][0].update(frames="all", metrics=[{**USE, "against": "long"}])
    outcome = run(tmp_path, data)
    assert outcome.failed == 4
    failures = {str(record.error["message"]) for record in records(tmp_path / "run").values() if record.error}
    assert failures == {
        "the clip has 6 frames of 16 x 16 at 16 a second, its reference 8 frames of 16 x 16 at 16 a second, so that "
        "they cannot be compared"
    }
    # Cut to one length they can, and the clips of a folder are read as any others.
    data["generate"][0]["frames"] = 6
    assert run(tmp_path, data, replace_plan=True).exit_code == 0


def test_a_part_of_a_plan_has_the_clips_that_its_scores_need(tmp_path: Path) -> None:
    part = only(planned(tmp_path, suite()), ["c"])
    assert Counter((unit.kind, unit.context["arm"]) for unit in part.units) == {
        ("generate", "a"): 4,
        ("generate", "c"): 4,
        ("score", "c"): 8,
    }
    assert run_plan(part, tmp_path / "run").exit_code == 0


@pytest.mark.parametrize("count", [1, 2, 3, 5, 9])
def test_shards_hold_both_clips_of_a_score_and_unite_to_the_whole(tmp_path: Path, count: int) -> None:
    plan = planned(tmp_path, suite())
    run_plan(plan, tmp_path / "run")
    whole = tmp_path / "whole"
    keys: Counter[str] = Counter()
    for number in range(1, count + 1):
        part = share(plan, Shard(number, count))
        keys.update(unit.key for unit in part.units)
        assert {key for unit in part.units for key in scored_clips(unit)} <= {unit.key for unit in part.units}
        run_plan(part, whole / "shards" / Shard(number, count).name)
    assert keys == Counter(unit.key for unit in plan.units)
    merging.merge(whole, merging.shards_of(whole))
    assert outcome_of(whole) == outcome_of(tmp_path / "run")
    assert run_plan(plan, whole).done_now == 0


def test_a_merge_leaves_out_scores_against_a_clip_that_it_does_not_keep(tmp_path: Path) -> None:
    plan = planned(tmp_path, suite())
    run_plan(plan, tmp_path / "run")
    run_plan(plan, tmp_path / "other")
    path = tmp_path / "other" / "records.jsonl"
    key = clip_key(plan, "a", "one", 0)
    digest = str(records(tmp_path / "run")[key].clip["digest"])
    of_reference = [r.key for r in records(tmp_path / "run").values() if r.clip.get("reference") == digest]
    # The other run saw another clip of the reference, and scored against that.
    path.write_text(drop_digests(path).read_text().replace(f'"reference":"{digest}"', f'"reference":"{"1" * 64}"'))
    kept = tmp_path / "run" / "records.jsonl"
    lines = [
        each for each in kept.read_text().splitlines(keepends=True) if not any(k in each[:120] for k in of_reference)
    ]
    kept.write_text("".join(lines))
    merging.merge(tmp_path / "out", [tmp_path / "run", tmp_path / "other"], keep_first=True)
    assert not set(of_reference) & set(records(tmp_path / "out"))


def test_tables_call_the_reference_so_and_comparisons_leave_it_out(tmp_path: Path) -> None:
    tables = [{"name": "t", "columns": [{"value": "short:psnr"}, {"value": "short:together"}]}]
    run(tmp_path, suite(tables=tables))
    found = load_run(tmp_path / "run")
    (table,) = build([found])
    by_label = {row.label: row.cells[0] for row in table.rows}
    assert by_label["a"].text == "reference"
    assert (by_label["b"].value, by_label["b"].scored, by_label["b"].planned) == (60, 4, 4)
    assert [f.name for f in compare([(side_of(found, "a"), side_of(found, "b"))])] == []
    against_third = compare([(side_of(found, "b"), side_of(found, "c"))])
    assert {f.name for f in against_third} == {"short:psnr", "short:together"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"metrics": [{"name": "against"}]}, "needs an arm to hold clips against"),
        ({"metrics": ["against"]}, "needs an arm to hold clips against"),
        ({"metrics": [{"name": "fake/brightness", "against": "a"}]}, "holds a clip against no other"),
        ({"metrics": [{**USE, "against": "d"}]}, "unknown model label 'd'"),
        ({"models": ["b", "c"]}, "'a' makes no clips in section 'short'"),
        ({"models": ["a"]}, "held against themselves"),
    ],
)
def test_what_cannot_be_held_is_refused_when_the_suite_is_read(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    registry.load_plugin(FAKES)
    data = suite()
    data["generate"][0].update(change)
    with pytest.raises(SuiteError, match=said):
        load_suite(write(tmp_path, data))


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ({"name": "fake/moving", "label": "b"}, "makes the very clips of 'a'"),
        ({"name": "fake/moving", "label": "b", "options": {"height": 32}}, "32 x 16 pixels at 16 a second"),
    ],
)
def test_clips_that_are_known_not_to_fit_are_refused_before_anything_runs(
    tmp_path: Path, second: dict[str, Any], said: str
) -> None:
    with pytest.raises(SuiteError, match=said):
        planned(tmp_path, suite(models=[ARMS[0], second]))


def test_the_command_line_runs_and_plans_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, suite())
    out = tmp_path / "run"
    for arguments in (["run", "--out", str(out)], ["plan", "--explain"]):
        with pytest.raises(SystemExit) as ended:
            main([arguments[0], str(path), "--plugin", str(FAKES), *arguments[1:]])
        assert ended.value.code == 0
    assert capsys.readouterr().out.count('"reference":"') == 8
