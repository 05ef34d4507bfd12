"""The suite of the paper's tables: it is planned as it stands, and its tables say what has not been measured."""

import json
from pathlib import Path

import pytest

from harness.report.render import html, latex, markdown
from harness.report.table import Table
from harness.report.tables import build
from harness.runs.plan import Plan, make, to_json
from harness.runs.records import load_run
from harness.suite.load import load_suite

HEADLINE = Path(__file__).parents[3] / "suites" / "headline.yaml"
SIX = ["AQ", "BC", "DD", "IQ", "MS", "SC"]
CARDS = (
    "parameters",
    "window",
    "chunk",
    "temporal ratio",
    "cached scalars",
    "cache reduction",
    "cache, analytic",
    "transient keys and values",
)
"""Columns that are known before anything has run."""


@pytest.fixture(scope="module")
def plan() -> Plan:
    return make(load_suite(HEADLINE), "cpu")


@pytest.fixture(scope="module")
def tables(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Table]:
    """Of a run that has been planned and in which nothing has run."""
    folder = tmp_path_factory.mktemp("headline")
    (folder / "plan.json").write_text(json.dumps(to_json(plan)), encoding="utf-8")
    return {table.name: table for table in build([load_run(folder)])}


def published(table: Table, label: str) -> dict[str, str]:
    row = next(row for row in table.rows if row.label == label and row.published)
    return {column.label: cell.text for column, cell in zip(table.columns, row.cells, strict=True)}


def measured(table: Table) -> list[str]:
    return [row.label for row in table.rows if not row.published]


def test_it_has_a_table_for_each_of_the_papers(tables: dict[str, Table]) -> None:
    wanted = ["long_horizon", "speed_chunk_wise", "speed_frame_wise", "batch_scaling", "latent_width"]
    assert list(tables) == [*wanted, "content_position_split", "absorbed_over_dense"]
    assert [column.label for column in tables["long_horizon"].columns] == [
        f"{length} s: {name}" for length in (30, 60) for name in [*SIX, "mean of six"]
    ]


def test_what_has_not_run_reads_so_and_nothing_is_ranked(tables: dict[str, Table]) -> None:
    for table in tables.values():
        for row in table.rows:
            for column, cell in zip(table.columns, row.cells, strict=True):
                known = column.label in CARDS
                assert row.published or known or cell.text == "not measured"
                assert known or not cell.best


def test_published_rows_are_those_of_the_sources(tables: dict[str, Table]) -> None:
    long = published(tables["long_horizon"], "VideoMLA")
    assert (long["30 s: DD"], long["60 s: DD"], long["60 s: mean of six"]) == ("0.981", "0.958", "0.859")
    assert sum(bool(row.published) for row in tables["long_horizon"].rows) == 10
    fast = published(tables["speed_chunk_wise"], "VideoMLA")
    assert (fast["end to end"], fast["whole clip"], fast["CLIP-T"]) == ("23.96", "3.38", "0.3278")
    assert published(tables["speed_frame_wise"], "Self-Forcing frame-wise")["first chunk"] == "0.45"
    assert published(tables["batch_scaling"], "VideoMLA, d_c=192")["per request"] == "820,000,000"
    assert published(tables["latent_width"], "VideoMLA, d_c=128")["mean of Q and S"] == "83.24%"
    assert published(tables["latent_width"], "VideoMLA, d_c=64")["cache reduction"] == "32.0"
    fitting = {row.label for row in tables["batch_scaling"].rows if "Section 4.3" in row.published}
    assert fitting == {"Self-Forcing (dense), dense", "VideoMLA, d_c=192"}
    cells = [cell.text for row in tables["batch_scaling"].rows if "Section 4.3" in row.published for cell in row.cells]
    assert [text for text in cells if text != "-"] == ["28", "8.0"]


def test_arms_stand_in_the_tables_that_they_are_for(tables: dict[str, Table]) -> None:
    assert measured(tables["speed_frame_wise"]) == ["Self-Forcing, frame-wise"]
    assert len(measured(tables["long_horizon"])) == 9
    assert measured(tables["latent_width"])[:2] == ["VideoMLA", "VideoMLA ablated [d_c=64]"]
    # 3072 over 96, as the source prints of d_c = 64, and over the other widths and their 32 rope channels.
    reductions = [row.cells[1].text for row in tables["latent_width"].rows if not row.published]
    assert reductions == [f"{3072 / (width + 32):.2f}" for width in (192, 64, 128, 256, 512)]
    scalars = [row.cells[0].text for row in tables["content_position_split"].rows if not row.published]
    assert scalars == ["224", "208", "256", "288"]
    # 21 frames x 1560 tokens x 30 layers x scalars x 2 bytes, as in the published figure.
    caches = {row.label: row.cells[5].value for row in tables["batch_scaling"].rows}
    assert caches["VideoMLA, 21 frames [d_c=192]"] == 21 * 1560 * 30 * 224 * 2
    assert caches["dense, 21 frames"] == 21 * 1560 * 30 * 3072 * 2


def test_clips_have_the_papers_lengths(plan: Plan) -> None:
    lengths = {section.name: section.frames for section in plan.suite.generate}
    # 21, 120 and 240 latent frames of a decoder that makes four pixel frames of each but the first.
    assert (lengths["clips"], lengths["30s"], lengths["60s"]) == tuple(1 + 4 * (n - 1) for n in (21, 120, 240))


def test_the_long_clips_are_drawn_segment_by_segment(plan: Plan) -> None:
    (over_time,) = (plot for plot in plan.suite.plots if plot.kind == "quality_over_time")
    assert over_time.values == [f"60s:segment_{number}" for number in range(1, 7)]
    groups = {group.arm for group in plan.groups if (group.section, group.plugin) == ("60s", "clip/segments")}
    assert groups == set(over_time.models or [])


def test_every_renderer_draws_them(tables: dict[str, Table]) -> None:
    for table in tables.values():
        assert "not measured" in markdown(table)
        assert "not measured" in latex(table)
        assert "not measured" in html(table)
