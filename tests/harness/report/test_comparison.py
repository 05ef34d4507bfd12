"""Comparisons of run folders written by hand: verdicts, refusals, marked rows, and what the gate exits with."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from record_lines import drop_digests
from run_folders import Arm, Speed, write_run

from harness.cli import main
from harness.contracts import Value
from harness.errors import Incomplete, SuiteError
from harness.report.comparison import compare, paired
from harness.report.comparison_table import table
from harness.report.render import RENDERERS
from harness.report.verdicts import Finding, Floors, Side, exit_code
from harness.runs.records import load_run

BASE = [0.5, 0.52, 0.6, 0.58, 0.7, 0.71, 0.4, 0.42, 0.9, 0.88, 0.3, 0.35]
NOISE = np.random.default_rng(1).normal(scale=0.004, size=12)
NOISE -= NOISE.mean()


def arms(second: Any, **more: Any) -> list[Arm]:
    return [Arm("dense", BASE), Arm("latent", list(second), **more)]


def judge(folder: Path, written: list[Arm], percent: float = 2.0, across: bool = False, **suite: Any) -> list[Finding]:
    write_run(folder, written, **{"prompts": 6, "seeds": 2, "metric": "fake/plain", **suite})
    run = load_run(folder)
    return compare([(Side(run, run.arms[0]), Side(run, run.arms[1]))], (), Floors(percent), across)


def speeds(folder: Path, first: list[list[float]], second: list[list[float]], name: str = "rate") -> list[Finding]:
    """Speeds by round as raw samples, written into the records."""
    written = [Arm("dense", BASE, speed=first[0][0]), Arm("latent", BASE, speed=second[0][0])]
    write_run(folder, written, prompts=6, seeds=2, metric="fake/plain")
    path = drop_digests(folder / "records.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        if line["kind"] == "measure":
            line["samples"] = {name: (first if line["context"]["arm"] == "dense" else second)[0]}
    path.write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))
    run = load_run(folder)
    return compare([(Side(run, run.arms[0]), Side(run, run.arms[1]))], ["speed:rate"])


@pytest.mark.parametrize(("shift", "verdict"), [(0.1, "BETTER"), (-0.1, "WORSE"), (0.0, "SAME"), (0.0112, "UNCLEAR")])
def test_quality_is_paired_and_judged_past_a_floor(tmp_path: Path, shift: float, verdict: str) -> None:
    (found,) = judge(tmp_path, arms(np.array(BASE) + shift + NOISE))
    assert found.verdict == verdict
    assert found.effect is not None
    assert found.effect.estimate.value == pytest.approx(shift)
    assert found.effect.estimate.clusters == 6
    assert found.floor == pytest.approx(0.02 * np.mean(BASE))
    assert found.evidence == "12 pairs, 6 prompts"


def test_pairs_are_found_by_prompt_and_seed_across_runs_of_different_length(tmp_path: Path) -> None:
    write_run(tmp_path / "a", [Arm("dense", BASE)], prompts=6, seeds=2, metric="fake/plain")
    write_run(tmp_path / "b", [Arm("latent", BASE[::2])], prompts=6, seeds=1, metric="fake/plain")
    (found,) = compare(paired(load_run(tmp_path / "a"), load_run(tmp_path / "b")))
    assert found.evidence == "6 pairs, 6 prompts"
    assert found.first == found.second == pytest.approx(np.mean(BASE[::2]))


def test_scores_that_are_all_equal_show_nothing_of_others(tmp_path: Path) -> None:
    for change in (0.0, 0.1):
        (found,) = judge(tmp_path, arms(np.array(BASE) + change))
        assert found.verdict == "UNCLEAR"
        assert "cannot be told from them" in found.reason
        assert np.isnan(found.p)
        assert np.isnan(found.detectable)


@pytest.mark.parametrize(("prompts", "percent", "verdict"), [(6, 2, "UNCLEAR"), (24, 2, "UNCLEAR"), (24, 14, "SAME")])
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_shares_at_an_end_are_the_same_only_past_enough_prompts(
    tmp_path: Path, prompts: int, percent: float, verdict: str, share: float
) -> None:
    same = [share] * prompts * 2
    write_run(tmp_path, [Arm("dense", same), Arm("latent", same)], prompts=prompts, seeds=2, metric="fake/share")
    run = load_run(tmp_path)
    floors = Floors(0.0, {"short:sharpness": percent / 100})
    (found,) = compare([(Side(run, run.arms[0]), Side(run, run.arms[1]))], (), floors)
    assert found.verdict == verdict
    assert found.effect is not None
    # By hand: z^2 / (n + z^2).
    assert found.effect.estimate.high == -found.effect.estimate.low == pytest.approx(3.8415 / (prompts + 3.8415), 1e-4)
    assert found.p == 1
    assert 0.1 < found.detectable < 0.8


def test_a_score_that_is_no_share_is_not_compared_as_one(tmp_path: Path) -> None:
    (found,) = judge(tmp_path, arms(np.array(BASE) + 0.3), metric="fake/share")
    assert (found.verdict, found.reason) == ("not compared", "the values of a share lie between 0 and 1")


def test_equal_work_with_equal_frames_is_the_same_and_equal_keys_alone_are_not(tmp_path: Path) -> None:
    passes = [1.0] * 12

    def verdict(first: str, second: str, label: str = "dense") -> tuple[str, int]:
        for name, frames, arm in (("old", first, "dense"), ("new", second, label)):
            write_run(tmp_path / name, [Arm(arm, passes, frames=frames)], prompts=6, seeds=2, metric="fake/share")
        (found,) = compare(paired(load_run(tmp_path / "old"), load_run(tmp_path / "new")))
        return found.verdict, exit_code([found])

    assert verdict("a", "a") == ("SAME", 0)
    assert verdict("a", "b") == verdict("", "") == ("UNCLEAR", 2)
    assert verdict("a", "a", label="latent") == ("UNCLEAR", 2)


@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [(384, 56, "BETTER"), (56, 384, "WORSE"), (384, 380, "SAME"), (0, 0, "SAME"), (0, 9, "not compared")],
)
def test_what_a_card_says_is_compared_exactly(tmp_path: Path, first: int, second: int, verdict: str) -> None:
    written = [Arm("dense", BASE, cached_scalars=first), Arm("latent", np.array(BASE) + NOISE, cached_scalars=second)]
    columns = {"columns": [{"value": "card:cached_scalars"}, {"value": "card:parameters"}], "name": "t"}
    write_run(tmp_path, written, prompts=6, seeds=2, metric="fake/plain", tables=[columns])
    run = load_run(tmp_path)
    pair = (Side(run, run.arms[0]), Side(run, run.arms[1]))
    for chosen in ([], ["card:cached_scalars"]):
        (found,) = compare([pair], chosen)
        assert found.verdict == verdict
        assert (found.first, found.second) == (first, second)
        assert np.isnan(found.p)
    if first:
        assert f"\u00d7{second / first:.3f}" in table([found], pair).rows[0].cells[2].text
    assert {f.name for f in compare([pair], ["short:sharpness", "card:cached_scalars"])} == {
        "short:sharpness",
        "card:cached_scalars",
    }
    with pytest.raises(SuiteError, match="no value 'card:sink_frames'"):
        compare([pair], ["card:sink_frames"])


@pytest.mark.parametrize(("unit", "verdict"), [("B", "BETTER"), ("s", "UNCLEAR"), ("", "UNCLEAR")])
def test_samples_that_all_agree_decide_only_where_they_are_counted(
    tmp_path: Path, unit: str, verdict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Speed, "values", (Value("rate", unit, "lower"),))
    (found,) = speeds(tmp_path, [[3e6] * 8], [[1e6] * 8])
    assert found.verdict == verdict
    assert np.isnan(found.p)
    assert found.effect is not None
    assert found.effect.estimate.value == pytest.approx(1 / 3)


def test_what_has_no_p_value_takes_no_part_in_the_adjustment(tmp_path: Path) -> None:
    shifted = np.array(BASE) + 0.1 + NOISE
    (alone,) = judge(tmp_path / "alone", arms(shifted))
    written = [Arm("dense", BASE, cached_scalars=2), Arm("latent", list(shifted), cached_scalars=1)]
    write_run(tmp_path / "beside", written, prompts=6, seeds=2, metric="fake/plain")
    run = load_run(tmp_path / "beside")
    found = compare([(Side(run, run.arms[0]), Side(run, run.arms[1]))])
    assert [f.p for f in found if f.name == "short:sharpness"] == [alone.p]
    assert len(found) == 2


@pytest.mark.parametrize(("factor", "verdict"), [(1.5, "FASTER"), (0.5, "SLOWER"), (1.0, "SAME")])
def test_speed_is_a_ratio_of_medians_of_raw_samples(tmp_path: Path, factor: float, verdict: str) -> None:
    rates = [[10.0, 10.01, 9.99, 10.02, 9.98, 10.0, 10.01]]
    (found,) = speeds(tmp_path, rates, [[rate * factor for rate in rates[0]]])
    assert found.verdict == verdict
    assert found.effect is not None
    assert found.effect.estimate.value == pytest.approx(factor)
    assert found.evidence == "1 round, 7 and 7 samples"


def test_one_sample_has_no_interval_and_no_verdict(tmp_path: Path) -> None:
    (found,) = speeds(tmp_path, [[10.0]], [[20.0]])
    assert found.verdict == "UNCLEAR"
    assert found.reason == "one round of too few samples has no interval; measure with `rounds: 2` or more"


def test_clips_of_one_prompt_have_no_interval_and_no_verdict(tmp_path: Path) -> None:
    write_run(tmp_path, [Arm("dense", BASE[:2]), Arm("latent", BASE[2:4])], prompts=1, seeds=2, metric="fake/plain")
    run = load_run(tmp_path)
    (found,) = compare([(Side(run, run.arms[0]), Side(run, run.arms[1]))])
    assert (found.verdict, found.reason) == ("UNCLEAR", "there are too few prompts for an interval")


def test_samples_without_a_ratio_are_not_compared(tmp_path: Path) -> None:
    (found,) = speeds(tmp_path, [[10.0, 0.0]], [[20.0, 21.0]])
    assert found.verdict == "not compared"


def test_two_devices_are_not_compared_unless_asked_for(tmp_path: Path) -> None:
    (found,) = judge(tmp_path, arms(BASE, device="Other"))
    assert found.verdict == "not compared"
    assert found.reason == "the arms differ in device (Test CPU (2 cores): dense; Other (2 cores): latent)"
    assert exit_code([found]) == 2
    assert judge(tmp_path, arms(np.array(BASE) + NOISE, device="Other"), across=True)[0].verdict == "SAME"


def test_two_schema_versions_are_not_compared(tmp_path: Path) -> None:
    judge(tmp_path, arms(BASE))
    path = drop_digests(tmp_path / "records.jsonl")
    first, _, rest = path.read_text().partition("\n")
    path.write_text(first.replace('"schema":1', '"schema":0') + "\n" + rest)
    run = load_run(tmp_path)
    (found,) = compare([(Side(run, run.arms[0]), Side(run, run.arms[1]))])
    assert found.reason == "the arms differ in record schema (0 and 1: dense; 1: latent)"
    (found,) = compare([(Side(run, run.arms[0]), Side(run, run.arms[1]))], across_devices=True)
    assert found.verdict != "not compared"


def test_a_value_of_one_arm_alone_is_a_marked_row(tmp_path: Path) -> None:
    skipped = dict.fromkeys(range(12), "skipped")
    (found,) = judge(tmp_path, arms(BASE, statuses=skipped))
    assert found.verdict == "not measured"
    assert (found.first, found.second) == (pytest.approx(np.mean(BASE)), None)
    run = load_run(tmp_path)
    drawn = table([found], (Side(run, run.arms[0]), Side(run, run.arms[1])))
    assert drawn.rows[0].cells[1].text == "not measured"
    assert exit_code([found]) == 2


def test_missing_results_are_refused_or_marked(tmp_path: Path) -> None:
    short = [*BASE[:-1], None]
    with pytest.raises(Incomplete, match="11 of 12"):
        judge(tmp_path, arms(short), incomplete="refuse")
    (found,) = judge(tmp_path, arms(short), incomplete="mark")
    assert (found.verdict, found.marks) == ("UNCLEAR", ("*",))


def test_random_weights_have_no_quality(tmp_path: Path) -> None:
    (found,) = judge(tmp_path, arms(BASE, weights="random"))
    assert found.verdict == "not compared"


def test_other_terms_are_not_compared(tmp_path: Path) -> None:
    for name, metric in (("a", "fake/plain"), ("b", "fake/quality")):
        write_run(tmp_path / name, [Arm("dense", BASE)], prompts=6, seeds=2, metric=metric)
    found = compare(paired(load_run(tmp_path / "a"), load_run(tmp_path / "b")))
    assert {finding.verdict for finding in found} == {"not measured"}
    with pytest.raises(SuiteError, match="nothing"):
        compare(paired(load_run(tmp_path / "a"), load_run(tmp_path / "b")), ["short:nothing"])


def command(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main.main([*arguments])
    return int(caught.value.code or 0)


@pytest.mark.parametrize(("shift", "code"), [(0.0, 0), (0.1, 0), (-0.1, 1), (0.0112, 2)])
def test_the_gate_exits_by_its_verdicts(
    tmp_path: Path, shift: float, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    shifted = list(np.array(BASE) + shift + NOISE)
    for name, scores in (("old", BASE), ("new", shifted)):
        write_run(tmp_path / name, [Arm("dense", scores)], prompts=6, seeds=2, metric="fake/plain")
    assert command("gate", str(tmp_path / "new"), "--baseline", str(tmp_path / "old")) == code
    said = capsys.readouterr().out
    assert f"gate: {('same or better', 'worse', 'unclear')[code]}" in said
    assert "new: dense against old: dense" in said


def test_the_gate_holds_to_the_median_of_several_baselines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, shift in (("low", -0.2), ("middle", 0.0), ("high", 0.2), ("new", 0.0)):
        scores = list(np.array(BASE) + shift + (NOISE if name == "new" else 0))
        write_run(tmp_path / name, [Arm("dense", scores)], prompts=6, seeds=2, metric="fake/plain")

    def gate(*names: str) -> int:
        baselines = [part for name in names for part in ("--baseline", str(tmp_path / name))]
        return command("gate", str(tmp_path / "new"), *baselines)

    assert (gate("low"), gate("high")) == (0, 1)
    capsys.readouterr()
    assert gate("high", "low", "middle") == 0
    said = capsys.readouterr().out
    assert "12 pairs, 6 prompts; median of 3 runs" in said
    assert "SAME" in said
    assert gate("high", "middle") == 0  # of two, the lower one
    assert gate("high", "low", "none") == 3
    assert gate(*["low"] * 6) == 2


def test_the_gate_without_a_baseline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "new", [Arm("dense", BASE)], prompts=6, seeds=2, metric="fake/plain")
    assert command("gate", str(tmp_path / "new"), "--baseline", str(tmp_path / "none")) == 3
    write_run(tmp_path / "empty", [Arm("dense", [None] * 12)], prompts=6, seeds=2, metric="fake/plain")
    assert command("gate", str(tmp_path / "new"), "--baseline", str(tmp_path / "empty")) == 3
    assert capsys.readouterr().out.count("no baseline") == 2


def test_the_gate_is_unclear_where_every_clip_of_both_passes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("old", "new"):
        write_run(tmp_path / name, [Arm(name, [1.0] * 48)], prompts=24, seeds=2, metric="fake/share")
    assert command("gate", str(tmp_path / "new"), "--baseline", str(tmp_path / "old")) == 2
    said = capsys.readouterr().out
    assert "+0 [-0.138, +0.138]" in said
    assert "UNCLEAR" in said
    assert "SAME, as" not in said


@pytest.mark.parametrize("format_", RENDERERS)
def test_the_command_prints_one_table(tmp_path: Path, format_: str, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path, arms(np.array(BASE) + 0.1 + NOISE), prompts=6, seeds=2, metric="fake/plain")
    assert command("compare", str(tmp_path), "dense", "latent", "--format", format_) == 0
    said = capsys.readouterr().out
    assert "BETTER" in said
    assert "latent" in said


def test_bad_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path, arms(BASE), prompts=6, seeds=2, metric="fake/plain")
    assert command("compare", str(tmp_path), "dense", "latnet") == 2
    assert "did you mean latent?" in capsys.readouterr().err
    assert command("compare", str(tmp_path)) == 2
    assert command("compare", str(tmp_path), "dense", "latent", "--absolute", "short:sharpness=-1") == 2
    assert os.listdir(tmp_path)
