"""Tables of viewer and operator, from records of chunk times that are written by hand."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import run_folders  # noqa: F401 (registers the models)

from harness.report.table import Table
from harness.report.tables import build
from harness.runs.line import Record
from harness.runs.plan import make, to_json
from harness.runs.records import RecordFile, load_run
from harness.suite.schema import Suite

CHUNKS = [4, 4, 4, 4]


def write(
    folder: Path,
    clips: Sequence[Sequence[float]],
    serving: dict[str, Any],
    values: dict[str, float] | None = None,
    notes: dict[str, Any] | None = None,
    samples: dict[str, Any] | None = None,
    sessions: dict[str, float] | None = None,
) -> dict[str, Table]:
    """The tables of a run of one arm whose one round made `clips`, each as seconds a chunk of four frames."""
    body: dict[str, Any] = {
        "suite": "fake",
        "reference": "a",
        "models": [{"name": "fake/card", "label": "a", "options": {"label": "a"}}],
        "prompts": {"p": {"texts": ["one"]}},
        "measure": [{"name": "stream", "probe": "streaming", "prompts": "p", "frames": 16}],
        "serving": [{"name": "serve", "section": "stream", **serving}],
    }
    if sessions is not None:
        options = {"budget_bytes": 10**9, "frame_rate": 30}
        body["measure"].append({"name": "many", "probe": "sessions", "options": options, "prompts": "p", "frames": 16})
    plan = make(Suite.model_validate(body), "cpu")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plan.json").write_text(json.dumps(to_json(plan)))
    unit, *others = plan.units
    record = Record(
        unit.key,
        "measure",
        "ok",
        unit.preimage,
        context=unit.context,
        values={"end_to_end_fps": 16.0} if values is None else values,
        samples={"gap_s": [gap for clip in clips for gap in clip]} if samples is None else samples,
        notes={"frames_per_chunk": CHUNKS, **(notes or {})},
        device={"kind": "cpu", "name": "Test CPU", "cores": 2},
    )
    with RecordFile(folder / "records.jsonl") as file:
        file.append(record)
        for other in others:
            file.append(
                Record(other.key, "measure", "ok", other.preimage, context=other.context, values=sessions or {})
            )
    tables = build([load_run(folder)])
    return {table.name: table for table in tables if table.name.startswith("serve")}


def row(table: Table, label: str) -> dict[str, float | str]:
    cells = next(each.cells for each in table.rows if each.label == label)
    return {
        column.label: cell.text if cell.value is None else cell.value
        for column, cell in zip(table.columns, cells, strict=True)
    }


def test_a_viewer_by_frame_rate_and_buffer(tmp_path: Path) -> None:
    # The fake card says 8 frames/s, so that a chunk is half a second; the clips differ in their start alone.
    clips = [[start, 0.8, 0.5, 0.5] for start in (1.0, 2.0, 9.0)]
    table = write(tmp_path, clips, {"buffers_s": [0.0, 1.0], "frame_rates": [8.0, 4.0]})["serve-viewer"]
    assert [each.label.partition(", ")[2] for each in table.rows] == [
        "8 frames/s, buffer 0 s",
        "8 frames/s, buffer 1 s",
        "4 frames/s, buffer 0 s",
        "4 frames/s, buffer 1 s",
    ]
    found = row(table, "a, 8 frames/s, buffer 0 s")
    # Chunk 2 comes 0.8 s after the first, 0.3 s late, once in two seconds of video.
    assert found["start-up"] == 2.0
    assert found["stalls"] == pytest.approx(30)
    assert found["stalled"] == pytest.approx(9)
    assert found["longest stall"] == pytest.approx(0.3)
    # Each later chunk comes 0.3 s after a clock that never waits has come to it, when three of its frames were due.
    assert found["frames late"] == pytest.approx(3 * 3 / 16)
    buffered = row(table, "a, 8 frames/s, buffer 1 s")
    assert (buffered["start-up"], buffered["stalls"], buffered["frames late"]) == (pytest.approx(2.8), 0.0, 0.0)
    assert row(table, "a, 4 frames/s, buffer 0 s")["stalls"] == 0.0
    assert "no prompt switches" in " ".join(table.remarks)


def test_the_cost_of_a_switch_counts_once(tmp_path: Path) -> None:
    # The switch at frame 8 makes its chunk 0.4 s longer. In real time the next chunk is begun as the picture of the
    # last appears, so that a prompt waits for the rest of that chunk, for the next, and for what the switch costs.
    clips = [[0.5, 0.5, 0.9, 0.5]] * 2
    switched = {"switches": [{"asked": 7, "frame": 8}]}
    plain = write(tmp_path / "plain", [[0.5] * 4] * 2, {"buffers_s": [0.0]})["serve-viewer"]
    dear = write(tmp_path / "dear", clips, {"buffers_s": [0.0]}, notes=switched)["serve-viewer"]
    label = "a, 8 frames/s, buffer 0 s"
    for column in ("switch to screen, mean", "switch to screen, worst"):
        assert row(dear, label)[column] == pytest.approx(row(plain, label)[column] + 0.4)
    assert row(dear, label)["stalls"] == row(plain, label)["stalls"] == 0
    assert "no prompt switches" not in " ".join(dear.remarks)


def test_an_operator_pays_for_the_seconds_of_the_device(tmp_path: Path) -> None:
    values = {"end_to_end_fps": 16.0, "joules_per_video_s": 250.0}
    tables = write(tmp_path, [[0.5] * 4], {"price_per_hour": 3.6, "currency": "EUR"}, values)
    table = tables["serve-operator"]
    found = row(table, "a")
    # 16 frames/s of 8 frames/s video: two seconds a second, so half a minute of device for a minute of video.
    assert found["video made"] == 2.0
    assert found["energy"] == 250.0
    assert found["one request at a time"] == pytest.approx(3.6 / 60 / 2)
    assert table.columns[2].unit == "EUR per minute of video"


def test_the_cost_of_at_least_so_many_sessions_is_at_most_so_much(tmp_path: Path) -> None:
    at_least = {"sessions": 4.0, "bounded": 0.0}
    table = write(tmp_path, [[0.5] * 4], {"price_per_hour": 3.6, "sessions": "many"}, sessions=at_least)[
        "serve-operator"
    ]
    _, _, _, count, cost = table.rows[0].cells
    assert count.text == ">= 4"
    assert cost.value == pytest.approx(3.6 / 60 / 4)
    assert cost.text == "<= 0.015"
    assert "at 30 frames/s" in " ".join(table.remarks)


def test_what_is_not_there_says_so(tmp_path: Path) -> None:
    table = write(tmp_path / "old", [[0.5] * 4], {})["serve-operator"]
    assert row(table, "a")["energy"] == "not recorded"
    assert row(table, "a")["one request at a time"] == "not stated"
    why = {"not_available": {"joules_per_video_s": "RAPL's counters cannot be read"}}
    values = {"end_to_end_fps": 16.0, "joules_per_video_s": float("nan")}
    table = write(tmp_path / "none", [[0.5] * 4], {}, values, why)["serve-operator"]
    assert row(table, "a")["energy"] == "not available: RAPL's counters cannot be read"


@pytest.mark.parametrize("gaps", [[], [0.5] * 7, [0.5, 0.5, float("nan"), 0.5], [0.5, -1.0, 0.5, 0.5]])
def test_chunk_times_that_do_not_fit_are_not_played(tmp_path: Path, gaps: list[float]) -> None:
    table = write(tmp_path, [], {"buffers_s": [0.0]}, samples={"gap_s": gaps})["serve-viewer"]
    assert set(row(table, "a, 8 frames/s, buffer 0 s").values()) == {"not recorded"}


@pytest.mark.parametrize(
    "switches",
    ["x", [], [{}], [3], [{"asked": None, "frame": None}], [{"asked": 0, "frame": None}], [{"asked": 99, "frame": 99}]],
)
def test_switches_without_a_chunk_of_their_own_cost_nothing(tmp_path: Path, switches: Any) -> None:
    table = write(tmp_path, [[0.5] * 4], {"buffers_s": [0.0]}, notes={"switches": switches})["serve-viewer"]
    assert "no prompt switches" in " ".join(table.remarks)
