"""Quality against cost: which arms are dominated, in table and picture alike, and names that never cover each other."""

from __future__ import annotations

import random
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml
from run_folders import Arm, write_run

from harness.errors import SuiteError
from harness.report.pareto import dominators, staircase
from harness.report.plots import chart, style
from harness.report.plots.chart import Axis, Line, Panel, Picture
from harness.report.plots.kinds import KINDS, pictures
from harness.report.table import INCOMPLETE, Table
from harness.report.tables import build
from harness.runs.records import Run, load_run
from harness.suite.load import load_suite
from harness.suite.schema import Plot

PLOT = {"name": "front", "kind": "pareto", "values": ["short:sharpness"], "costs": ["card:cached_scalars"]}


def run_of(folder: Path, arms: list[Arm], **plot: Any) -> Run:
    write_run(folder, arms, plots=[{**PLOT, **plot}])
    return load_run(folder)


def front(run: Run) -> Table:
    return next(table for table in build([run]) if table.name == "front")


def column(table: Table, number: int) -> dict[str, str]:
    return {row.label: row.cells[number].text for row in table.rows}


ARMS = [
    Arm("large", [0.9, 0.8, 0.9, 0.8], cached_scalars=400),
    Arm("worse and larger", [0.5, 0.4, 0.5, 0.4], cached_scalars=500),
    Arm("small", [0.6, 0.7, 0.6, 0.7], cached_scalars=50),
    Arm("as good, larger", [0.6, 0.7, 0.6, 0.7], cached_scalars=60),
    Arm("least", [0.1, 0.1, 0.1, 0.2], cached_scalars=10),
]


def test_an_arm_is_dominated_by_every_one_that_is_as_good_and_as_cheap_and_better_in_one() -> None:
    # (quality, the negative of the cost) of each.
    merits = {"a": (0.9, -4.0), "b": (0.5, -5.0), "c": (0.6, -1.0), "d": (0.6, -2.0), "twin": (0.6, -1.0)}
    assert dominators(merits) == {"a": [], "b": ["a", "c", "d", "twin"], "c": [], "d": ["c", "twin"], "twin": []}


def test_dominance_agrees_with_its_definition_on_random_points() -> None:
    rng = random.Random(0)
    for _ in range(200):
        merits = {str(n): (float(rng.randrange(5)), float(rng.randrange(5))) for n in range(8)}
        for label, by in dominators(merits).items():
            own = merits[label]
            for other, theirs in merits.items():
                expected = all(t >= o for t, o in zip(theirs, own, strict=True)) and theirs != own
                assert (other in by) == expected


def test_the_line_goes_level_then_up_from_cheap_to_good() -> None:
    places, merits = [(400.0, 0.9), (10.0, 0.1), (50.0, 0.6)], [(0.9, -400.0), (0.1, -10.0), (0.6, -50.0)]
    assert staircase(places, merits) == [(10, 0.1), (50, 0.1), (50, 0.6), (400, 0.6), (400, 0.9)]


def test_the_table_says_by_whom(tmp_path: Path) -> None:
    table = front(run_of(tmp_path, ARMS))
    assert [column.label for column in table.columns] == [
        "sharpness",
        "cached scalars",
        "dominated, by cached scalars",
    ]
    assert column(table, 2) == {
        "large": "no",
        "worse and larger": "by large; small; as good, larger",
        "small": "no",
        "as good, larger": "by small",
        "least": "no",
    }
    assert "dominated where another has at least its quality" in " ".join(table.remarks)


def test_what_cannot_be_compared_neither_dominates_nor_is_dominated(tmp_path: Path) -> None:
    arms = [
        *ARMS,
        Arm("random", [1.0] * 4, cached_scalars=1, weights="random"),
        Arm("cut short", [1.0, None, 1.0, 1.0], cached_scalars=1),
        Arm("without", [1.0] * 4),
    ]
    table = front(run_of(tmp_path, arms))
    assert column(table, 2)["large"] == "no"
    assert {label for label, text in column(table, 2).items() if text == "not compared"} == {
        "random",
        "cut short",
        "without",
    }
    assert next(row for row in table.rows if row.label == "cut short").cells[0].marks == (INCOMPLETE,)


def test_the_picture_greys_what_the_table_calls_dominated(tmp_path: Path) -> None:
    run = run_of(tmp_path, ARMS)
    drawn = KINDS["pareto"](Plot(**PLOT), run)
    (panel,) = drawn.panels
    lines = {line.label: line for line in panel.lines}
    assert {label for label, line in lines.items() if line.grey} == {"worse and larger", "as good, larger"}
    cells = {row.label: row.cells for row in front(run).rows}
    for label, line in lines.items():
        if label:
            quality, cost = cells[label][:2]
            assert (line.x, line.y) == ((cost.value,), (quality.value,))
            assert (line.low, line.high) == ((quality.low,), (quality.high,))
    assert lines[""].x == (10, 50, 50, 400, 400)
    assert {"front.svg", "front.png"} <= set(pictures(run))


