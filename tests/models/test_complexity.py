"""The complexity probe: formulas by hand, counts by arithmetic, and the table and plot made of them."""

import math

import pytest
from road import write

from harness import suite
from harness.contracts import Workload
from harness.errors import OptionError, RecordError
from harness.execute import local
from harness.plan import make
from harness.records import RecordFile, load_run
from harness.report.render import markdown
from harness.report.scaling import panels
from harness.report.tables import build
from models.complexity import FIELDS, FORMS, Complexity, ComplexityOptions, absorbed_over_dense, formulas

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
    return Complexity(ComplexityOptions(**{**SMALL, "timed": False, **changes})).measure(None, Workload((), (), 1))


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
    # Scores over 20 + 6 channels, and a mix of as many, for each of three heads.
    assert found["mla_absorbed_attention_flops"] == 4 * queries * keys * 3 * 26
    assert found["mla_expanded_attention_flops"] == 4 * queries * keys * 48
    rebuild = 2 * keys * 20 * (3 * 10 + 48)
    down = 2 * queries * (48 * (24 + 20 + 6) + 24 * 3 * 6)
    up = 2 * queries * (24 * 3 * 10 + 48 * 48)
    assert found["mla_expanded_chunk_flops"] == down + up + rebuild + 4 * queries * keys * 48
    assert found["absorbed_over_dense_counted"] == found["absorbed_over_dense"]


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


def test_time_is_measured_for_every_form_and_length():
    found = measured(timed=True, measure_s=0.001, windows=(3,), clips=(4, 8))
    for form in FORMS:
        assert found.values[f"{form}_chunk_s"] > 0
        assert found.values[f"{form}_clip_s"] > found.values[f"{form}_chunk_s"]
        assert len(found.samples[f"{form}:window_s"]) == 1
        assert len(found.samples[f"{form}:clip_s"]) == 2
    assert found.values["absorbed_over_dense_counted"] == 3 * 26 / 48


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
    with pytest.raises(OptionError, match=message):
        measured(**changes)


def test_the_forms_are_the_rows_of_one_table_and_the_curves_of_one_plot(tmp_path):
    section = {"name": "forms", "probe": "complexity", "options": {**SMALL, "timed": False}}
    section["options"] = {**section["options"], "latent": {**SMALL["latent"], "pairs": [1, 1, 1]}}
    section["options"] |= {key: list(SMALL[key]) for key in ("grid", "windows", "clips")}
    tables = [{"name": "ratio", "columns": [{"value": "forms:absorbed_over_dense_default", "format": ".2f"}]}]
    body = {"suite": "complexity", "models": [], "measure": [section], "tables": tables}
    outcome = local.run(make(suite.load(write(tmp_path, body)), "cpu"), tmp_path / "run")
    record = next(iter(RecordFile(tmp_path / "run" / "records.jsonl").records()))
    assert (outcome.made, record.error) == (1, {})
    ratio, forms = build([load_run(tmp_path / "run")])
    assert ratio.rows[0].cells[0].text == "1.75"
    assert [row.label for row in forms.rows] == [form.replace("_", " ") for form in FORMS]
    assert [column.label for column in forms.columns] == [field.label for field in FIELDS]
    assert "1.75 at the published ones" in markdown(forms)
    assert "not measured" in markdown(forms)
    drawn = panels(record.samples)
    assert [panel.up.label for panel in drawn] == ["attention FLOPs of the last chunk", "cache bytes"]
    assert [line.label for line in drawn[0].lines] == [form.replace("_", " ") for form in FORMS]
    assert drawn[0].lines[0].y == tuple(record.samples[f"{FORMS[0]}:window_attention_flops"])


def test_a_record_of_something_else_is_not_plotted():
    with pytest.raises(RecordError, match="no sweep"):
        panels({"clip_s": [1.0]})
