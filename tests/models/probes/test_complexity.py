"""The complexity probe: formulas by hand, counts by arithmetic, and the table and plot made of them."""

import math
from pathlib import Path
from statistics import median

import pytest
from road import write

from harness.contracts import ProbeContext, Workload
from harness.errors import RecordError, SuiteError
from harness.execute.run import run_plan
from harness.probes.timing import repeat
from harness.probes.timing.telemetry import Telemetry
from harness.report.plots.complexity import panels
from harness.report.render import markdown
from harness.report.tables import build
from harness.runs.plan import make
from harness.runs.records import RecordFile, load_run
from harness.suite.load import load_suite
from videomla_models.ops import torch_forms
from videomla_models.probes.complexity import Complexity, absorbed_over_dense, formulas, what_absorption_saves
from videomla_models.probes.complexity_sizes import FIELDS, FORMS, WINDOWED, ComplexityOptions
from videomla_models.spec import cost
from videomla_models.spec.config import TransformerConfig

SMALL = {
    "dim": 48,
    "heads": 3,
    "latent": {"d_c": 20, "d_q": 24, "d_nope": 10, "d_rope": 6, "pairs": (1, 1, 1)},
    "grid": (2, 3),
    "chunk": 2,
    "window": 5,
    "windows": (3, 7),
    "clip": 8,
    "clips": (4, 8),
    "dtype": "float32",
}


def measured(**changes):
    return measured_at(SMALL, **changes)


def measured_at(sizes, **changes):
    return Complexity(ComplexityOptions(**{**sizes, "timed": False, **changes})).measure(
        None, Workload((), (), 1), ProbeContext("cpu", Path("unused"))
    )


@pytest.fixture(scope="module")
def counted():
    """One sweep on shapes alone."""
    return measured()


def test_the_papers_formulas_by_hand():
    options = ComplexityOptions(**SMALL)
    n, w, d, head = 8 * 6, 5 * 6, 48, 16
    found = {form: list(formulas(form, options, 5, 8).values()) for form in FORMS}
    assert found["causal_full"] == [2 * n * d, n * d, n * n * d / 2]
    assert found["causal_local"] == [2 * w * d, w * d, n * w * d]
    assert found["causal_linear"] == [d * head, d * head, n * d * head]
    assert found["mla_absorbed"] == [w * 26, 3 * w * 26, 3 * n * w * 26]


def test_the_published_widths_cost_one_and_three_quarters(counted):
    assert absorbed_over_dense(12, 1536, 192, 32) == 1.75
    found = counted.values
    assert found["absorbed_over_dense_default"] == 1.75
    assert found["absorbed_over_dense"] == 3 * 26 / 48


def test_flops_counted_on_the_modules_are_those_of_the_arithmetic(counted):
    found = counted.values
    queries, keys, d, head = 2 * 6, 5 * 6, 48, 16
    projections = 4 * 2 * queries * d * d
    assert found["causal_local_attention_flops"] == 4 * queries * keys * d
    assert found["causal_local_chunk_flops"] == projections + 4 * queries * keys * d
    assert found["causal_full_attention_flops"] == 4 * queries * (8 * 6) * d
    # Keys into the state, queries out of it, and the normaliser.
    assert found["causal_linear_attention_flops"] == 4 * queries * d * head + 2 * queries * d
    # Scores over 20 + 6 channels, and sums of 20, for each of three heads; the fall-back pads them to 26.
    assert found["mla_absorbed_attention_flops"] == 2 * queries * keys * 3 * (26 + 20)
    assert found["mla_expanded_attention_flops"] == 4 * queries * keys * 48
    rebuild = 2 * keys * 20 * (3 * 10 + 48)
    down = 2 * queries * (48 * (24 + 20 + 6) + 24 * 3 * 6)
    up = 2 * queries * (24 * 3 * 10 + 48 * 48)
    assert found["mla_expanded_chunk_flops"] == down + up + rebuild + 4 * queries * keys * 48
    assert found["absorbed_over_dense_counted"] == (26 + 20) / (16 + 16)


def test_at_the_published_widths_the_count_is_what_the_kernel_does():
    """One layer of the 1.3B model, 4,680 queries on 9,360 keys: 1.625 of dense attention's products."""
    found = measured_at({}, window=6, windows=(6,), clip=21, clips=(21,))
    pairs = 4680 * 9360 * 12
    assert found.values["mla_absorbed_attention_flops"] == 832 * pairs
    assert found.values["causal_local_attention_flops"] == 512 * pairs
    assert found.values["absorbed_over_dense_counted"] == 832 / 512 == 1.625
    config = TransformerConfig(attention="latent", layers=1)
    for form in ("absorbed", "expanded"):
        parts = cost.flops_per_forward(config, 4680, 9360, form)
        layer = parts["projections"] + parts["rebuild"] + parts["attention"]
        assert found.values[f"mla_{form}_chunk_flops"] == layer
    said = " ".join(found.table.remarks)
    assert "1.750 at these widths" in said
    assert "Counted at these: 1.625. The formula charges the sums of values with d_c + d_rope channels" in said
    assert "absorption saves memory, not compute: it takes 0.073 of the cache" in said


