"""Measurements on the one road: rounds that alternate, marks of doubt, ratios to the reference arm."""

import sys
from pathlib import Path

import pytest
from road import write

from harness.contracts import registry
from harness.execute.run import run_plan
from harness.report import table
from harness.report.render import markdown
from harness.report.tables import build
from harness.runs.plan import make
from harness.runs.records import RecordFile, load_run
from harness.suite.load import load_suite

LOGGED = Path(__file__).parents[2] / "data" / "logged_models.py"
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
    return make(load_suite(write(folder, body(**changes))), "cpu")


def test_arms_alternate_and_the_table_takes_the_median_of_the_rounds(fake, tmp_path):
    plan = planned(tmp_path)
    assert [len(group.keys) for group in plan.groups] == [4, 4]
    outcome = run_plan(plan, tmp_path / "run")
    assert (outcome.done_now, outcome.failed) == (8, 0)
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
    assert table.UNCONVERGED in by_arm["slow"][0].marks
    # Nor has it a reference that its results were held against.
    assert table.UNHELD in by_arm["slow"][0].marks
    assert "no slow reference stands behind" in markdown(found)


def test_more_rounds_keep_what_was_measured(fake, tmp_path):
    few = planned(tmp_path, measure=[{**body()["measure"][0], "rounds": 1}])
    more = planned(tmp_path)
    assert {unit.key for unit in few.units} < {unit.key for unit in more.units}


def test_a_faulty_model_is_a_failed_record(fake, tmp_path):
    models = [{"name": "fake/timed", "label": "bad", "options": {**FAST, "ignore_batch": True}}]
    section = {**body()["measure"][0], "rounds": 1, "batch": 2}
    plan = planned(tmp_path, models=models, reference="bad", measure=[section], incomplete="mark")
    assert run_plan(plan, tmp_path / "run").failed == 1
    record = next(iter(RecordFile(tmp_path / "run" / "records.jsonl").records()))
    assert "ignores the batch" in record.error["message"]


MIB = 1 << 20


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="resident memory is read from /proc")
def test_every_measurement_of_an_arm_counts_its_weights(fake, tmp_path):
    # glibc maps 32 MiB and more anew; less might come from memory that earlier tests left resident.
    sizes, request = {"quick": 64 * MIB, "slow": 32 * MIB}, 48 * MIB
    models = [
        {"name": "fake/timed", "label": name, "options": {**FAST, "weight_bytes": size, "request_bytes": request}}
        for name, size in sizes.items()
    ]
    section, lengths = body()["measure"][0], {9: 1, 12: 1, 15: 4}
    measure = [{**section, "name": f"f{n}", "frames": n, "rounds": rounds} for n, rounds in lengths.items()]
    clips = [{"name": "clips", "prompts": "p", "seeds": [0], "frames": 3}]
    plan = planned(tmp_path, models=models, generate=clips, measure=measure, tables=[])
    assert run_plan(plan, tmp_path / "run").failed == 0
    records = [r for r in RecordFile(tmp_path / "run" / "records.jsonl").records() if r.kind == "measure"]
    assert len(records) == 12
    for record in records:
        weights = sizes[record.context["arm"]]
        # The system may take back pages of idle libraries meanwhile, which are less than any of these sizes.
        assert record.values["weight_bytes"] == pytest.approx(weights, abs=12 * MIB)
        assert record.values["peak_bytes"] == pytest.approx(weights + request, abs=12 * MIB)


def test_a_batch_size_has_the_device_to_itself(fake, tmp_path, monkeypatch):
    """Each load and unload, and the process it is in: while a batch size runs, its own model is the only one."""
    events = tmp_path / "events"
    monkeypatch.setenv("EVENTS", str(events))
    registry.load_plugin(LOGGED)
    options = {"budget_bytes": 256 * MIB, "max_batch": 2, "preload": []}
    sections = [
        {**body()["measure"][0], "rounds": 1},
        {"name": "fit", "probe": "batch_scaling", "options": options, "prompts": "p", "frames": 9},
    ]
    models = [{"name": "logged/model", "label": "quick"}]
    plan = planned(tmp_path, models=models, measure=sections, tables=[])
    assert run_plan(plan, tmp_path / "run").failed == 0
    lines = [line.split(" ", 1) for line in events.read_text(encoding="utf-8").splitlines()]
    # The process of a batch size ends without unloading.
    measuring = {pid for pid, event in lines if event == "unload a"}
    held, alone = set(), []
    for pid, event in lines:
        if pid not in measuring:
            assert not held, "a model is loaded beside that of a batch size"
            alone.append(pid)
        elif event == "load a":
            held.add(pid)
        elif event == "unload a":
            held.discard(pid)
    # Two batch sizes and the check of the larger one, each in a process of its own.
    assert len(measuring) == 1
    assert len(alone) == len(set(alone)) == 3
