"""The efficiency suites: each is planned as it stands, and the full-size one is run on networks of a tiny size."""

from pathlib import Path

import pytest
from road import write
from yaml import safe_load

from harness.execute.run import run_plan
from harness.report.tables import build
from harness.runs.plan import make
from harness.runs.records import RecordFile, load_run
from harness.suite.load import load_suite

SUITES = Path(__file__).parents[3] / "suites"
SMALL = ("throughput", "latency", "batch_scaling")


def arms(plan):
    return {arm.label: arm for arm in plan.arms}


@pytest.mark.parametrize("name", [*SMALL, "complexity"])
def test_small_suites_are_planned(name, tmp_path):
    loaded = load_suite(SUITES / f"{name}.yaml", [f"models.{i}.options.weights=random" for i in range(arm_count(name))])
    plan = make(loaded, "cpu")
    assert {unit.kind for unit in plan.units} == {"measure"}
    assert plan.suite.tables


@pytest.mark.parametrize("name", [*SMALL, "efficiency_full_size"])
def test_arms_alternate_warm_up_and_can_settle_and_each_is_audited(name):
    loaded = load_suite(SUITES / f"{name}.yaml")
    timed = [section for section in loaded.measure if section.probe == "streaming"]
    # Rule T12 wants two rounds at least, rule T6 two quiet generations, and a half-width of the median six samples.
    assert all(section.rounds >= 2 for section in timed)
    assert all(section.options["warmups"] >= 2 for section in timed)
    assert all(section.options["min_repeats"] >= 6 for section in timed)
    labels = {arm.label for arm in loaded.models}
    audited = [set(section.models or labels) for section in timed if section.options["audit_repeats"]]
    assert not timed or set.union(*audited) == labels


def arm_count(name):
    return len(safe_load((SUITES / f"{name}.yaml").read_text(encoding="utf-8")).get("models", []))


def test_the_full_size_suite_compares_caches_at_equal_windows():
    found = arms(make(load_suite(SUITES / "efficiency_full_size.yaml"), "cuda"))
    assert all(arm.card.weights == "random" for arm in found.values())
    for latent, dense in (("VideoMLA", "dense, same window"), ("VideoMLA, 21 frames", "dense, 21 frames")):
        assert found[latent].card.window_frames == found[dense].card.window_frames
        assert (found[latent].card.cached_scalars, found[dense].card.cached_scalars) == (224, 3072)
    # 21 frames x 1560 tokens x 30 layers x 3072 scalars x 2 bytes.
    assert found["dense, 21 frames"].card.cache_bytes == 21 * 1560 * 30 * 3072 * 2


def test_the_full_size_suite_runs_through_on_tiny_networks(tmp_path):
    body = safe_load((SUITES / "efficiency_full_size.yaml").read_text(encoding="utf-8"))
    tiny = {"network": "tiny", "height": 32, "width": 32, "codec": "preview", "dtype": "float32"}
    kept = ("VideoMLA", "dense, 21 frames", "Rolling Forcing")
    body["models"] = [
        {**entry, "options": {**entry["options"], **tiny}} for entry in body["models"] if entry["label"] in kept
    ]
    quick = {"warmups": 1, "min_repeats": 1, "min_seconds": 0, "ceiling_s": 0.1, "audit_repeats": 0}
    body["measure"] = [
        {
            **section,
            "rounds": 1,
            "frames": {"5s": 81, "switch": 33}[section["name"]],
            "switches": [{"frame": 21, "prompts": "other"}] if section["name"] == "switch" else [],
            "options": {**section["options"], **quick},
            "models": [label for label in section.get("models", kept) if label in kept],
        }
        for section in body["measure"]
        if section["name"] in ("5s", "switch")
    ]
    body["tables"] = [table for table in body["tables"] if table["name"] == "sanity"]
    body["plots"] = [{"name": "chunk_time", "kind": "chunk_time", "section": "5s"}]
    outcome = run_plan(make(load_suite(write(tmp_path, body)), "cpu"), tmp_path / "run")
    records = {
        (r.context["arm"], r.context["section"]): r for r in RecordFile(tmp_path / "run/records.jsonl").records()
    }
    assert outcome.failed == 0, [record.error for record in records.values() if record.error]
    for label in kept:
        first = records[label, "5s"]
        # A chunk of these networks takes milliseconds, so the lines between stages weigh more than at real sizes.
        assert first.values["stage_share"] == pytest.approx(1, abs=0.1)
        assert label == "Rolling Forcing" or records[label, "switch"].values["switch_s"] > 0
    # Four denoising steps and the clean pass; Rolling Forcing evaluates the network twice a chunk.
    assert records["VideoMLA", "5s"].values["forwards_per_chunk"] == 5
    assert records["Rolling Forcing", "5s"].values["forwards_per_chunk"] == 2
    assert "window of 6 latent frames full" in records["VideoMLA", "5s"].notes["steady_rule"]
    table = build([load_run(tmp_path / "run")])[0]
    assert [row.label for row in table.rows] == list(kept)
