"""Tables where a plug-in fails, is asked for less than it can, or a unit failed: marked cells with their reasons."""

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from record_lines import drop_digests
from run_folders import Arm, Quality, write_run

from harness.contracts import registry
from harness.report.render import markdown
from harness.report.table import FAULT, NOTES, Cell, Table, numeral
from harness.report.tables import build, nothing_to_show
from harness.runs.records import load_run
from harness.suite.schema import Column

FAULTY = [{"value": f"short:{name}"} for name in ("sharpness", "worst", "total")]


def table(folder: Path, arms: Sequence[Arm], **more: Any) -> Table:
    write_run(folder, arms, **more)
    return build([load_run(folder)])[0]


def cells(found: Table, column: int = 0) -> dict[str, Cell]:
    return {row.label: row.cells[column] for row in found.rows}


def two_arms(first: Sequence[float | None], second: Sequence[float | None]) -> list[Arm]:
    return [Arm("dense", first, cached_scalars=3072), Arm("latent", second, cached_scalars=224)]


@registry.metrics.register("fake/raising_mean")
class Faulty(Quality):
    """Its aggregate and its `derive` raise for some scores, and its options leave one value out."""

    def aggregate(self, name: str, scores: Sequence[float]) -> float:
        if name == "worst" and 0.9 in scores:
            raise ZeroDivisionError("division\nby zero")
        return super().aggregate(name, scores)

    def derive(self, means: Mapping[str, float]) -> Mapping[str, float]:
        if means["sharpness"] > 0.7:
            raise TypeError("no such thing")
        return {"total": {"sharpness": means["worst"]}["sharpness"]}


def test_a_fault_of_a_plugin_is_a_marked_cell_with_its_reason(tmp_path: Path) -> None:
    arms = two_arms([0.9] * 4, [0.8] * 4)
    found = table(tmp_path, arms=arms, metric="fake/raising_mean", tables=[{"name": "t", "columns": FAULTY}])
    dense, latent = found.rows
    assert (dense.cells[0].text, latent.cells[0].text) == ("0.900", "0.800")
    assert dense.cells[1].text == "failed: aggregate of worst raised ZeroDivisionError: division by zero"
    assert (dense.cells[1].marks, dense.cells[1].value, latent.cells[1].text) == ((FAULT,), None, "0.800")
    assert dense.cells[2].text == dense.cells[1].text
    assert latent.cells[2].text == "failed: derive raised TypeError: no such thing"
    assert NOTES[FAULT] in markdown(found)


def test_a_derived_value_of_means_that_no_clip_defines_is_undefined(tmp_path: Path) -> None:
    nan = float("nan")
    write_run(
        tmp_path, two_arms([0.5] * 4, [0.4] * 4), tables=[{"name": "t", "columns": FAULTY}], metric="fake/raising_mean"
    )
    path = drop_digests(tmp_path / "records.jsonl")
    path.write_text(path.read_text().replace('"worst":0.5', '"worst":null'))
    dense, latent = build([load_run(tmp_path)])[0].rows
    assert [cell.text for cell in dense.cells] == ["0.500", "undefined", "undefined"]
    assert [cell.text for cell in latent.cells] == ["0.400"] * 3
    never = cells(table(tmp_path / "b", arms=two_arms([nan] * 4, [0.4] * 4), metric="fake/raising_mean", tables=[]), 2)
    assert never["dense"].text == "undefined"


@registry.metrics.register("fake/asked_for_less")
class Choosy(Quality):
    def asked_for(self) -> list[str]:
        return ["sharpness"]


def test_values_that_nobody_asked_for_are_no_columns_and_say_so_where_they_are(tmp_path: Path) -> None:
    found = table(tmp_path / "a", arms=two_arms([0.5] * 4, [0.4] * 4), metric="fake/asked_for_less", tables=[])
    assert [column.label for column in found.columns] == ["short: sharpness", "cached scalars"]
    write_run(
        tmp_path / "b",
        two_arms([0.5] * 4, [0.4] * 4),
        metric="fake/asked_for_less",
        tables=[{"name": "t", "columns": FAULTY}],
    )
    path = drop_digests(tmp_path / "b" / "records.jsonl")
    path.write_text(path.read_text().replace('"worst":0.5', '"worst":null'))
    cell = build([load_run(tmp_path / "b")])[0].rows[0].cells[1]
    assert (cell.text, cell.count) == ("not asked for", "")