def test_rounds_of_a_measured_cost_are_whiskers_and_more_is_better_where_it_says_so(tmp_path: Path) -> None:
    arms = [Arm("slow", [0.9, 0.8, 0.9, 0.8], speed=[4.0, 6.0]), Arm("fast", [0.5, 0.4, 0.5, 0.4], speed=[9.0, 8.0])]
    run = run_of(tmp_path, arms, costs=["speed:rate"])
    (panel,) = KINDS["pareto"](run.suite.plots[0], run).panels
    lines = {line.label: line for line in panel.lines}
    assert (lines["slow"].left, lines["slow"].right) == ((4.0,), (6.0,))
    assert not any(line.grey for line in lines.values())
    # From the best cost, the highest rate, to the best quality.
    assert lines[""].x == (8.5, 5.0, 5.0)


NAMES = ["dense", "videomla", "dense int8 [group=32]", "latent int4, sink exact", "average 0.99", "bank by prompt"]


def cloud(count: int, seed: int) -> Picture:
    """Arms with long names, many of them close together."""
    rng = random.Random(seed)
    lines = []
    for number in range(count):
        x, y = 10 ** rng.uniform(4, 6 if number % 3 else 4.2), rng.uniform(0.5, 0.9 if number % 2 else 0.55)
        name = f"{NAMES[number % len(NAMES)]} {number}"
        lines.append(Line(name, number, (x,), (y,), (y - 0.03,), (y + 0.03,), joined=False, grey=number % 2 == 0))
    panel = Panel(Axis("cache", "B", log=True), Axis("survival"), tuple(lines), named=True, apart=True)
    return Picture("cloud", "A cloud of arms", (panel, panel), ("A remark.",), tall=True)


@pytest.mark.parametrize("count", [12, 16, 20])
@pytest.mark.parametrize("seed", [0, 1])
def test_no_two_names_meet_however_many_arms(count: int, seed: int) -> None:
    picture = cloud(count, seed)
    with style.styled():
        figure, spaces = chart._figure(picture)
        for dpi in (72, style.DPI):  # as SVG and PNG are drawn
            figure.set_dpi(dpi)
            figure.draw_without_rendering()
            for axes in spaces:
                texts = [text for text in axes.texts if text.get_text()]
                assert len(texts) == count
                boxes = [text.get_window_extent() for text in texts]
                for first, second in combinations(boxes, 2):
                    assert not first.overlaps(second)
    assert chart.draw(picture, ".svg") == chart.draw(cloud(count, seed), ".svg")


def test_no_level_whisker_strikes_a_name_out() -> None:
    # As arms whose seconds vary more than they differ, on a slow machine.
    lines = [
        Line(f"dense, window {n}", n, (0.3 + 0.02 * n,), (0.1 * n,), (0.1 * n - 0.2,), (0.1 * n + 0.2,),
             joined=False, left=(0.1 + 0.02 * n,), right=(0.5 + 0.02 * n,))
        for n in range(8)
    ]  # fmt: skip
    panel = Panel(Axis("chunk", "s"), Axis("accuracy"), tuple(lines), named=True, apart=True)
    with style.styled():
        figure, (axes, *_) = chart._figure(Picture("whiskers", "Whiskers", (panel,), tall=True))
        figure.draw_without_rendering()
        names = [text.get_window_extent() for text in axes.texts if text.get_text()]
        assert len(names) == len(lines)
        for line in lines:
            ends = axes.transData.transform([(line.left[0], line.y[0]), (line.right[0], line.y[0])])
            (left, height), (right, _) = ends
            struck = [box for box in names if box.y0 < height < box.y1 and box.x0 < right and left < box.x1]
            assert not struck, line.label


SUITE: dict[str, Any] = {
    "suite": "s",
    "models": [{"name": "fake/card"}],
    "prompts": {"p": ["a cat"]},
    "generate": [{"name": "short", "prompts": "p", "frames": 8, "metrics": ["fake/quality"]}],
    "measure": [{"name": "speed", "probe": "fake/speed", "prompts": "p"}],
}


@pytest.mark.parametrize(
    ("change", "answer"),
    [
        ({"costs": []}, "pareto needs `costs`"),
        ({"values": []}, "pareto needs `values`"),
        ({"values": ["short:sharpness"] * 2}, "pareto needs one value"),
        ({"kind": "quality_by_cache"}, "quality_by_cache takes no `costs`"),
        ({"costs": ["card:cached_scalar"]}, "did you mean cached_scalars"),
        ({"costs": ["card:family"]}, "unknown number on a model's card 'family'"),
        ({"costs": ["speed:rat"]}, "did you mean rate"),
        ({"costs": ["cache_bytes"]}, "costs"),
        ({"values": ["short:worst"]}, "neither way is better in 'worst'"),
        ({"name": "t"}, "a table is called 't' too"),
    ],
)
def test_what_has_no_front_is_refused_with_its_line(tmp_path: Path, change: dict[str, Any], answer: str) -> None:
    path = tmp_path / "s.yaml"
    tables = [{"name": "t", "columns": [{"value": "short:sharpness"}]}]
    path.write_text(yaml.safe_dump({**SUITE, "tables": tables, "plots": [{**PLOT, **change}]}), encoding="utf-8")
    with pytest.raises(SuiteError) as caught:
        load_suite(path)
    assert answer in str(caught.value)
    assert str(caught.value).startswith(f"{path}:")
