"""Published rows in tables: what stands in them, how they are told from measured ones, and what may be asked for."""

import csv
import hashlib
import io
from pathlib import Path
from typing import Any

import pytest
from run_folders import Arm, write_run

from harness.errors import SuiteError
from harness.report.render import comma_separated, html, latex, markdown
from harness.report.table import Cell, Table
from harness.report.tables import build
from harness.runs.records import load_run
from harness.suite import published
from harness.suite.load import load_suite

VIDEOMLA = "arXiv:2605.30351v1"
ARMS = [Arm("dense", [0.2] * 4, speed=(20.0, 20.0)), Arm("latent", [0.9] * 4, speed=(30.0, 30.0))]


def table(folder: Path, columns: list[dict[str, Any]], rows: list[dict[str, Any]], **more: Any) -> Table:
    write_run(folder, ARMS, tables=[{"name": "t", "columns": columns, "published": rows, **more}])
    return build([load_run(folder)])[0]


def speed_table(folder: Path) -> Table:
    columns = [{"value": "speed:rate", "published": "throughput"}, {"value": "speed:rate", "published": "clip_latency"}]
    return table(folder, columns, [{"table": "Table 3"}])


def cell(found: Table, label: str, column: int = 0) -> Cell:
    return next(row.cells[column] for row in found.rows if row.label == label)


def test_the_figures_are_those_that_were_checked_against_their_sources() -> None:
    assert hashlib.sha256(published.FIGURES.read_bytes()).hexdigest() == published.SHA256
    figures = published.figures()
    assert len(figures) == 315
    keys = {(f.source, f.table, f.model, f.setting, f.metric) for f in figures}
    assert len(keys) == len(figures)
    assert {f.source for f in figures} == {VIDEOMLA, "arXiv:2506.08009"}


def test_every_known_fault_belongs_to_a_figure() -> None:
    said = {note for figure in published.figures() for note in figure.notes}
    with published.FAULTS.open(encoding="utf-8", newline="") as file:
        assert {line["note"] for line in csv.DictReader(file)} <= said


def test_published_rows_stand_below_measured_ones_with_source_and_hardware(tmp_path: Path) -> None:
    found = speed_table(tmp_path)
    labels = [row.label for row in found.rows]
    assert labels == ["dense", "latent", "NOVA", "Pyramid Flow", "Self-Forcing", "LongSANA", "VideoMLA"]
    assert {row.published for row in found.rows[:2]} == {""}
    assert {row.published for row in found.rows[2:]} == {f"{VIDEOMLA}, Table 3, B200"}
    assert cell(found, "VideoMLA").text == "23.96"


def test_published_rows_are_never_ranked_with_measured_ones(tmp_path: Path) -> None:
    alone = table(tmp_path / "alone", [{"value": "speed:rate"}], [])
    beside = speed_table(tmp_path / "beside")
    # 30 measured frames/s lead although the fastest published row were slower or faster; no published cell is bold.
    assert [row.cells[0].best for row in alone.rows] == [row.cells[0].best for row in beside.rows[:2]] == [False, True]
    assert not any(each.best for row in beside.rows[2:] for each in row.cells)
    assert [row.cells[0] for row in alone.rows] == [row.cells[0] for row in beside.rows[:2]]


def test_each_renderer_tells_them_apart(tmp_path: Path) -> None:
    found = speed_table(tmp_path)
    text = markdown(found)
    assert f"*VideoMLA (published: {VIDEOMLA}, Table 3, B200)*" in text
    assert "*23.96*" in text
    assert "published rows in italics" in text
    page = html(found)
    assert page.count('<tr class="published">') == 5
    assert ".published {" in page
    drawn = latex(found)
    assert r"\textit{23.96}" in drawn
    assert drawn.count(r"\midrule") == 2
    lines = list(csv.DictReader(io.StringIO(comma_separated(found))))
    assert [line["origin"] for line in lines[:3]] == ["measured here"] * 2 + [f"{VIDEOMLA}, Table 3, B200"]


