"""Columns beside the prompt are kept as attributes, and tables have a column for each value of one."""

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from road import base, write
from run_folders import Arm, write_run

from harness.contracts import registry
from harness.errors import SuiteError
from harness.report.long_table import comma_separated
from harness.report.table import Cell, Table
from harness.report.tables import build
from harness.runs.plan import make
from harness.runs.records import load_run
from harness.stats.estimates import clustered_mean
from harness.suite.load import load_suite
from harness.suite.schema import Suite

LONG = "A long text, told again and again and again and again and again and again and again and again"
CSV = f"""prompt,concept,motion_level,story
a cat sits,cat,low,"{LONG}"
a dog runs,dog,high,short
a cat runs,cat,high,
a dog sits,dog,,
a cat sits,animal,low,
"""


def suite(folder: Path, prompts: Any, columns: Any = None, **table: Any) -> Suite:
    registry.load_plugin(Path(__file__).parents[2] / "data" / "fake_models.py")
    columns = columns or [{"value": "short:brightness"}]
    body = base(prompts={"p": prompts}, tables=[{"name": "t", "columns": columns, **table}])
    return load_suite(write(folder, body))


def test_other_columns_of_a_csv_file_are_attributes_of_the_prompts_that_stay(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text(CSV)
    prompts = suite(tmp_path, {"file": "p.csv", "limit": 3}).prompts["p"]
    assert prompts.texts == ["a cat sits", "a dog runs", "a cat runs"]
    # A prompt that stands twice has the values of both lines; long texts are no categories.
    assert prompts.attributes == {
        "concept": [["cat", "animal"], ["dog"], ["cat"]],
        "motion_level": [["low"], ["high"], ["high"]],
    }


def test_keys_of_jsonl_and_lists_in_the_suite_are_attributes_too(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "dimension": ["x", "y"], "seconds": 5}, {"prompt": "b", "dimension": ["y"]}]
    (tmp_path / "p.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    written = suite(tmp_path, {"file": "p.jsonl"}).prompts["p"]
    assert written.attributes == {"dimension": [["x", "y"], ["y"]], "seconds": [["5"], []]}
    stated = suite(tmp_path, {"texts": ["a", "b", "a"], "attributes": {"kind": ["one", ["two", "three"], "four"]}})
    assert stated.prompts["p"].attributes == {"kind": [["one", "four"], ["two", "three"]]}
    assert Suite.model_validate(stated.model_dump(mode="json")) == stated


def test_no_key_depends_on_attributes(tmp_path: Path) -> None:
    plain = suite(tmp_path, {"texts": ["a", "b"]})
    attributed = suite(tmp_path, {"texts": ["a", "b"], "attributes": {"kind": ["x", "y"]}}, by="kind")
    assert make(plain, "cpu").groups == make(attributed, "cpu").groups
    assert "attributes" not in plain.model_dump(mode="json")["prompts"]["p"]
    assert "by" not in plain.model_dump(mode="json")["tables"][0]


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"by": "knid"}, "unknown attribute of the prompts 'knid'; did you mean kind?"),
        ({"columns": [{"value": "short:brightness", "where": {"kidn": "x"}}]}, "unknown attribute of the prompts"),
        ({"columns": [{"value": "short:brightness", "where": {"kind": "z"}}]}, "unknown value of 'kind' 'z'"),
    ],
)
def test_what_no_prompt_has_is_refused_with_its_line(tmp_path: Path, table: dict[str, Any], says: str) -> None:
    with pytest.raises(SuiteError, match=r"s\.yaml:\d+: " + re.escape(says)):
        suite(tmp_path, {"texts": ["a", "b"], "attributes": {"kind": ["x", "y"]}}, **table)


def test_attributes_are_as_many_as_texts_and_columns_are_not_endless(tmp_path: Path) -> None:
    with pytest.raises(SuiteError, match="has 1 entries for 2 texts"):
        suite(tmp_path, {"texts": ["a", "b"], "attributes": {"kind": ["x"]}})
    texts = [f"p{number}" for number in range(51)]
    with pytest.raises(SuiteError, match="has 51 values"):
        suite(tmp_path, {"texts": texts, "attributes": {"kind": texts}}, by="kind")


