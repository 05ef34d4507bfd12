"""Pictures from records: they show what records and tables hold, and equal records give equal bytes."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import yaml
from run_folders import Arm, write_run

from harness.errors import Incomplete, SuiteError
from harness.report import files
from harness.report.plots.chart import Axis, Line, Panel, Picture, draw
from harness.report.plots.complexity import panels
from harness.report.plots.kinds import KINDS, pictures
from harness.report.tables import build
from harness.runs.line import Record
from harness.runs.plan import make, to_json
from harness.runs.records import RecordFile, Run, load_run
from harness.suite.load import load_suite
from harness.suite.schema import Plot

ROOT = Path(__file__).parents[3]
TOY = ROOT / "results" / "toy"
QUARTERS = [f"long:quarter_{number}" for number in (1, 2, 3, 4)]


@pytest.fixture(scope="module")
def toy() -> Run:
    return load_run(TOY)


def panel(run: Run, **plot: Any) -> Panel:
    made = Plot(name="p", **plot)
    return KINDS[made.kind](made, run).panels[0]


def lines(found: Panel) -> dict[str, Line]:
    return {line.label: line for line in found.lines}


def test_the_cache_grows_until_the_window_is_full(toy: Run) -> None:
    found = lines(panel(toy, kind="cache_by_length", longest=120))
    # A window of 6 latent frames of 16 tokens, 5 layers, 384 or 56 scalars of 4 bytes each.
    for label, scalars in (("dense", 384), ("videomla", 56)):
        line, whole = found[label], 6 * 16 * 5 * scalars * 4
        assert line.x == (1, 6, 120)
        assert line.y == pytest.approx((whole / 6, whole, whole))


def test_chunk_time_is_that_of_the_record(toy: Run) -> None:
    found = panel(toy, kind="chunk_time", section="speed")
    rounds: dict[str, list[Any]] = {"dense": [], "videomla": []}
    for record in RecordFile(TOY / "records.jsonl").records():
        if record.kind == "measure":
            rounds[str(record.context["arm"])].append(record.samples["chunk_s_by_index"])
    for label, measured in rounds.items():
        assert len(measured) == 4
        assert lines(found)[label].y == pytest.approx([median(times) for times in zip(*measured, strict=True)])
    # A window of 6 latent frames is full from the third chunk of 3 on.
    assert [rule.x for rule in found.rules] == [1.5]


def test_quality_is_that_of_the_tables(toy: Run) -> None:
    comparison, details = build([toy])
    accuracy, cached, first, last = (
        [column.label for column in table.columns].index(label)
        for table, label in (
            (comparison, "caption accuracy"),
            (comparison, "cached scalars"),
            (details, "first quarter"),
            (details, "last quarter"),
        )
    )
    found = lines(panel(toy, kind="quality_by_cache", values=["short:caption_accuracy"]))
    for row in comparison.rows:
        cell, line = row.cells[accuracy], found[row.label]
        assert (line.x, line.y, line.low, line.high) == (
            (row.cells[cached].value,),
            (cell.value,),
            (cell.low,),
            (cell.high,),
        )
    found = lines(panel(toy, kind="quality_over_time", values=QUARTERS, labels=["1", "2", "3", "4"]))
    for row in details.rows:
        assert (found[row.label].y[0], found[row.label].y[3]) == (row.cells[first].value, row.cells[last].value)


def test_quality_stands_against_an_option_a_line_a_grid(tmp_path: Path) -> None:
    arms = [
        Arm("wide [cached_scalars=56]", [0.9] * 4, cached_scalars=56),
        Arm("wide [cached_scalars=8]", [0.2, 0.4, 0.2, 0.4], cached_scalars=8),
        Arm("level", [0.5] * 4),
    ]
    write_run(tmp_path, arms)
    found = panel(load_run(tmp_path), kind="quality_by_option", option="cached_scalars", values=["short:sharpness"])
    assert found.across.label == "cached_scalars"
    (line,) = found.lines
    assert (line.label, line.x, line.y) == ("wide", (8, 56), pytest.approx((0.3, 0.9)))
    assert [(rule.label, rule.y) for rule in found.rules] == [("level", 0.5)]


@pytest.fixture
def batches(tmp_path: Path) -> Run:
    """A run of the batch-scaling suite whose records are made by hand: 30 MB and 5 or 1 MB a request."""
    weights = [f"models.{number}.options.weights=random" for number in (0, 1)]
    plan = make(load_suite(ROOT / "suites" / "batch_scaling.yaml", weights), "cpu")
    (tmp_path / "plan.json").write_text(json.dumps(to_json(plan)), encoding="utf-8")
    units = {unit.key: unit for unit in plan.units}
    budgets = {section.name: section.options["budget_bytes"] for section in plan.suite.measure}
    with RecordFile(tmp_path / "records.jsonl") as file:
        for group in plan.groups:
            budget, slope = budgets[group.section], 5e6 if group.arm == "dense" else 1e6
            peaks = {float(batch): 30e6 + slope * batch for batch in (1, 2, 4, 8, 16, 32, 64)}
            file.append(
                Record(
                    group.keys[0],
                    "measure",
                    "ok",
                    units[group.keys[0]].preimage,
                    values={"budget_bytes": budget, "contended": 0.0},
                    samples={
                        "batch": list(peaks),
                        "fits": [float(peak <= budget) for peak in peaks.values()],
                        "peak_bytes": [peak if peak <= budget else float("nan") for peak in peaks.values()],
                    },
                    device={"kind": "cpu", "name": "Test CPU", "cores": 2},
                )
            )
    return load_run(tmp_path)


def test_memory_stands_against_batch_below_the_budget(batches: Run) -> None:
    found = panel(batches, kind="memory_by_batch", section="96MiB")
    assert [(rule.label, rule.y) for rule in found.rules] == [("budget, 96 MiB (100.7 MB)", 96 * 2**20)]
    drawn = {line.label.rstrip("†"): line for line in found.lines}
    assert drawn["dense"].x == (1, 2, 4, 8)
    assert drawn["dense"].y == (35e6, 40e6, 50e6, 70e6)
    assert drawn["videomla"].x == (1, 2, 4, 8, 16, 32, 64)
    # The smallest batch that did not fit is a cross on the budget, in the colour of its arm.
    assert found.crosses == ((16.0, 96 * 2**20, 0),)


def test_what_has_not_run_is_said_in_the_picture(batches: Run) -> None:
    empty = replace(batches, index={})
    found = panel(empty, kind="memory_by_batch", section="96MiB")
    assert found.lines == ()
    plotted = empty.suite.model_copy(
        update={
            "plots": [Plot(name="p", kind="memory_by_batch", section="96MiB"), Plot(name="q", kind="cache_by_length")]
        }
    )
    drawn = pictures(replace(empty, suite=plotted))
    assert b"not measured" in drawn["p.svg"]
    assert b"not measured" not in drawn["q.svg"]


def plotted(folder: Path, **more: Any) -> Path:
    """A run folder whose suite asks for a picture of quality."""
    arms = [Arm("den$e^2</svg>", [0.4, 0.6, 0.7, 0.9], cached_scalars=384), Arm("latent", [0.5] * 4, cached_scalars=56)]
    arms += more.pop("others", [])
    plots = [{"name": "quality", "kind": "quality_by_cache", "values": ["short:sharpness"]}]
    write_run(folder, arms, plots=plots, **more)
    return folder


def test_equal_records_give_equal_bytes_anywhere_and_no_torch(tmp_path: Path) -> None:
    folder = plotted(tmp_path / "run")
    here = files.drawings([load_run(folder)])
    assert set(here) == {"quality.svg", "quality.png"}
    assert here["quality.png"].startswith(b"\x89PNG")
    assert b"<dc:date>" not in here["quality.svg"]
    assert b"Matplotlib" not in here["quality.png"]
    settings = tmp_path / "matplotlibrc"
    settings.write_text("font.size: 20\naxes.grid: False\nsavefig.dpi: 60\n", encoding="utf-8")
    code = (
        "import sys, run_folders; from pathlib import Path; from harness.report import files\n"
        "from harness.runs.records import load_run\n"
        "run, out = Path(sys.argv[1]), Path(sys.argv[2])\n"
        "files.write(out, files.drawings([load_run(run)])); sys.exit('torch' in sys.modules)"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(folder), str(tmp_path / "out")],
        check=True,
        env={
            **os.environ,
            "MATPLOTLIBRC": str(settings),
            "PYTHONHASHSEED": "7",
            "PYTHONPATH": str(ROOT / "tests" / "data"),
            "TZ": "Asia/Tokyo",
        },
    )
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == here


def test_pictures_stand_beside_the_tables_and_are_checked_with_them(tmp_path: Path) -> None:
    folder = plotted(tmp_path / "run")
    made = files.remake(folder)
    assert {path.name for path in made} >= {"quality.svg", "quality.png", "fake.md"}
    files.write(folder / files.FOLDER, {path.name: content for path, content in made.items()})
    assert files.stale(files.remake(folder)) == []
    (folder / files.FOLDER / "quality.svg").write_bytes(b"<svg/>")
    assert files.stale(files.remake(folder)) == [folder / files.FOLDER / "quality.svg"]


def test_a_mean_over_fewer_clips_is_refused_in_a_picture_too(tmp_path: Path) -> None:
    run = load_run(
        plotted(tmp_path, others=[Arm("short", [0.5, None, 0.5, 0.5], cached_scalars=9)], incomplete="refuse")
    )
    with pytest.raises(Incomplete, match="3 of 4 results of short"):
        pictures(run)


SUITE: dict[str, Any] = {
    "suite": "s",
    "models": [{"name": "fake/card"}],
    "prompts": {"p": ["a cat"]},
    "generate": [{"name": "short", "prompts": "p", "frames": 8, "metrics": ["fake/quality"]}],
    "measure": [{"name": "speed", "probe": "fake/speed", "prompts": "p"}],
}


@pytest.mark.parametrize(
    ("plot", "answer"),
    [
        ({"kind": "cache_by_lenght"}, "did you mean cache_by_length"),
        ({"kind": "chunk_time"}, "chunk_time needs `section`"),
        ({"kind": "cache_by_length", "section": "speed"}, "cache_by_length takes no `section`"),
        ({"kind": "chunk_time", "section": "sped"}, "unknown section of measurements 'sped'; did you mean speed"),
        (
            {"kind": "chunk_time", "section": "speed"},
            "section 'speed' is of 'fake/speed', which cannot be drawn as chunk_time; its class declares plots = ()",
        ),
        ({"kind": "quality_by_cache"}, "quality_by_cache needs `values`"),
        ({"kind": "quality_by_cache", "values": ["short:sharpnes"]}, "did you mean sharpness"),
        ({"kind": "quality_by_cache", "values": ["short:sharpness"] * 2}, "needs one value"),
        ({"kind": "quality_by_option", "values": ["speed:rate"]}, "quality_by_option needs `option`"),
        ({"kind": "quality_by_option", "values": ["speed:rate"], "option": "wieghts"}, "did you mean weights"),
        ({"kind": "quality_by_cache", "values": ["short:sharpness"], "option": "x"}, "takes no `option`"),
        ({"kind": "quality_over_time", "values": ["short:sharpness"], "labels": ["a", "b"]}, "2 labels for 1 values"),
        ({"kind": "quality_over_time", "values": ["speed:rate"]}, "unknown section 'speed'"),
        ({"kind": "cache_by_length", "models": ["fake/cart"]}, "did you mean fake/card"),
    ],
)
def test_what_cannot_be_drawn_is_refused_with_its_line(tmp_path: Path, plot: dict[str, Any], answer: str) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump({**SUITE, "plots": [{"name": "p", **plot}]}), encoding="utf-8")
    with pytest.raises(SuiteError) as caught:
        load_suite(path)
    assert answer in str(caught.value)
    assert str(caught.value).startswith(f"{path}:")


def test_a_curve_that_another_runs_over_is_drawn_wide_beneath_it() -> None:
    lengths = {"window_frames": [6.0, 12.0], "clip_frames": [30.0]}
    flops = {"local": [1e6, 2e6], "expanded": [1e6, 2.001e6], "absorbed": [2e6, 3e6]}
    rest = ("window_flops", "window_bytes", "window_s", "clip_s")
    samples = lengths | {f"{form}:{name}": [0.0, 0.0] for form in flops for name in rest}
    samples |= {f"{form}:window_attention_flops": found for form, found in flops.items()}
    (panel,) = panels(samples)
    assert [(line.label, line.under) for line in panel.lines] == [
        ("local", True),
        ("expanded", False),
        ("absorbed", False),
    ]


def test_many_panels_stand_in_two_rows() -> None:
    one = Panel(Axis("across"), Axis("up"), (Line("line", 0, (1.0, 2.0), (3.0, 4.0)),))

    def size(panels: int) -> tuple[int, int]:
        drawn = draw(Picture("many", "Many", (one,) * panels), ".png")
        return int.from_bytes(drawn[16:20], "big"), int.from_bytes(drawn[20:24], "big")  # PNG: width and height

    (three, low), (six, high), (five, _) = size(3), size(6), size(5)
    assert three == six == five
    assert 1.7 * low < high < 2 * low


def test_the_last_digits_of_a_layout_change_no_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    line = Line("one", 0, (1.0, 2.0), (3.0, 4.0))
    picture = Picture("p", "Title", (Panel(Axis("x"), Axis("y"), (line,), named=True, apart=True),) * 2)
    usual = {suffix: draw(picture, suffix) for suffix in (".svg", ".png")}
    execute = ConstrainedLayoutEngine.execute

    def nudged(engine: ConstrainedLayoutEngine, fig: Any) -> Any:
        done = execute(engine, fig)
        for axes in fig.axes:
            left, *others = axes.get_position().bounds
            axes._set_position((left * (1 + 1e-14), *others))
        return done

    monkeypatch.setattr(ConstrainedLayoutEngine, "execute", nudged)
    assert {suffix: draw(picture, suffix) for suffix in usual} == usual