def test_at_the_small_models_widths_absorption_saves_compute_too():
    widths = {"dim": 192, "heads": 4, "grid": (2, 2), "dtype": "float32"}
    widths["latent"] = {"d_c": 32, "d_q": 144, "d_nope": 24, "d_rope": 24, "pairs": (4, 4, 4)}
    found = measured_at(widths, windows=(6,), clip=9, clips=(9,))
    assert found.values["absorbed_over_dense_counted"] == pytest.approx((56 + 32) / (48 + 48))
    said = " ".join(found.table.remarks)
    assert "Counted at these: 0.917" in said
    assert "absorption saves memory and compute: it takes 0.146 of the cache" in said
    assert "not compute" not in said


@pytest.mark.parametrize(
    ("cache", "ratio", "sentence"),
    [(3.0, 1.5, "saves neither memory nor compute"), (2.0, 0.5, "saves compute, not memory")],
)
def test_what_absorption_saves_is_said_of_the_sizes_at_hand(cache, ratio, sentence):
    values = {"mla_absorbed_cache_bytes": cache, "causal_local_cache_bytes": 2.0, "absorbed_over_dense_counted": ratio}
    assert sentence in what_absorption_saves(values)


def test_bytes_are_those_of_the_caches(counted):
    found = counted.values
    assert found["causal_full_cache_bytes"] == 4 * 2 * 8 * 6 * 48
    assert found["causal_local_cache_bytes"] == 4 * 2 * 5 * 6 * 48
    assert found["mla_absorbed_cache_bytes"] == 4 * 5 * 6 * 26
    assert found["causal_linear_cache_bytes"] == 4 * (48 * 16 + 48)
    assert found["causal_local_memory_formula"] * 4 == found["causal_local_cache_bytes"]


def test_what_grows_with_the_window_and_what_does_not(counted):
    samples = counted.samples
    full, local_, linear = (samples[f"{form}:window_attention_flops"] for form in FORMS[:3])
    assert full[0] == full[1]
    assert linear[0] == linear[1]
    assert local_[1] / local_[0] == 7 / 3


def test_what_grows_with_the_clip_and_what_does_not(counted):
    samples = counted.samples
    for name, full, within in (
        # By the clip's keys 4 x 6 and 8 x 6; under a window of 5 x 6 the longer clip shows 5 x 6 of its own.
        ("clip_attention_flops", [4 * 12 * 24 * 48, 4 * 12 * 48 * 48], [4 * 12 * 24 * 48, 4 * 12 * 30 * 48]),
        ("clip_bytes", [4 * 2 * 24 * 48, 4 * 2 * 48 * 48], [4 * 2 * 24 * 48, 4 * 2 * 30 * 48]),
    ):
        assert samples[f"causal_full:{name}"] == full
        assert samples[f"causal_local:{name}"] == within
        assert len(set(samples[f"causal_linear:{name}"])) == 1
    assert samples["mla_absorbed:clip_bytes"] == [4 * 24 * 26, 4 * 30 * 26]


def test_a_kernel_that_hides_its_flops_changes_no_count(counted, monkeypatch):
    """A kernel's operations have no formula; on a device that runs one, only the timed calls may go through it."""
    real = torch_forms.absorbed, torch_forms.expand
    hidden = []

    def absorbed(query, c, r, scale):
        if query.is_meta:
            return real[0](query, c, r, scale)
        hidden.append("absorbed")
        return query.new_zeros(*query.shape[:-1], c.shape[-1])

    def expand(c, r, k_up, v_up):
        if c.is_meta:
            return real[1](c, r, k_up, v_up)
        hidden.append("expanded")
        heads = (c.shape[0], k_up.shape[0], c.shape[1])
        return c.new_zeros(*heads, k_up.shape[1] + r.shape[-1]), c.new_zeros(*heads, v_up.shape[1])

    monkeypatch.setattr(torch_forms, "absorbed", absorbed)
    monkeypatch.setattr(torch_forms, "expand", expand)
    found = measured(timed=True, measure_s=0.001)
    assert set(hidden) == {"absorbed", "expanded"}
    for name, value in counted.values.items():
        assert found.values[name] == value or name.endswith("_s") or name == "rejected", name


def test_time_is_measured_for_every_form_and_length():
    found = measured(timed=True, measure_s=0.001, windows=(3,), clips=(4, 8))
    for form in FORMS:
        assert found.values[f"{form}_chunk_s"] > 0
        assert found.values[f"{form}_clip_s"] > 0
        assert len(found.samples[f"{form}:window_s"]) == 1
        assert len(found.samples[f"{form}:clip_s"]) == 2
        whole = "8_of_8" if form in ("causal_full", "causal_linear") else "5_of_8"
        for name in ("chunk_s", "clip_s"):
            assert median(found.samples[f"{form}:{whole}:{name}"]) == found.values[f"{form}_{name}"]
    assert found.values["absorbed_over_dense_counted"] == (26 + 20) / (16 + 16)
    assert set(found.notes) >= {"device_before", "device_after", "other_work", "flags"}


