"""Drift: every definition against arithmetic by hand, and the tables that are made of records with samples."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from drift_runs import RATE, write_curves

from harness.errors import Incomplete
from harness.report.drift.definitions import DEFINITIONS, Track
from harness.report.drift.series import of_equal_parts, of_frames, of_pieces
from harness.report.files import drawings
from harness.report.plots.kinds import builders
from harness.report.table import Table
from harness.report.tables import build
from harness.runs.records import load_run

NAN = math.nan


def of(name: str, values, frames: int, rate: float = RATE, seconds: float = 2.0, switches=(), borders=()) -> float:
    series = of_equal_parts(values, frames, rate)
    assert series is not None
    return DEFINITIONS[name].of(Track(series, seconds, tuple(switches), tuple(borders)))


# ------------------------------------------------------------------------------------------- the series


def test_a_mean_counts_a_value_by_the_frames_that_it_holds_for() -> None:
    series = of_pieces([1.0, 3.0, NAN, 7.0], [0, 4, 8, 12], 20, RATE)
    assert series is not None
    assert series.mean(0, 8) == 2.0
    assert series.mean(2, 8) == pytest.approx((2 * 1 + 4 * 3) / 6)
    assert series.mean(4, 16) == pytest.approx((4 * 3 + 4 * 7) / 8)
    assert math.isnan(series.mean(8, 12))


def test_a_sample_of_a_frame_stands_for_the_frames_nearest_to_it() -> None:
    # Five frames with both ends, as HPSv3 takes them, of 41.
    series = of_frames([5.0, 4.0, 3.0, 2.0, 1.0], [0, 10, 20, 30, 40], 41, RATE)
    assert series is not None
    assert series.by_frame()[[0, 4, 6, 14, 16, 40]].tolist() == [5.0, 5.0, 4.0, 4.0, 3.0, 1.0]


def test_a_rest_becomes_a_piece_that_reaches_back() -> None:
    values = np.arange(40.0)
    series = of_equal_parts(values, 40, RATE)
    assert series is not None
    # Pieces of 16 frames: 0 to 15, 16 to 31, and 24 to 39.
    assert series.pieces(2.0).tolist() == [values[:16].mean(), values[16:32].mean(), values[24:].mean()]


@pytest.mark.parametrize(
    ("values", "at"), [([1.0, 2.0], [0]), ([], []), ([1.0, 2.0], [4, 4]), ([1.0, 2.0], [0, 41]), ([1.0, 2.0], [-1, 3])]
)
def test_samples_that_do_not_fit_their_clip_are_no_series(values, at) -> None:
    assert of_frames(values, at, 41, RATE) is None
    assert of_pieces(values, at, 41, RATE) is None


# -------------------------------------------------------------------------------------- the definitions


def test_spread_is_the_deviation_over_two_second_pieces() -> None:
    rng = np.random.default_rng(0)
    pieces = rng.random(30)
    assert of("spread", pieces, 30 * 32, rate=16.0) == pytest.approx(np.std(pieces))
    frames = rng.random(48)
    assert of("spread", frames, 48) == pytest.approx(np.std(frames.reshape(3, 16).mean(axis=1)))


def test_helios_takes_the_first_and_last_fifteen_percent_of_the_frames() -> None:
    values = np.linspace(1, 0, 101) ** 2
    count = int(101 * 0.15)
    assert of("first_last_share", values, 101) == pytest.approx(abs(values[:count].mean() - values[-count:].mean()))


def test_vde_weighs_early_parts_most_and_leaves_out_a_rest() -> None:
    rng = np.random.default_rng(1)
    values = rng.random(107) + 1
    parts = values[:100].reshape(10, 10).mean(axis=1)
    by_hand = sum((10 - i + 1) * abs(parts[i - 1] - parts[0]) / parts[0] for i in range(2, 11))
    assert of("vde", values, 107) == pytest.approx(by_hand)
    # The same change counts nine times as much in the second part as in the tenth: weights fall with time.
    early, late = np.ones(10), np.ones(10)
    early[1] = late[9] = 0.5
    assert of("vde", early, 100) == pytest.approx(9 * of("vde", late, 100)) == pytest.approx(4.5)


def test_vde_of_a_clip_with_a_still_first_part_is_infinite_and_too_short_a_one_has_none() -> None:
    assert of("vde", [0.0] + [1.0] * 9, 100) == math.inf
    assert math.isnan(of("vde", [1.0] * 9, 9))


def test_the_ends_of_five_seconds_need_ten() -> None:
    values = np.arange(120.0)
    assert of("ends", values, 120) == values[80:].mean() - values[:40].mean()
    assert math.isnan(of("ends", values[:79], 79))


def test_terminal_drift_is_the_mean_of_the_longest_prefix_of_fifties() -> None:
    values = np.arange(900.0)
    assert of("prefix", values, 900) == values[:700].mean()
    assert of("prefix", values[:149], 149) == values[:100].mean()
    assert math.isnan(of("prefix", values[:49], 49))


def test_halves_and_the_last_piece() -> None:
    values = [0.9, 0.8, 0.4, 0.1]
    assert of("halves", values, 64) == pytest.approx((0.4 + 0.1) / 2 - (0.9 + 0.8) / 2)
    assert of("last", values, 64) == 0.1


def test_steps_over_borders_stand_against_those_inside() -> None:
    # Chunks of 3, 4 and 4 frames; the steps into frames 3 and 7 cross a border.
    steps = [1.0, 1.0, 5.0, 2.0, 2.0, 2.0, 3.0, 1.0, 1.0, 2.0]
    series = of_frames(steps, range(1, 11), 11, RATE)
    assert series is not None
    track = Track(series, borders=(3, 7))
    inside = [1, 1, 2, 2, 2, 1, 1, 2]
    assert DEFINITIONS["border_ratio"].of(track) == pytest.approx(4 / np.mean(inside))
    assert DEFINITIONS["border_excess"].of(track) == pytest.approx(4 - np.mean(inside))
    assert DEFINITIONS["peak"].of(track) == pytest.approx(5 / np.mean(steps))
    assert math.isnan(DEFINITIONS["border_ratio"].of(Track(series)))


def test_adherence_before_and_after_each_switch_and_when_it_is_back() -> None:
    # 5 s are 40 frames. The second switch comes 24 frames after the first, which cuts the stretches there.
    values = np.array([0.8] * 64 + [0.0] * 6 + [0.8] * 18 + [0.2] * 32)
    at = (64, 88)
    assert of("before_switch", values, 120, switches=at) == pytest.approx((0.8 + values[64:88].mean()) / 2)
    assert of("after_switch", values, 120, switches=at) == pytest.approx((values[64:88].mean() + 0.2) / 2)
    # The level before the second switch is 0.6, of which 0.9 is never reached again.
    assert of("regained_s", values, 120, switches=at) == 6 / RATE
    assert of("regained", values, 120, switches=at) == 0.5
    assert math.isnan(of("regained_s", values, 120))
    # A switch beyond the end never happens.
    assert math.isnan(of("before_switch", values, 120, switches=(120,)))


def test_a_clip_without_any_defined_value_has_no_drift() -> None:
    for name in ("spread", "first_last_share", "vde", "ends", "prefix", "last", "halves"):
        assert math.isnan(of(name, [NAN] * 120, 120)), name


def test_one_value_for_the_whole_clip_says_nothing_of_how_it_holds() -> None:
    for name in ("spread", "first_last_share", "vde", "ends", "halves"):
        assert math.isnan(of(name, [0.7], 120)), name
    assert math.isnan(of("over_switch", [0.7], 120, switches=(60,)))
    assert of("last", [0.7], 120) == of("prefix", [0.7], 120) == 0.7


# -------------------------------------------------------------------------------------------- the tables


def samples(sharp, fit=None, step=None, frames=120):
    return {
        "sharp_by_piece": list(sharp),
        "fit_by_frame": [1.0] * frames if fit is None else list(fit),
        "step_by_frame": [1.0] * (frames - 1) if step is None else list(step),
        "alike": [0.9, 0.7],
        "distances": [2.0, 10.0],
    }


FALLING, DIPPING = np.linspace(1.0, 0.5, 10), np.array([1.0, *[0.6] * 4, *[1.0] * 5])


def shown(folder: Path) -> dict[str, Table]:
    return {table.name: table for table in build([load_run(folder)]) if table.name.startswith("drift")}


def row(table: Table, label: str) -> dict[str, str]:
    cells = next(each.cells for each in table.rows if each.label == label)
    return {column.label: cell.text for column, cell in zip(table.columns, cells, strict=True)}


def test_each_curve_has_a_table_with_intervals_by_prompt(tmp_path: Path) -> None:
    clips = [samples(FALLING - 0.01 * n) for n in range(4)]
    write_curves(tmp_path, {"a": clips, "b": clips}, 120)
    tables = shown(tmp_path)
    assert [*tables] == [f"drift-{n}" for n in ("sharp_by_piece", "fit_by_frame", "step_by_frame", "alike", "rankings")]
    table = tables["drift-sharp_by_piece"]
    place = [column.label for column in table.columns].index("VDE")
    curves = [FALLING - 0.01 * n for n in range(4)]
    by_hand = [sum((9 - i) * (curve[0] - curve[i + 1]) / curve[0] for i in range(9)) for curve in curves]
    cell = table.rows[0].cells[place]
    assert cell.value == pytest.approx(np.mean(by_hand))
    assert cell.low is not None
    assert cell.high is not None
    assert cell.low < cell.value < cell.high
    assert cell.count == "4/4"
    assert "arXiv 2512.04678" in " ".join(table.remarks)
    assert row(tables["drift-alike"], "a") == {"mean over distances": "0.800", "nearest less farthest": "0.200"}


def test_a_ranking_that_changes_with_the_definition_is_named(tmp_path: Path) -> None:
    # One falls slowly to the end, which VDE hardly sees; the other dips early and comes back.
    arms = {
        "falls": [samples(1 - (1 - FALLING) * (1 + 0.01 * n)) for n in range(8)],
        "dips": [samples(1 - (1 - DIPPING) * (1 + 0.02 * n)) for n in range(8)],
    }
    drift = {
        "name": "drift",
        "section": "long",
        "curves": ["sharp_by_piece"],
        "definitions": ["first_last_share", "vde"],
    }
    write_curves(tmp_path, arms, 120, drift=[drift])
    table = shown(tmp_path)["drift-rankings"]
    assert row(table, "sharpness: first to last 15 %") == {"falls": "2", "dips": "1", "against the first": "first"}
    # By hand: (9 * 1 + 8 * 2 + ... + 1 * 9) / 18 = 165 / 18 = 9.2 against 0.4 * (9 + 8 + 7 + 6) = 12.
    assert row(table, "sharpness: VDE") == {"falls": "1", "dips": "2", "against the first": "falls before dips (shown)"}
    assert "dips is ahead of falls by first to last 15 % (shown), and behind it by VDE (shown)." in table.remarks[0]


def test_old_records_without_samples_and_infinite_drift_say_so(tmp_path: Path) -> None:
    still = samples([0.0, *[1.0] * 9])
    write_curves(tmp_path, {"old": [{}, {}], "still": [still, samples(FALLING)]}, 120)
    tables = shown(tmp_path)
    assert set(row(tables["drift-sharp_by_piece"], "old").values()) == {"not recorded"}
    assert row(tables["drift-sharp_by_piece"], "still")["VDE"] == "∞ in 1"


def test_borders_come_from_the_record_and_else_from_the_card(tmp_path: Path) -> None:
    # The fake card says chunks of 4 frames; the record 3, 4, 4.
    steps = [1.0] * 10
    steps[2] = steps[6] = 3.0
    clips = [samples([1.0], [1.0] * 11, steps, 11)]
    write_curves(tmp_path / "record", {"a": clips}, 11, chunks=[3, 4, 4])
    write_curves(tmp_path / "card", {"a": clips}, 11)
    assert row(shown(tmp_path / "record")["drift-step_by_frame"], "a")["border over inside"] == "3.000"
    # Frames 4 and 8 are entered by steps of 1, and two of the eight others are 3.
    assert row(shown(tmp_path / "card")["drift-step_by_frame"], "a")["border over inside"] == f"{1 / 1.5:.3f}"


def test_the_first_step_counts_once(tmp_path: Path) -> None:
    # Ten frames a part: nine steps in the first, as nothing leads to its first frame.
    steps = [3.0] + [1.0] * 98
    write_curves(tmp_path, {"a": [samples([1.0], [1.0] * 100, steps, 100)]}, 100)
    first = (3 + 8) / 9
    numbers = row(shown(tmp_path)["drift-step_by_frame"], "a")
    assert numbers["VDE"] == f"{45 * (first - 1) / first:.3f}"
    assert numbers["second half less first"] == f"{1 - (3 + 48) / 49:.3f}"


def test_switches_count_from_where_they_happened(tmp_path: Path) -> None:
    fit = [1.0] * 68 + [0.0] * 8 + [1.0] * 44
    write_curves(tmp_path, {"a": [samples(FALLING, fit)]}, 120, switches=[(64, 68)])
    found = row(shown(tmp_path)["drift-fit_by_frame"], "a")
    assert (found["before a switch"], found["switch to regained"]) == ("1.000", "1.000")
    assert found["after a switch"] == f"{32 / 40:.3f}"


def test_each_of_several_switches_has_a_row(tmp_path: Path) -> None:
    # 40 frames are 5 s. The second switch costs eight frames, the first none.
    fit = [1.0] * 88 + [0.0] * 8 + [1.0] * 24
    write_curves(tmp_path, {"a": [samples(FALLING, fit)]}, 120, switches=[(40, 48), (80, 88)])
    table = shown(tmp_path)["drift-fit_by_frame-switches"]
    assert [each.label for each in table.rows] == [
        "a, switch 1 (asked for at frame 40)",
        "a, switch 2 (asked for at frame 80)",
    ]
    first, second = (row(table, each.label) for each in table.rows)
    assert (first["before a switch"], first["after a switch"], first["switch to regained"]) == (
        "1.000",
        "1.000",
        "0.000",
    )
    assert (second["before a switch"], second["after a switch"]) == ("1.000", "0.750")
    assert second["switch to regained"] == "1.000"
    whole = row(shown(tmp_path)["drift-fit_by_frame"], "a")
    assert (whole["after a switch"], whole["switch to regained"]) == ("0.875", "0.500")


def test_curves_of_one_name_are_told_by_their_metric(tmp_path: Path) -> None:
    section = {
        "name": "long",
        "prompts": "p",
        "frames": 120,
        "metrics": [{"name": n} for n in ("fake/curves", "fake/more")],
    }
    write_curves(tmp_path, {"a": [samples(FALLING)]}, 120, generate=[section])
    tables = shown(tmp_path)
    assert {"drift-fake_curves-alike", "drift-fake_more-alike"} <= tables.keys()
    assert tables["drift-fake_more-alike"].title == "drift: alike, fake/more"
    (make,) = builders(load_run(tmp_path))
    assert [panel.up.label for panel in make().panels if panel.up.label.startswith("alike")] == [
        "alike, fake/curves",
        "alike, fake/more",
    ]


def test_a_run_without_any_record_says_so(tmp_path: Path) -> None:
    write_curves(tmp_path, {"a": [samples(FALLING)], "b": [samples(FALLING)]}, 120)
    (tmp_path / "records.jsonl").unlink()
    tables = shown(tmp_path)
    assert set(row(tables["drift-sharp_by_piece"], "a").values()) == {"not measured"}
    assert "drift-rankings" not in tables
    (make,) = builders(load_run(tmp_path))
    assert all(not panel.lines for panel in make().panels)


def test_missing_clips_are_refused_or_marked(tmp_path: Path) -> None:
    clips = [samples(FALLING)] * 3
    write_curves(tmp_path / "refuse", {"a": clips, "b": clips}, 120, missing=1, incomplete="refuse")
    with pytest.raises(Incomplete, match="2 of 3"):
        build([load_run(tmp_path / "refuse")])
    write_curves(tmp_path / "mark", {"a": clips, "b": clips}, 120, missing=1, incomplete="mark")
    table = shown(tmp_path / "mark")["drift-sharp_by_piece"]
    assert "*" in table.rows[0].cells[0].marks
    assert "drift-rankings" not in shown(tmp_path / "mark")


def test_samples_that_do_not_fit_are_left_out(tmp_path: Path) -> None:
    torn = samples(FALLING) | {"distances": [2.0], "step_by_frame": [1.0] * 500}
    write_curves(tmp_path, {"a": [torn]}, 120)
    tables = shown(tmp_path)
    assert set(row(tables["drift-alike"], "a").values()) == {"not recorded"}
    assert set(row(tables["drift-step_by_frame"], "a").values()) == {"not recorded"}


def test_a_switch_that_a_clip_does_not_have_takes_nothing_of_that_clip(tmp_path: Path) -> None:
    """The first clip has the second switch alone, as its script says "no new prompt" at the first."""
    write_curves(
        tmp_path,
        {"a": [samples(FALLING, [0.5] * 120), samples(FALLING, [1.0] * 120)]},
        120,
        switches=[(40, 48), (80, 88)],
    )
    plan = json.loads((tmp_path / "plan.json").read_text())
    plan["suite"]["generate"][0]["scripts"] = [
        {"prompt": 0, "later": ["", "other"]},
        {"prompt": 1, "later": ["other", "other"]},
    ]
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    file = tmp_path / "records.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    next(line["clip"] for line in lines if line["kind"] == "generate")["switches"] = [{"asked": 80, "frame": 88}]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    table = shown(tmp_path)["drift-fit_by_frame-switches"]
    first, second = (row(table, each.label) for each in table.rows)
    assert first["before a switch"].startswith("1.000")
    assert second["before a switch"].startswith("0.750")


# ------------------------------------------------------------------------------------------- the picture


def test_a_record_with_torn_switches_or_too_many_frames_does_no_harm(tmp_path: Path) -> None:
    write_curves(tmp_path, {"a": [samples(FALLING)] * 2}, 120, switches=[(64, 68)])
    file = tmp_path / "records.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    clips = [line["clip"] for line in lines if line["kind"] == "generate"]
    clips[0]["switches"], clips[1]["frames"] = [{"asked": "x"}, 3], 10**7
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    numbers = row(shown(tmp_path)["drift-fit_by_frame"], "a")
    assert (numbers["last piece"], numbers["before a switch"]) == ("1.000", "undefined")


def test_the_picture_has_a_panel_a_curve_with_bands_and_switches(tmp_path: Path) -> None:
    sharp = [FALLING + 0.01 * n for n in range(4)]
    arms = {"a": [samples(curve) for curve in sharp], "b": [{}] * 4}
    write_curves(tmp_path, arms, 160, switches=[(64, 64)])
    run = load_run(tmp_path)
    (make,) = builders(run)
    panels = {panel.up.label: panel for panel in make().panels}
    assert [*panels] == ["sharpness", "fit", "step", "alike"]
    (line,) = panels["sharpness"].lines
    # Ten equal parts of 16 frames, which are the pieces of 2 s.
    assert line.x == tuple(1.0 + 2 * n for n in range(10))
    assert line.y == pytest.approx(np.mean(sharp, axis=0))
    assert all(low < y < high for low, y, high in zip(line.low, line.y, line.high, strict=True))
    assert [rule.x for rule in panels["sharpness"].rules] == [8.0]
    assert panels["alike"].lines[0].x == (2.0, 10.0)
    assert panels["alike"].rules == ()
    files = drawings([run])
    assert files["drift.svg"].startswith(b"<?xml")
    assert set(files) == {"drift.svg", "drift.png"}