def test_tables_without_them_are_drawn_as_ever(tmp_path: Path) -> None:
    plain = table(tmp_path, [{"value": "speed:rate"}], [])
    assert "published" not in markdown(plain) + html(plain) + latex(plain) + comma_separated(plain)
    assert "origin" not in comma_separated(plain)


def test_swapped_latencies_and_unequal_windows_are_footnotes(tmp_path: Path) -> None:
    found = speed_table(tmp_path)
    notes = dict(found.footnotes())
    said = {row.label: [notes[mark] for each in row.cells for mark in each.marks] for row in found.rows}
    assert "this latency and LongSANA's look swapped: 81/18.06 = 4.48" in said["Self-Forcing"]
    assert "this latency and Self-Forcing's look swapped: 81/19.35 = 4.19" in said["LongSANA"]
    assert any("windows of different size: 21 latent frames" in note for note in said["Self-Forcing"])
    assert any("windows of different size: 6 or 7" in note for note in said["VideoMLA"])
    letters = [mark for mark in notes if mark.startswith("[")]
    assert letters == [f"[{letter}]" for letter in "abcdefghij"[: len(letters)]]
    text = markdown(found)
    assert all(f"{mark} {note}".replace("*", "\\*") in text for mark, note in notes.items())


@pytest.mark.parametrize("figure", [f for f in published.figures() if f.unit in ("frames/s", "s")], ids=str)
def test_a_speed_whose_span_its_source_does_not_state_says_so(figure: published.Figure) -> None:
    # Neither source says of any of its speeds what was timed.
    assert [note for note in figure.notes if note.startswith("span not stated")]


def test_totals_that_are_not_vbenchs_are_footnotes(tmp_path: Path) -> None:
    columns = [{"value": "short:sharpness", "published": {"metric": "mean_of_six", "setting": "30 s"}}]
    overall = table(tmp_path / "a", columns, [{"table": "Table 2", "models": ["VideoMLA"]}])
    assert any("not VBench's total" in note for _, note in overall.footnotes())
    columns = [{"value": "short:sharpness", "format": ".2%", "published": "mean_of_semantic_and_quality"}]
    ablation = table(tmp_path / "b", columns, [{"table": "Table 5a"}])
    assert any("not VBench's (4Q+S)/5" in note for _, note in ablation.footnotes())
    totals = table(
        tmp_path / "c",
        [{"value": "short:sharpness", "format": ".2%", "published": "vbench_total"}],
        [{"table": "Table 1", "models": ["Self-Forcing chunk-wise"]}],
    )
    assert any("totals of one checkpoint differ" in note for _, note in totals.footnotes())
    assert cell(totals, "Self-Forcing chunk-wise").text == "84.31%"
    assert cell(totals, "Self-Forcing chunk-wise").value == pytest.approx(0.8431)


def test_rows_are_models_or_settings_as_the_columns_say(tmp_path: Path) -> None:
    both = [
        {"value": "short:sharpness", "label": length, "published": {"metric": "dynamic_degree", "setting": length}}
        for length in ("30 s", "60 s")
    ]
    wide = table(tmp_path / "a", both, [{"table": "Table 2", "models": ["LongLive", "VideoMLA"]}])
    assert [(row.label, *(each.text for each in row.cells)) for row in wide.rows[2:]] == [
        ("LongLive", "0.649", "0.433"),
        ("VideoMLA", "0.981", "0.958"),
    ]
    assert wide.rows[2].published.endswith("hardware not given")
    slopes = [{"value": "speed:rate", "published": "memory_slope", "format": ",.0f"}]
    long = table(tmp_path / "b", slopes, [{"table": "Figure 7", "settings": ["dense", "d_c=192"]}])
    assert [(row.label, row.cells[0].text) for row in long.rows[2:]] == [
        ("Self-Forcing (dense), dense", "6,260,000,000"),
        ("VideoMLA, d_c=192", "820,000,000"),
    ]