def table(folder: Path, **spec: Any) -> Table:
    """Two arms over prompts 0 and 2, which move little, and 1, which moves much; two seeds each."""
    dense, latent = [0.1, 0.2, 0.5, 0.6, 0.3, 0.4], [0.3, 0.4, 0.3, 0.4, 0.3, 0.4]
    tables = [{"name": "t", "columns": [{"value": "short:sharpness"}], **spec}]
    write_run(
        folder, [Arm("dense", dense), Arm("latent", latent)], prompts=3, seeds=2, metric="fake/plain", tables=tables
    )
    path = folder / "plan.json"
    body = json.loads(path.read_text())
    body["suite"]["prompts"]["p"]["attributes"] = {"motion_level": [["low"], ["high"], ["low"]]}
    path.write_text(json.dumps(body))
    return build([load_run(folder)])[0]


def cells(found: Table, column: int) -> list[Cell]:
    return [row.cells[column] for row in found.rows]


def test_a_table_by_an_attribute_has_a_column_with_interval_for_each_value(tmp_path: Path) -> None:
    found = table(tmp_path, by="motion_level")
    assert [column.label for column in found.columns] == ["sharpness", "sharpness, low", "sharpness, high"]
    whole, low, high = (cells(found, column) for column in range(3))
    assert [cell.value for cell in whole] == pytest.approx([2.1 / 6, 2.1 / 6])
    # (0.1 + 0.2 + 0.3 + 0.4) / 4 and (0.3 + 0.4 + 0.3 + 0.4) / 4 of little motion, (0.5 + 0.6) / 2 of much.
    assert [cell.value for cell in low] == pytest.approx([0.25, 0.35])
    assert [cell.value for cell in high] == pytest.approx([0.55, 0.35])
    assert [cell.count for cell in (*low, *high)] == ["4/4", "4/4", "2/2", "2/2"]
    truth = clustered_mean([0.1, 0.2, 0.3, 0.4], [0, 0, 1, 1])
    assert (low[0].low, low[0].high) == pytest.approx((truth.low, truth.high))
    assert [cell.best for cell in (*low, *high)] == [False, True, True, False]


def test_a_column_may_hold_the_clips_of_one_value_alone(tmp_path: Path) -> None:
    found = table(tmp_path, columns=[{"value": "short:sharpness", "where": {"motion_level": "high"}}])
    assert [cell.value for cell in cells(found, 0)] == pytest.approx([0.55, 0.35])


def test_the_long_table_has_a_column_for_each_attribute(tmp_path: Path) -> None:
    table(tmp_path)
    lines = list(csv.DictReader(io.StringIO(comma_separated([load_run(tmp_path)]))))
    motion = {line["prompt"]: line["motion_level"] for line in lines}
    assert motion == {"prompt 0": "low", "prompt 1": "high", "prompt 2": "low"}


def test_a_table_may_have_a_row_with_interval_for_each_value(tmp_path: Path) -> None:
    by_column = table(tmp_path / "columns", by="motion_level")
    by_row = table(
        tmp_path / "rows",
        rows_by="motion_level",
        columns=[{"value": "short:sharpness"}, {"value": "card:cached_scalars"}],
    )
    assert [row.label for row in by_row.rows] == [
        *("dense", "dense, low", "dense, high"),
        *("latent", "latent, low", "latent, high"),
    ]
    # The same cells, with their intervals and ranks, as the columns of each value have.
    of_columns = [cells(by_column, number) for number in range(3)]
    assert cells(by_row, 0) == [of_columns[number][arm] for arm in range(2) for number in range(3)]
    assert [cell.text for cell in cells(by_row, 1)] == ["-"] * 6
    with pytest.raises(SuiteError, match=r"unknown attribute of the prompts 'knid'; did you mean kind\?"):
        suite(tmp_path, {"texts": ["a", "b"], "attributes": {"kind": ["x", "y"]}}, rows_by="knid")