def test_timings_at_a_low_clock_are_taken_anew_and_counted(monkeypatch):
    ratios = [0.5, 0.6, 1.0, 0.7]
    monkeypatch.setattr(Telemetry, "clock_ratio", lambda self: ratios.pop(0) if ratios else 1.0)
    monkeypatch.setattr(repeat, "PAUSES_S", (0.0,) * 4)
    found = measured(timed=True, measure_s=0.001, windows=(3,), clips=(8,))
    assert found.values["rejected"] == 3
    assert math.isfinite(found.values["causal_full_chunk_s"])
    assert math.isnan(measured().values["rejected"])


def test_other_work_while_it_was_timed_is_said_below_the_table(monkeypatch):
    monkeypatch.setattr("harness.probes.timing.contention.CONTENDED_CORES", -1e9)
    monkeypatch.setattr("os.cpu_count", lambda: -(10**12))
    found = measured(timed=True, measure_s=0.001, windows=(5,), clips=(8,))
    if found.notes["other_work"]["other_busy_cores"] is None:
        pytest.skip("the system does not tell what others do")
    assert "Other work was seen" in found.table.remarks[-1]
    assert "Other work" not in str(measured().table.remarks)


def test_on_shapes_alone_there_is_no_time(counted):
    assert all(math.isnan(counted.values[f"{form}_chunk_s"]) for form in FORMS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 5}, "do not fit"),
        ({"latent": {**SMALL["latent"], "pairs": (2, 1, 1)}}, "do not fit"),
        ({"windows": ()}, "at least one length"),
        ({"windows": (1,)}, "shorter than a chunk"),
        ({"clips": (5,)}, "whole chunks"),
    ],
)
def test_sizes_that_fit_no_layer_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        measured(**changes)


def test_the_forms_are_the_rows_of_one_table_and_the_curves_of_one_plot(tmp_path):
    section = {"name": "forms", "probe": "complexity", "options": {**SMALL, "timed": False}}
    section["options"] = {**section["options"], "latent": {**SMALL["latent"], "pairs": [1, 1, 1]}}
    section["options"] |= {key: list(SMALL[key]) for key in ("grid", "windows", "clips")}
    tables = [{"name": "ratio", "columns": [{"value": "forms:absorbed_over_dense_default", "format": ".2f"}]}]
    body = {"suite": "complexity", "models": [], "measure": [section], "tables": tables}
    outcome = run_plan(make(load_suite(write(tmp_path, body)), "cpu"), tmp_path / "run")
    record = next(iter(RecordFile(tmp_path / "run" / "records.jsonl").records()))
    assert (outcome.done_now, record.error) == (1, {})
    ratio, forms = build([load_run(tmp_path / "run")])
    assert ratio.rows[0].cells[0].text == "1.75"
    # Windows 3, 5 and 7 of the longest clip and the whole of the shorter; without a window one row a clip.
    lengths = {"causal_full": [(4, 4), (8, 8)], "causal_local": [(3, 8), (4, 4), (5, 8), (7, 8)]}
    rows = [(row.label, *(int(cell.text) for cell in row.cells[:2])) for row in forms.rows]
    assert rows == [
        (form.replace("_", " "), *length)
        for form in FORMS
        for length in lengths["causal_local" if form in WINDOWED else "causal_full"]
    ]
    assert [column.label for column in forms.columns] == ["window", "clip", *(field.label for field in FIELDS)]
    at = dict(zip(rows, forms.rows, strict=True))["mla absorbed", 5, 8]
    named = {field.name: cell.value for field, cell in zip(FIELDS, at.cells[2:], strict=True)}
    assert all(named[name] == record.values[f"mla_absorbed_{name}"] for name in ("clip_formula", "chunk_flops"))
    assert "1.750 at the published ones" in markdown(forms)
    assert "not measured" in markdown(forms)
    drawn = panels(record.samples)
    assert [panel.up.label for panel in drawn] == ["attention FLOPs of the last chunk", "cache bytes"] * 2
    assert [panel.across.label for panel in drawn] == ["window (latent frames)"] * 2 + ["clip (latent frames)"] * 2
    assert [line.label for line in drawn[0].lines] == [form.replace("_", " ") for form in FORMS]
    assert drawn[0].lines[0].y == tuple(record.samples[f"{FORMS[0]}:window_attention_flops"])


def test_a_record_of_the_first_version_has_the_panels_that_it_can_fill(counted):
    old = {name: found for name, found in counted.samples.items() if ":clip_" not in name}
    assert [panel.across.label for panel in panels(old)] == ["window (latent frames)"] * 2


def test_a_record_of_something_else_is_not_plotted():
    with pytest.raises(RecordError, match="no sweep"):
        panels({"clip_s": [1.0]})


def test_sizes_that_do_not_fit_are_refused_with_the_suite(tmp_path):
    section = {"name": "forms", "probe": "complexity", "options": {"timed": False, "clips": [21, -60]}}
    body = {"suite": "complexity", "models": [], "measure": [section], "tables": []}
    with pytest.raises(SuiteError, match=r"probe complexity: a clip is shorter than a chunk of 3 latent frames"):
        make(load_suite(write(tmp_path, body)), "cpu")
