"""Measurements on the one road: rounds that alternate, marks of doubt, ratios to the reference arm."""

import pytest
from road import write

from harness import suite
from harness.execute import local
from harness.plan import make
from harness.records import RecordFile, load_run
from harness.report import layout
from harness.report.tables import build

FAST = {"time": "real", "denoise_s": 0.002, "clean_pass_s": 0.0, "decode_s": 0.0, "to_host_s": 0.0, "window_frames": 3}
QUICK = {"warmups": 1, "min_repeats": 1, "min_seconds": 0, "ceiling_s": 0.05, "audit_repeats": 0, "count": False}


def body(**changes):
    return {
        "suite": "speeds",
        "reference": "quick",
        "models": [
            {"name": "fake/timed", "label": "quick", "options": FAST},
            {"name": "fake/timed", "label": "slow", "options": {**FAST, "denoise_s": 0.04}},
        ],
        "prompts": {"p": ["one", "two"]},
        "measure": [
            {"name": "speed", "probe": "streaming", "options": QUICK, "prompts": "p", "frames": 9, "rounds": 4}
        ],
        "tables": [
            {
                "name": "speed",
                "columns": [{"value": "speed:chunk_s"}, {"value": "speed:chunk_s", "relative": True, "format": ".1f"}],
            }
        ],
        **changes,
    }


def planned(folder, **changes):
    return make(suite.load(write(folder, body(**changes))), "cpu")


def test_arms_alternate_and_the_table_takes_the_median_of_the_rounds(fake, tmp_path):
    plan = planned(tmp_path)
    assert [len(group.keys) for group in plan.groups] == [4, 4]
    outcome = local.run(plan, tmp_path / "run")
    assert (outcome.made, outcome.failed) == (8, 0)
    records = list(RecordFile(tmp_path / "run" / "records.jsonl").records())
    order = [(record.context["arm"], record.context["round"]) for record in records]
    assert order == [
        ("quick", 0), ("slow", 0), ("slow", 1), ("quick", 1),
        ("quick", 2), ("slow", 2), ("slow", 3), ("quick", 3),
    ]  # fmt: skip
    found = build([load_run(tmp_path / "run")])[0]
    by_arm = {row.label: row.cells for row in found.rows}
    rounds = sorted(record.values["chunk_s"] for record in records if record.context["arm"] == "slow")
    assert by_arm["slow"][0].value == pytest.approx((rounds[1] + rounds[2]) / 2)
    assert by_arm["quick"][1].text == "1.0"
    assert by_arm["slow"][1].value == pytest.approx(by_arm["slow"][0].value / by_arm["quick"][0].value)
    assert found.columns[1].unit == "over reference"
    # The slow arm's one generation in a twentieth of a second cannot converge, and the table says so.
    assert layout.UNCONVERGED in by_arm["slow"][0].marks


def test_more_rounds_keep_what_was_measured(fake, tmp_path):
    few = planned(tmp_path, measure=[{**body()["measure"][0], "rounds": 1}])
    more = planned(tmp_path)
    assert {unit.key for unit in few.units} < {unit.key for unit in more.units}


def test_a_faulty_model_is_a_failed_record(fake, tmp_path):
    models = [{"name": "fake/timed", "label": "bad", "options": {**FAST, "ignore_batch": True}}]
    section = {**body()["measure"][0], "rounds": 1, "batch": 2}
    plan = planned(tmp_path, models=models, reference="bad", measure=[section], incomplete="mark")
    assert local.run(plan, tmp_path / "run").failed == 1
    record = next(iter(RecordFile(tmp_path / "run" / "records.jsonl").records()))
    assert "ignores the batch" in record.error["message"]
