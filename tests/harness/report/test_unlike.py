"""Results that differ in more than the model are shown and told apart, and neither ranked nor compared."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from run_folders import Arm, Card, CardModel, write_run

from harness.contracts import ModelCard, registry
from harness.errors import RecordError
from harness.report.comparison import compare, side_of
from harness.report.render import latex, markdown
from harness.report.table import APART, NOTES, UNLIKE, Cell, Table
from harness.report.tables import build
from harness.report.terms import timed_apart
from harness.runs.records import load_run

COLUMNS = [{"value": "short:sharpness"}]
TABLES = [{"name": "t", "columns": COLUMNS}]


class SizedCard(Card):
    height: int = 8
    rate: float = 8.0


@registry.models.register("fake/sized")
class Sized(CardModel):
    schema = SizedCard

    def describe(self) -> ModelCard:
        return ModelCard("fake", self.options.height, 8, self.options.rate, 4)


def cells(found: Table, column: int = 0) -> dict[str, Cell]:
    return {row.label: row.cells[column] for row in found.rows}


def two_runs(folder: Path, one: Mapping[str, Any], two: Mapping[str, Any]) -> list[Path]:
    """Runs `one` of dense (0.5 for every clip) and `two` of latent (0.7)."""
    for name, label, score, changes in (("one", "dense", 0.5, one), ("two", "latent", 0.7, two)):
        count = changes.get("prompts", 4) * changes.get("seeds", 1)
        arm = Arm(label, [score] * count, device=changes.get("device", "Test CPU"))
        more = {key: value for key, value in changes.items() if key != "device"}
        write_run(folder / name, [arm], **{"tables": TABLES, "metric": "fake/plain", **more})
    return [folder / "one", folder / "two"]


def section(**changes: Any) -> list[dict[str, Any]]:
    return [{"name": "short", "prompts": "p", "frames": 8, "metrics": [{"name": "fake/plain"}], **changes}]


def sized(**options: Any) -> list[dict[str, Any]]:
    return [{"name": "fake/sized", "label": "latent", "options": {"label": "latent", **options}}]


UNLIKE_RUNS = [
    ({"prompts": 8}, "prompts (4 clips: dense; 8 clips: latent)"),
    ({"seeds": 2}, "prompts (4 clips: dense; 8 clips: latent)"),
    ({"generate": section(frames=16)}, "frames (8: dense; 16: latent)"),
    ({"models": sized(height=16)}, "frame size (8 x 8: dense; 16 x 8: latent)"),
    ({"models": sized(rate=16.0)}, "frame rate (8.0: dense; 16.0: latent)"),
    ({"device": "Other"}, "device (Test CPU (2 cores): dense; Other (2 cores): latent)"),
    (
        {"video": {"crf": 30}},
        'video ({"crf": 8, "preset": "veryfast"}: dense; {"crf": 30, "preset": "veryfast"}: latent)',
    ),
]


@pytest.mark.parametrize(("changes", "words"), UNLIKE_RUNS)
def test_means_of_unlike_clips_are_told_apart_and_not_ranked(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    (found,) = build([load_run(path) for path in two_runs(tmp_path, {}, changes)])
    assert [cell.text for cell in cells(found).values()] == ["0.500", "0.700"]
    assert not any(cell.best for cell in cells(found).values())
    assert all(UNLIKE in cell.marks for cell in cells(found).values())
    assert found.remarks[0].startswith(f"short: not ranked, as they differ in {words}.")
    assert ("--common" in found.remarks[0]) == words.startswith("prompts")
    assert NOTES[UNLIKE] in markdown(found)
    assert r"$\neq$" in latex(found)


def test_as_many_other_prompts_are_unlike_too(tmp_path: Path) -> None:
    first, second = two_runs(tmp_path, {}, {})
    path = second / "plan.json"
    path.write_text(path.read_text().replace('"prompt 3"', '"another"'))
    (found,) = build([load_run(first), load_run(second)])
    assert "short: not ranked, as they differ in prompts (4 clips 1: dense; 4 clips 2: latent)." in found.remarks[0]


def test_like_runs_are_ranked(tmp_path: Path) -> None:
    (found,) = build([load_run(path) for path in two_runs(tmp_path, {}, {})])
    assert [cell.best for cell in cells(found).values()] == [False, True]
    assert found.remarks == ()


@pytest.mark.parametrize(("changes", "words"), [case for case in UNLIKE_RUNS if not case[1].startswith("prompts")])
def test_a_comparison_refuses_what_a_table_does_not_rank(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    first, second = (load_run(path) for path in two_runs(tmp_path, {}, changes))
    (found,) = compare([(side_of(first, "dense"), side_of(second, "latent"))], ["short:sharpness"])
    assert (found.verdict, found.reason) == ("not compared", f"the arms differ in {words}")


def test_the_common_clips_are_ranked_where_they_are_asked_for(tmp_path: Path) -> None:
    write_run(tmp_path / "one", [Arm("dense", [0.1, 0.2, 0.3, 0.4])], tables=TABLES)
    scores = [0.2, 0.3, 0.4, 0.5, 0.0, 0.0, 0.0, 0.0]
    write_run(tmp_path / "two", [Arm("latent", scores)], prompts=8, tables=TABLES)
    runs = [load_run(tmp_path / name) for name in ("one", "two")]
    (apart,), (found,) = build(runs), build(runs, common=True)
    assert [cell.value for cell in cells(apart).values()] == pytest.approx([0.25, 1.4 / 8])
    assert [cell.value for cell in cells(found).values()] == pytest.approx([0.25, 0.35])
    assert [cell.count for cell in cells(found).values()] == ["4/4", "4/4"]
    assert [cell.best for cell in cells(found).values()] == [False, True]
    assert found.remarks == ("short: over the 4 clips that all runs plan (4 in one, 8 in two).",)


def test_seeds_are_common_too_and_runs_that_share_nothing_are_told_so(tmp_path: Path) -> None:
    write_run(tmp_path / "one", [Arm("dense", [0.1, 0.9] * 4)], seeds=2, tables=TABLES)
    write_run(tmp_path / "two", [Arm("latent", [0.3] * 4)], tables=TABLES)
    (found,) = build([load_run(tmp_path / name) for name in ("one", "two")], common=True)
    assert cells(found)["dense"].value == pytest.approx(0.1)
    path = tmp_path / "two" / "plan.json"
    path.write_text(path.read_text().replace('"prompt ', '"other '))
    with pytest.raises(RecordError, match="share no prompt and seed"):
        build([load_run(tmp_path / name) for name in ("one", "two")], common=True)


def test_speeds_of_two_workloads_are_not_ranked(tmp_path: Path) -> None:
    for name, batch, rate in (("one", 1, 2.0), ("two", 8, 9.0)):
        speed = [{"name": "speed", "probe": "fake/speed", "prompts": "p", "batch": batch, "rounds": 2}]
        write_run(
            tmp_path / name,
            [Arm(name, [0.5] * 4, speed=(rate, rate * 1.01))],
            measure=speed,
            tables=[{"name": "t", "columns": [{"value": "speed:rate"}]}],
        )
    (found,) = build([load_run(tmp_path / name) for name in ("one", "two")])
    assert not any(cell.best for cell in cells(found).values())
    assert "speed: not ranked, as they differ in batch (1: one; 8: two)." in found.remarks


# ------------------------------------------------------------------------------------- timed in turns


def timed(folder: Path, order: Sequence[tuple[str, int]]) -> Table:
    """A table of speeds of `a`, `b` and `c` in two rounds; each (arm, round) of `order` took a minute, one by one."""
    arms = [Arm(name, [0.5] * 4, speed=(rate, rate * 1.01)) for name, rate in (("a", 1.0), ("b", 2.0), ("c", 3.0))]
    write_run(folder, arms, tables=[{"name": "t", "columns": [{"value": "speed:rate"}]}])
    path = folder / "records.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        if line["kind"] == "measure":
            start = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(
                minutes=order.index((line["context"]["arm"], line["context"]["round"]))
            )
            line["started"], line["ended"] = start.isoformat(), (start + timedelta(seconds=50)).isoformat()
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return build([load_run(folder)])[0]


def test_a_model_that_was_timed_alone_later_is_marked_and_not_the_best(tmp_path: Path) -> None:
    in_turns = timed(tmp_path / "a", [("a", 0), ("b", 0), ("c", 0), ("c", 1), ("b", 1), ("a", 1)])
    assert [cell.best for cell in cells(in_turns).values()] == [False, False, True]
    assert not any(APART in cell.marks for cell in cells(in_turns).values())
    later = timed(tmp_path / "b", [("a", 0), ("b", 0), ("b", 1), ("a", 1), ("c", 0), ("c", 1)])
    assert [APART in cell.marks for cell in cells(later).values()] == [False, False, True]
    assert not any(cell.best for cell in cells(later).values())
    assert NOTES[APART] in markdown(later)
    run = load_run(tmp_path / "b")
    (beside,), (apart,) = (compare([(side_of(run, "a"), side_of(run, other))], ["speed:rate"]) for other in ("b", "c"))
    assert (APART in beside.marks, APART in apart.marks) == (False, True)


def test_the_largest_set_that_was_timed_in_turns_stands() -> None:
    def moment(minute: int) -> datetime:
        return datetime(2026, 1, 1, 0, minute, tzinfo=UTC)

    alone = {(0, "x"): (moment(0), moment(5)), (0, "y"): (moment(10), moment(20)), (1, "z"): (moment(15), moment(25))}
    assert timed_apart(alone) == {(0, "x")}
    assert timed_apart({(0, "x"): (moment(0), moment(5)), (1, "y"): (moment(5), moment(9))}) == {(1, "y")}
    assert timed_apart({(0, "x"): None, (1, "y"): None}) == timed_apart({}) == set()
