"""Tables from run folders written by hand: values, intervals, counts, ranking, refusals and the default table."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from record_lines import drop_digests
from road import base, run
from run_folders import Arm, Quality, write_run

from harness.contracts import Json, registry
from harness.errors import Incomplete, RecordError, SuiteError
from harness.report.render import latex, markdown
from harness.report.table import (
    CONTENDED,
    INCOMPLETE,
    NOT_TOLD,
    NOTES,
    RANDOM_WEIGHTS,
    UNCLEARED,
    UNCONVERGED,
    UNDEFINED,
    UNHELD,
    Cell,
    Table,
)
from harness.report.tables import build
from harness.runs.records import load_run
from harness.stats.estimates import clustered_mean

COLUMNS = [{"value": "short:sharpness", "format": ".3f"}, {"value": "card:cached_scalars"}]


def table(folder: Path, **more: Any) -> Table:
    write_run(folder, **{"tables": [{"name": "main", "columns": COLUMNS}], **more})
    return build([load_run(folder)])[0]


def cells(found: Table, column: int = 0) -> dict[str, Cell]:
    return {row.label: row.cells[column] for row in found.rows}


def two_arms(first: Sequence[float | None], second: Sequence[float | None]) -> list[Arm]:
    return [Arm("dense", first, cached_scalars=3072), Arm("latent", second, cached_scalars=224)]


def test_means_intervals_and_counts(tmp_path: Path) -> None:
    scores = [0.5, 0.7, 0.9, 0.9, 0.4, 0.6]
    found = cells(table(tmp_path, arms=two_arms(scores, [0.1] * 6), prompts=3, seeds=2))["dense"]
    truth = clustered_mean(scores, [0, 0, 1, 1, 2, 2])
    assert found.value == pytest.approx(np.mean(scores))
    assert (found.low, found.high) == pytest.approx((truth.low, truth.high))
    assert found.text == "0.667"
    assert found.spread == f"[{truth.low:.3f}, {truth.high:.3f}]"
    assert found.count == "6/6"


def test_the_best_is_marked_by_direction_and_the_reference_is_named(tmp_path: Path) -> None:
    found = table(tmp_path, arms=two_arms([0.9] * 4, [0.5] * 4), reference="latent")
    assert [cell.best for cell in cells(found).values()] == [True, False]
    assert [cell.best for cell in cells(found, 1).values()] == [False, True]
    assert [row.reference for row in found.rows] == [False, True]
    assert "| latent (reference) |" in markdown(found)


def test_random_weights_are_marked_and_never_lead_in_quality(tmp_path: Path) -> None:
    arms = [
        Arm("a", [0.2] * 4, speed=(1.0, 1.01)),
        Arm("b", [0.3] * 4, speed=(2.0, 2.01)),
        Arm("c", [0.9] * 4, speed=(9.0, 9.01), weights="random"),
    ]
    columns = [{"value": "short:sharpness"}, {"value": "speed:rate"}]
    found = table(tmp_path, arms=arms, tables=[{"name": "t", "columns": columns}])
    assert [cell.best for cell in cells(found).values()] == [False, True, False]
    assert [cell.best for cell in cells(found, 1).values()] == [False, False, True]
    assert found.rows[2].marks == (RANDOM_WEIGHTS,)
    assert NOTES[RANDOM_WEIGHTS] in markdown(found)


@pytest.mark.parametrize("models", [None, ["latent"]])
def test_cards_are_set_against_the_reference_and_the_reference_against_them(
    tmp_path: Path, models: list[str] | None
) -> None:
    arms = [Arm("dense", [0.5] * 4, cached_scalars=384), Arm("latent", [0.5] * 4, cached_scalars=48)]
    columns = [{"value": "card:cached_scalars", "relative": kind, "format": ".3f"} for kind in (True, "inverse")]
    found = table(tmp_path, arms=arms, tables=[{"name": "t", "columns": columns, "models": models}])
    assert [(column.unit, column.direction) for column in found.columns] == [
        ("over reference", "lower"),
        ("reference over this", "higher"),
    ]
    assert [cell.text for cell in found.rows[-1].cells] == ["0.125", "8.000"]
    assert [cell.best for cell in found.rows[-1].cells] == [models is None] * 2
    assert len(found.rows) == (1 if models else 2)


def test_a_mean_over_fewer_clips_is_refused_with_section_and_counts(tmp_path: Path) -> None:
    with pytest.raises(Incomplete, match=r"short: fake/quality has 3 of 4 results of latent") as caught:
        table(tmp_path, arms=two_arms([0.9] * 4, [0.5, 0.5, 0.5, None]), incomplete="refuse")
    assert caught.value.exit_code == 3


def test_or_marked_unless_the_suite_says_otherwise(tmp_path: Path) -> None:
    found = table(tmp_path, arms=two_arms([0.4] * 4, [0.5, 0.5, 0.5, None]))
    short = cells(found)["latent"]
    assert (short.count, short.marks, short.best) == ("3/4", (INCOMPLETE,), False)
    assert not any(cell.best for cell in cells(found).values())
    empty = cells(table(tmp_path / "b", arms=two_arms([0.4] * 4, [None] * 4), incomplete="mark"))["latent"]
    assert (empty.text, empty.count) == ("not measured", "0/4")


def test_failures_count_as_missing_and_skips_give_their_reason(tmp_path: Path) -> None:
    failed = Arm("latent", [0.5, 0.5, 0.5, 0.5], statuses={3: "failed"})
    with pytest.raises(Incomplete, match="3 of 4"):
        table(tmp_path / "a", arms=[Arm("dense", [0.4] * 4), failed], incomplete="refuse")
    every = dict.fromkeys(range(4), "skipped")
    skipped = Arm("latent", [0.5] * 4, statuses=every, notes={"reason": "no weights", "fix": "harness env build x"})
    found = cells(table(tmp_path / "b", arms=[Arm("dense", [0.4] * 4), skipped]))["latent"]
    assert found.text == "not available: no weights (harness env build x)"
    assert found.value is None


def test_the_newest_record_of_a_key_counts(tmp_path: Path) -> None:
    arms = [Arm("dense", [0.4] * 4, statuses={0: "failed"}), Arm("dense", [0.4] * 4)]
    write_run(tmp_path, arms=arms[:1], tables=[{"name": "t", "columns": COLUMNS}], incomplete="refuse")
    with pytest.raises(Incomplete):
        build([load_run(tmp_path)])
    write_run(tmp_path, arms=arms[1:], tables=[{"name": "t", "columns": COLUMNS}], append=True)
    assert cells(build([load_run(tmp_path)])[0])["dense"].count == "4/4"


def test_what_some_clips_do_not_define_is_left_out_and_said(tmp_path: Path) -> None:
    nan = float("nan")
    found = table(tmp_path, arms=two_arms([0.2, nan, 0.4, nan], [nan] * 4))
    partly, never = cells(found)["dense"], cells(found)["latent"]
    assert (partly.value, partly.count, partly.marks) == (pytest.approx(0.3), "4/4", (UNDEFINED,))
    assert never.text == "undefined"


def test_a_metrics_own_aggregate_and_derived_values(tmp_path: Path) -> None:
    columns = [{"value": "short:worst"}, {"value": "short:total"}]
    found = table(tmp_path, arms=[Arm("dense", [0.2, 0.8, 0.4, 0.6])], tables=[{"name": "t", "columns": columns}])
    worst, total = cells(found)["dense"], cells(found, 1)["dense"]
    assert worst.value == 0.2
    assert worst.low is not None
    assert total.value == pytest.approx(0.5 + 0.2)
    assert Quality.derived[0].name == "total"


def test_arms_on_two_devices_are_not_ranked(tmp_path: Path) -> None:
    arms = [Arm("a", [0.1] * 4, speed=(1.0, 1.01)), Arm("b", [0.1] * 4, speed=(2.0, 2.01), device="Other CPU")]
    found = table(tmp_path, arms=arms, tables=[{"name": "t", "columns": [{"value": "speed:rate"}]}])
    assert not any(cell.best for cell in cells(found).values())
    assert "devices differ: b on Other CPU (2 cores); a on Test CPU (2 cores)" in " ".join(found.remarks)


@pytest.mark.parametrize(
    ("short", "long", "marked"),
    [
        ("passed", "passed", (False, False)),
        ("passed", "left out", (False, False)),
        ("unclear", "left out", (True, True)),
        ("unclear", "passed", (True, False)),
        ("left out", "left out", (True, True)),
        (None, None, (False, False)),
    ],
)
def test_speed_is_marked_where_no_audit_cleared_the_model(
    tmp_path: Path, short: str | None, long: str | None, marked: tuple[bool, bool]
) -> None:
    sections = [{"name": n, "probe": "fake/speed", "prompts": "p", "frames": f} for n, f in (("a", 8), ("b", 16))]
    columns = [{"value": "a:rate"}, {"value": "b:rate"}]
    arms = [Arm("x", [0.5] * 4, speed=1.0)]
    write_run(tmp_path, arms, measure=sections, tables=[{"name": "t", "columns": columns}])
    path = tmp_path / "records.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for line in lines:
        verdict = {"a": short, "b": long}.get(line["context"]["section"])
        line["notes"] = {"audit": {"verdict": verdict}} if verdict else {}
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    found = build([load_run(tmp_path)])[0]
    assert tuple(UNCLEARED in cell.marks for cell in found.rows[0].cells) == marked
    assert ("no audit has cleared" in markdown(found)) == any(marked)


def test_a_metric_of_one_arm_alone_leaves_the_others_not_measured(tmp_path: Path) -> None:
    generate = [
        {"name": "short", "prompts": "p", "frames": 8, "models": ["latent"], "metrics": [{"name": "fake/quality"}]}
    ]
    found = cells(table(tmp_path, arms=two_arms([0.4] * 4, [0.5] * 4), generate=generate))
    assert (found["dense"].text, found["dense"].value, found["dense"].count) == ("not measured", None, "")
    assert (found["latent"].count, found["latent"].best) == ("4/4", False)


def test_records_of_two_schema_versions_are_not_ranked(tmp_path: Path) -> None:
    assert any(cell.best for cell in cells(table(tmp_path, arms=two_arms([0.4] * 4, [0.5] * 4))).values())
    path = drop_digests(tmp_path / "records.jsonl")
    first, _, rest = path.read_text().partition("\n")
    path.write_text(first.replace('"schema":1', '"schema":0') + "\n" + rest)
    found = build([load_run(tmp_path)])[0]
    assert not any(cell.best for cell in cells(found).values())
    assert "short: not ranked, as its records are of schema versions 0 and 1." in found.remarks


def test_records_of_an_older_version_of_a_metric_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not any("version" in remark for remark in table(tmp_path, arms=two_arms([0.4] * 4, [0.5] * 4)).remarks)
    monkeypatch.setattr(Quality, "version", "7")
    found = build([load_run(tmp_path)])[0]
    assert found.remarks == ("By version 1 of fake/quality; today's is 7.",)
    assert any(cell.best for cell in cells(found).values())


def test_records_of_two_versions_of_a_metric_are_not_ranked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path / "old", arms=[Arm("dense", [0.4] * 4)])
    monkeypatch.setattr(Quality, "version", "2")
    write_run(tmp_path / "new", arms=[Arm("latent", [0.5] * 4)])
    (found,) = build([load_run(tmp_path / "old"), load_run(tmp_path / "new")])
    assert not any(cell.best for cell in cells(found).values())
    assert found.remarks == ("short: not ranked, as its records are of versions 1 and 2 of fake/quality.",)


def test_a_measurement_of_an_older_version_of_a_probe_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    columns = [{"value": "speed:rate"}]
    arms = [Arm("a", [0.2] * 4, speed=1.0), Arm("b", [0.3] * 4, speed=2.0)]
    monkeypatch.setattr(registry.probes.get("fake/speed"), "version", "0")
    write_run(tmp_path, arms, tables=[{"name": "t", "columns": columns}])
    monkeypatch.undo()
    found = build([load_run(tmp_path)])[0]
    assert "By version 0 of fake/speed; today's is 1." in found.remarks


def test_an_empty_table_is_refused(tmp_path: Path) -> None:
    empty = [{"name": "t", "columns": COLUMNS, "models": []}]
    with pytest.raises(RecordError, match="table 't' is empty"):
        table(tmp_path, arms=two_arms([0.4] * 4, [0.5] * 4), tables=empty)
    with pytest.raises(ValueError, match="at least 1 item"):
        table(tmp_path, arms=two_arms([0.4] * 4, [0.5] * 4), tables=[{"name": "t", "columns": []}])


def test_a_suite_without_tables_shows_every_value(tmp_path: Path) -> None:
    found = table(tmp_path, arms=[Arm("dense", [0.5] * 4, speed=3.0, cached_scalars=9)], tables=[])
    headings = [column.label for column in found.columns]
    values = ["sharpness", "worst", "total"]
    assert headings == [*(f"short: {name}" for name in values), "speed: rate", "cached scalars"]


def test_runs_are_joined_and_equal_labels_told_apart(tmp_path: Path) -> None:
    tables = [{"name": "t", "columns": COLUMNS}]
    write_run(tmp_path / "one", arms=[Arm("dense", [0.5] * 4)], tables=tables)
    write_run(tmp_path / "two", arms=[Arm("dense", [0.7] * 4), Arm("new", [0.6] * 4)], tables=tables)
    found = build([load_run(tmp_path / "one"), load_run(tmp_path / "two")])[0]
    assert [row.label for row in found.rows] == ["one: dense", "two: dense", "new"]
    assert [cell.best for cell in cells(found).values()] == [False, True, False]


@pytest.mark.parametrize(
    ("column", "answer"), [("shrot:sharpness", "did you mean short?"), ("short:sharpnes", "did you mean sharpness?")]
)
def test_a_misspelt_column_is_answered(tmp_path: Path, column: str, answer: str) -> None:
    with pytest.raises(SuiteError) as caught:
        table(tmp_path, arms=[Arm("dense", [0.5] * 4)], tables=[{"name": "t", "columns": [{"value": column}]}])
    assert caught.value.fix == answer


def test_no_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RecordError):
        build([])
    with pytest.raises(RecordError, match="no run folder"):
        load_run(tmp_path)


def test_bytes_do_not_change_from_run_to_run(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arms = two_arms(rng.random(20).tolist(), rng.random(20).tolist())
    more: Mapping[str, Json] = {}
    first = markdown(table(tmp_path / "a", arms=arms, prompts=5, seeds=4, **more))
    second = markdown(table(tmp_path / "b", arms=arms, prompts=5, seeds=4, **more))
    assert first == second
    assert str(tmp_path) not in first


def test_one_probe_in_several_sections_and_no_model_gives_a_row_for_each_section(tmp_path: Path) -> None:
    measure = [{"name": name, "probe": "fake/device", "prompts": "p"} for name in ("one", "two")]
    run(tmp_path, base(models=[], generate=[], measure=measure))
    (found,) = build([load_run(tmp_path / "run")])
    assert [row.label for row in found.rows] == ["one", "two"]
    assert [column.label for column in found.columns] == [found.columns[0].label]
    assert all(row.cells[0].value is not None for row in found.rows)
    assert len([remark for remark in found.remarks if "easured on" in remark]) == 1


RATE = [{"name": "t", "columns": [{"value": "speed:rate"}]}]
CLEAN: dict[str, float | None] = {"converged": 1.0, "contended": 0.0, "agreement_error": 1e-7}


def timed(folder: Path, slow: Mapping[str, float | None], fast: Mapping[str, float | None]) -> list[Cell]:
    """Three rounds of a slow and of a fast arm, with what their records say of how they were measured."""
    arms = [Arm("slow", [0.5] * 4, speed=(20.0, 20.1, 20.2)), Arm("fast", [0.5] * 4, speed=(30.0, 30.1, 30.2))]
    measure = [{"name": "speed", "probe": "fake/timed", "prompts": "p", "rounds": 3}]
    write_run(folder, arms, measure=measure, tables=RATE)
    path = folder / "records.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for line in lines:
        if line["kind"] == "measure":
            line["values"] |= CLEAN | (slow if line["context"]["arm"] == "slow" else fast)
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    return list(cells(build([load_run(folder)])[0]).values())


@pytest.mark.parametrize(
    ("doubt", "mark"),
    [
        ({"converged": 0.0}, UNCONVERGED),
        ({"contended": 1.0}, CONTENDED),
        ({"agreement_error": None}, UNHELD),
    ],
)
def test_what_a_mark_casts_doubt_on_is_never_the_best(
    tmp_path: Path, doubt: Mapping[str, float | None], mark: str
) -> None:
    assert [(cell.best, cell.marks) for cell in timed(tmp_path / "a", {}, {})] == [(False, ()), (True, ())]
    assert [(cell.best, cell.marks) for cell in timed(tmp_path / "b", {}, doubt)] == [(False, ()), (False, (mark,))]
    # A doubt about the other one takes nothing from the best.
    assert [(cell.best, cell.marks) for cell in timed(tmp_path / "c", doubt, {})] == [(False, (mark,)), (True, ())]


def test_one_round_leads_nothing_and_every_measured_cell_says_its_rounds(tmp_path: Path) -> None:
    once = [Arm("slow", [0.5] * 4, speed=43.7), Arm("fast", [0.5] * 4, speed=107.3)]
    found = table(tmp_path / "once", arms=once, tables=RATE)
    assert [(cell.count, cell.best) for cell in cells(found).values()] == [("1 round", False)] * 2
    assert "| 107.3 1 round" in markdown(found)
    three = [Arm("slow", [0.5] * 4, speed=(43.7, 43.8, 43.9)), Arm("fast", [0.5] * 4, speed=(107.3, 107.4, 107.5))]
    found = table(tmp_path / "three", arms=three, tables=RATE)
    assert [(cell.count, cell.best) for cell in cells(found).values()] == [("3 rounds", False), ("3 rounds", True)]
    assert "The median of so many rounds, best in bold." in markdown(found)


@pytest.mark.parametrize(
    ("first", "second", "best"),
    [
        ([0.10, 0.12, 0.14, 0.10, 0.12, 0.14], [-0.02, -0.01, 0.0, -0.02, -0.01, 0.0], [False, True]),
        ([0.01, 0.02, 0.01, 0.01, 0.02, 0.01], [0.3, 0.31, 0.32, 0.3, 0.31, 0.32], [True, False]),
        ([-0.3, -0.31, -0.32, -0.3, -0.31, -0.32], [0.01, 0.02, 0.01, 0.01, 0.02, 0.01], [False, True]),
    ],
)
def test_a_drift_is_the_better_the_nearer_to_zero(
    tmp_path: Path, first: list[float], second: list[float], best: list[bool]
) -> None:
    tables = [{"name": "t", "columns": [{"value": "short:drift"}, {"value": "short:drift", "relative": True}]}]
    found = table(tmp_path, arms=two_arms(first, second), prompts=6, metric="fake/drift", tables=tables)
    assert [cell.best for cell in cells(found).values()] == best
    assert not any(NOT_TOLD in cell.marks for cell in cells(found).values())
    assert "drift →0" in markdown(found)
    assert found.columns[1].direction == "none"


SPREAD = [0.1, 0.5, 0.3, 0.9, 0.7, 0.2, 0.6, 0.4]


def test_a_best_that_compare_does_not_tell_from_the_next_is_marked(tmp_path: Path) -> None:
    tables = [{"name": "t", "columns": [{"value": "short:sharpness"}]}]
    by_turns = [0.05 * (1 + 2 * (-1) ** place) + score for place, score in enumerate(SPREAD)]
    found = table(tmp_path / "a", arms=two_arms(SPREAD, by_turns), prompts=8, metric="fake/plain", tables=tables)
    best = cells(found)["latent"]
    assert (best.best, best.marks) == (True, (NOT_TOLD,))
    assert "≈ best, but not told from the next" in markdown(found)
    assert r"$\approx$" in latex(found)
    shifted = [score + 0.2 + 0.005 * place for place, score in enumerate(SPREAD)]
    found = table(tmp_path / "b", arms=two_arms(SPREAD, shifted), prompts=8, metric="fake/plain", tables=tables)
    assert (cells(found)["latent"].best, cells(found)["latent"].marks) == (True, ())


def test_what_compare_calls_the_same_has_no_best(tmp_path: Path) -> None:
    tables = [{"name": "t", "columns": [{"value": "short:sharpness"}]}]
    close = [score + 0.001 * (1 + 2 * (-1) ** place) for place, score in enumerate(SPREAD)]
    found = table(tmp_path, arms=two_arms(SPREAD, close), prompts=8, metric="fake/plain", tables=tables)
    assert not any(cell.best for cell in cells(found).values())


def test_a_best_total_of_aggregates_is_marked_as_nothing_weighs_it(tmp_path: Path) -> None:
    tables = [{"name": "t", "columns": [{"value": "short:total"}]}]
    found = table(tmp_path, arms=two_arms([0.1] * 4, [0.9] * 4), tables=tables)
    assert cells(found)["latent"].marks == (NOT_TOLD,)


def test_arms_of_two_runs_are_weighed_by_prompt_and_seed(tmp_path: Path) -> None:
    tables = [{"name": "t", "columns": [{"value": "short:sharpness"}]}]
    shifted = [score + 0.2 + 0.005 * place for place, score in enumerate(SPREAD)]
    for name, scores in (("one", SPREAD), ("two", shifted)):
        write_run(tmp_path / name, [Arm(name, scores)], prompts=4, seeds=2, metric="fake/plain", tables=tables)
    found = build([load_run(tmp_path / "one"), load_run(tmp_path / "two")])[0]
    assert (cells(found)["two"].best, cells(found)["two"].marks) == (True, ())