def test_a_table_may_show_some_arms_alone(tmp_path: Path) -> None:
    found = table(tmp_path, [{"value": "speed:rate", "relative": True}], [], models=["latent"])
    # Set against a reference that is not shown.
    assert [(row.label, row.cells[0].text, row.cells[0].best) for row in found.rows] == [("latent", "1.5", False)]


def test_a_published_ratio_stands_in_a_relative_column_and_nothing_else_does(tmp_path: Path) -> None:
    columns = [
        {"value": "speed:rate", "relative": True, "published": "batch_headroom"},
        {"value": "speed:rate", "published": "max_batch"},
        {"value": "speed:rate", "published": "batch_headroom"},
        {"value": "speed:rate", "relative": True, "published": "max_batch"},
    ]
    found = table(tmp_path, columns, [{"table": "Section 4.3"}])
    assert [(row.label, *(each.text for each in row.cells)) for row in found.rows[2:]] == [
        ("Self-Forcing (dense), dense", "-", "28", "-", "-"),
        ("VideoMLA, d_c=192", "8.0", "-", "-", "-"),
    ]
    assert [each.text for each in found.rows[1].cells] == ["1.5", "30", "30", "1.5"]


SUITE = """\
suite: s
models: [{name: fake/card}]
prompts: {p: [a cat]}
generate: [{name: short, prompts: p, frames: 8, metrics: [fake/quality]}]
tables:
  - name: t
    models: [MODELS]
    columns: [{value: "short:sharpness", published: METRIC}]
    published: [{table: TABLE, models: [WHO], settings: [WHEN]}]
"""
GOOD = {"MODELS": "fake/card", "METRIC": "aesthetic_quality", "TABLE": "Table 2", "WHO": "LongLive", "WHEN": "30 s"}


@pytest.mark.parametrize(
    ("wrong", "answer"),
    [
        ({}, ""),
        ({"METRIC": "estetic_quality"}, "unknown published metric 'estetic_quality'; did you mean aesthetic_quality"),
        ({"METRIC": "{metric: aesthetic_quality, setting: 60 s}"}, "unknown published setting '60 s'; did you mean 30"),
        ({"TABLE": "Tabel 2"}, "unknown published table 'Tabel 2'; did you mean Table 2"),
        ({"WHO": "LongLife"}, "unknown published model 'LongLife'; did you mean LongLive"),
        ({"WHEN": "31 s"}, "unknown published setting '31 s'; did you mean 30 s"),
        ({"METRIC": "cache_reduction", "TABLE": "Table 5a", "WHO": "VideoMLA", "WHEN": "d_c=64"}, "is a ratio, so its"),
        ({"METRIC": "aesthetic_quality, relative: true"}, "is no ratio, so its column must not be `relative`"),
        ({"MODELS": "fake/cart"}, "unknown model label 'fake/cart'; did you mean fake/card"),
        ({"[{table: TABLE, models: [WHO], settings: [WHEN]}]": "[]"}, "the table asks for no `published` rows"),
        ({", published: METRIC": ""}, "no column says which published metric it shows"),
    ],
)
def test_what_is_not_published_is_refused_with_the_nearest_names(
    tmp_path: Path, wrong: dict[str, str], answer: str
) -> None:
    text = SUITE
    for key, value in {**wrong, **{key: value for key, value in GOOD.items() if key not in wrong}}.items():
        text = text.replace(key, value)
    path = tmp_path / "s.yaml"
    path.write_text(text, encoding="utf-8")
    if not answer:
        assert load_suite(path).tables[0].published[0].table == "Table 2"
        return
    with pytest.raises(SuiteError) as caught:
        load_suite(path)
    assert answer in str(caught.value)
    assert str(caught.value).startswith(f"{path}:")