def test_an_arm_that_failed_says_why(tmp_path: Path) -> None:
    arms = [Arm("dense", [0.4] * 4), Arm("latent", [0.5] * 4, statuses=dict.fromkeys(range(4), "failed"))]
    write_run(tmp_path, arms, tables=[{"name": "t", "columns": FAULTY[:1]}])
    path = drop_digests(tmp_path / "records.jsonl")
    path.write_text(path.read_text().replace('"error":{}', '"error":{"type":"ModelFault","message":"black\\nframes"}'))
    assert cells(build([load_run(tmp_path)])[0])["latent"].text == "failed: ModelFault: black frames"


def test_clips_of_models_without_a_cache_and_without_metrics_leave_nothing_to_show(tmp_path: Path) -> None:
    clips = [{"name": "short", "prompts": "p", "frames": 8}]
    write_run(tmp_path / "a", [Arm("dense", [])], generate=clips)
    write_run(tmp_path / "b", [Arm("dense", [], cached_scalars=8)], generate=clips)
    assert nothing_to_show(load_run(tmp_path / "a"))
    assert build([load_run(tmp_path / "b")])[0].rows[0].cells[0].text == "8"


def test_a_share_beyond_one_in_an_old_record_is_a_marked_cell(tmp_path: Path) -> None:
    arms = [Arm("dense", [0.5, 0.5, 1.5, 0.5]), Arm("latent", [0.5] * 4)]
    found = table(tmp_path, arms, metric="fake/share", tables=[{"name": "t", "columns": FAULTY[:1]}])
    assert found.rows[0].cells[0].text.startswith("failed: sharpness: ")
    assert found.rows[0].cells[0].marks == (FAULT,)
    assert found.rows[1].cells[0].value == 0.5


@registry.metrics.register("fake/asks_wrongly")
class AsksWrongly(Quality):
    def asked_for(self) -> list[str]:
        raise LookupError("no options")


def test_a_metric_that_cannot_say_what_is_asked_for_shows_all(tmp_path: Path) -> None:
    found = table(tmp_path, two_arms([0.5] * 4, [0.4] * 4), metric="fake/asks_wrongly", tables=[])
    assert [cell.text for cell in found.rows[0].cells] == ["0.500", "0.500", "1.000", "3,072"]


def test_every_format_that_a_suite_may_name_writes_every_number() -> None:
    allowed = []
    for parts in itertools.product(("", "+", ",", "-"), ("", ".0", ".2", ".99", "."), ("", *"defgxs%")):
        spec = "".join(parts)
        try:
            allowed.append(Column(value="a:b", format=spec).format)
        except ValidationError:
            continue
    assert {"d", ",d", "+d", ".2", ",.0f", "+.2%", ""} <= set(allowed)
    assert not {".2d", "+.0d", "x", "s", "-d", ".f"} & set(allowed)
    for spec, number in itertools.product(allowed, (0, 7, -12_345_678, 10**30, 1.5, -0.25, 1e300)):
        assert float(numeral(number, number, spec).replace(",", "").rstrip("%")) is not None


def test_ratios_and_cards_are_written_in_the_format_of_their_column(tmp_path: Path) -> None:
    columns = [
        {"value": value, "format": format_, "relative": relative}
        for format_ in ("d", ",d", ".2", "+.1%")
        for value, relative in (("short:sharpness", True), ("card:cached_scalars", True), ("card:height", False))
    ]
    arms = two_arms([0.25] * 4, [0.9] * 4)
    found = table(tmp_path, arms, tables=[{"name": "t", "columns": columns}])
    texts = [cell.text for cell in found.rows[1].cells]
    # 3.6 and 224 / 3072, and 8 pixels.
    assert texts == ["4", "0", "8", "4", "0", "8", "3.6", "0.073", "8.0", "+360.0%", "+7.3%", "+800.0%"]


@pytest.mark.parametrize("height", [10**400, -(10**400), 10**308], ids=["above", "below", "within"])
def test_a_card_of_a_number_beyond_all_bounds_is_a_text(tmp_path: Path, height: int) -> None:
    columns = [{"value": "card:height", "format": ".1f"}, {"value": "card:height", "relative": True, "format": "d"}]
    write_run(tmp_path, two_arms([0.5] * 4, [0.4] * 4), tables=[{"name": "t", "columns": columns}])
    plan = json.loads((tmp_path / "plan.json").read_text())
    plan["arms"][1]["card"]["height"] = height
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    shown, ratio = build([load_run(tmp_path)])[0].rows[1].cells
    assert (shown.value is None) == (abs(height) > 10**308)
    assert shown.text.startswith(str(height)[:5])
    assert len(ratio.text) < 420
