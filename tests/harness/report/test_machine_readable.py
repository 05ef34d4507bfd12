"""What programs read: CSV with numbers alone, a row a clip, JSON; and what people read, without what machines obey."""

import csv
import io
import json
import math
from pathlib import Path

import pandas as pd
import pytest
from record_lines import drop_digests
from run_folders import Arm, Speed, write_run

from harness.cli.main import main
from harness.contracts import registry
from harness.report.comparison import compare, side_of
from harness.report.comparison_table import table as comparison
from harness.report.long_table import COLUMNS, comma_separated
from harness.report.render import comma_separated as csv_of
from harness.report.render import document, html, latex, markdown, terminal
from harness.report.table import Cell, Heading, Row, Table
from harness.report.tables import build
from harness.runs.records import load_run


@registry.probes.register("fake/tabled")
class Tabled(Speed):
    has_table = True


TABLES = [{"name": "t", "columns": [{"value": "short:sharpness"}, {"value": "card:cached_scalars"}]}]


def short_run(folder: Path) -> Path:
    """Three of four clips of dense, one of which failed; latent was skipped; other was never tried."""
    arms = [
        Arm("dense", [0.25, 0.5, None, 0.75], statuses={1: "failed"}, cached_scalars=8),
        Arm("latent", [0.5] * 4, statuses=dict.fromkeys(range(4), "skipped"), notes={"reason": "=no weights"}),
        Arm("other", [None] * 4),
    ]
    write_run(folder, arms, tables=TABLES)
    path = drop_digests(folder / "records.jsonl")
    path.write_text(path.read_text().replace('"error":{}', '"error":{"type":"ClipError","message":"+dark"}', 2))
    return folder


def test_a_missing_value_is_an_empty_cell_with_its_reason_beside_it(tmp_path: Path) -> None:
    text = csv_of(build([load_run(short_run(tmp_path))])[0])
    frame = pd.read_csv(io.StringIO(text), index_col="model")
    assert frame["sharpness"].dtype == frame["cached scalars (per token and layer)"].dtype == "float64"
    assert frame["sharpness"].tolist() == pytest.approx([0.5, math.nan, math.nan], nan_ok=True)
    reasons = frame["sharpness reason"]
    assert reasons["latent"] == "not available: =no weights"
    assert reasons["other"] == "not measured"
    assert pd.isna(reasons["dense"])


def test_a_column_of_texts_keeps_them_and_one_without_gaps_has_no_reasons(tmp_path: Path) -> None:
    write_run(tmp_path, [Arm("a", [0.1] * 4), Arm("b", [0.2] * 4)], metric="fake/plain")
    run = load_run(tmp_path)
    pair = (side_of(run, "a"), side_of(run, "b"))
    frame = pd.read_csv(io.StringIO(csv_of(comparison(compare([pair]), pair))))
    assert frame["verdict"].tolist() == ["UNCLEAR"]
    assert not any("reason" in column for column in frame.columns)


def test_the_long_table_has_a_row_for_each_value_of_each_clip(tmp_path: Path) -> None:
    run = load_run(short_run(tmp_path / "run"))
    frame = pd.read_csv(io.StringIO(comma_separated([run])))
    assert tuple(frame.columns) == COLUMNS
    scores = frame[(frame["kind"] == "score") & (frame["value"] == "sharpness")]
    assert scores[scores["arm"] == "dense"]["number"].tolist() == [0.25, 0.5, 0.75]
    assert scores[scores["arm"] == "dense"]["prompt"].tolist() == ["prompt 0", "prompt 1", "prompt 3"]
    assert scores[scores["arm"] == "dense"]["reason"].tolist()[1] == "ClipError: +dark"
    assert set(scores[scores["arm"] == "latent"]["reason"]) == {"'=no weights"}
    pending = frame[(frame["arm"] == "other") & (frame["kind"] == "score")]
    assert (set(pending["status"]), len(pending), pending["number"].isna().all()) == ({"pending"}, 4, True)


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    text = capsys.readouterr()
    assert not caught.value.code, text.err
    return text.out


def test_commands_speak_json_and_csv(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "run", [Arm("a", [0.1, 0.2, 0.3, 0.4]), Arm("b", [0.5] * 4)], metric="fake/plain")
    folder = str(tmp_path / "run")
    (body,) = json.loads(call(capsys, "table", folder, "--json"))
    assert [row["label"] for row in body["rows"]] == ["a", "b"]
    assert body["rows"][0]["cells"][0]["value"] == pytest.approx(0.25)
    assert body["rows"][0]["cells"][0]["planned"] == 4
    assert body["rows"][1]["cells"][0]["best"]
    (finding,) = json.loads(call(capsys, "compare", folder, "a", "b", "--json"))
    assert (finding["value"], finding["verdict"]) == ("short:sharpness", "BETTER")
    assert finding["change"] == pytest.approx(0.25)
    assert call(capsys, "table", folder, "--long").splitlines()[0] == ",".join(COLUMNS)
    listed = json.loads(call(capsys, "list", "metrics", "--json"))
    assert {"name", "about", "values", "here"} == set(listed[0])
    assert next(each for each in listed if each["name"] == "fake/plain")["values"] == ["sharpness"]
    call(capsys, "table", folder, "--long", "--out", str(tmp_path / "out"))
    assert (tmp_path / "out" / "long.csv").is_file()


def test_a_document_is_json_whatever_is_missing(tmp_path: Path) -> None:
    body = document(build([load_run(short_run(tmp_path))])[0])
    assert json.loads(json.dumps(body, allow_nan=False)) == body
    assert body["rows"][1]["cells"][0] == {"value": None, "text": "not available: =no weights"}  # type: ignore[index,call-overload]


# ------------------------------------------------------------------------ what a reader's machine obeys

HOSTILE = "a\x1b[31m _base_ ~~x~~ $y$ snake_case \u202egnp\u202c\x9b0m\u2028end"


def hostile() -> Table:
    return Table("t", HOSTILE, (Heading(HOSTILE),), (Row(HOSTILE, (Cell(HOSTILE, is_text=True),)),), remarks=(HOSTILE,))


def test_no_control_or_direction_reaches_a_terminal_a_page_or_a_spreadsheet() -> None:
    from rich.console import Console

    out = io.StringIO()
    Console(file=out, force_terminal=False, width=300).print(terminal(hostile()))
    for text in (markdown(hostile()), latex(hostile()), html(hostile()), csv_of(hostile()), out.getvalue()):
        assert not set(text) & set("\x1b\u202e\u202c\x9b\u2028")
        assert "end" in text


def test_markdown_shows_underscores_tildes_and_dollars_as_they_are() -> None:
    text = markdown(hostile())
    assert r"\_base\_ \~\~x\~\~ <span>$</span>y<span>$</span> snake_case" in text
    assert r"\_\_init\_\_" in markdown(Table("t", "__init__", (), ()))
    assert "\n\\# said" in markdown(Table("t", "t", (), (), remarks=("# said",)))


def test_texts_of_csv_are_inert() -> None:
    table = Table("t", "t", (Heading("v"),), (Row("=1+1", (Cell("-2", is_text=True),)),))
    assert list(csv.reader(io.StringIO(csv_of(table))))[1] == ["'=1+1", "", "", "'-2"]


def test_no_command_lets_a_title_through_that_a_terminal_obeys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "suites").mkdir()
    (tmp_path / "suites" / "s.yaml").write_text('suite: s\ntitle: "a\\e[31m \\u202Eb"\n', encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "run", [Arm("den\x9bse", [0.1] * 4)], title="t\x1b]0;x\x07 \u202eb", metric="fake/plain")
    printed = call(capsys, "list", "suites")
    for form in ((), ("--format", "csv"), ("--format", "html"), ("--format", "latex"), ("--long",), ("--json",)):
        printed += call(capsys, "table", "run", *form)
    assert not set(printed) & set("\x1b\x07\x9b\u202e")
    assert "\n" in printed


def test_a_label_with_a_separator_names_no_folder(tmp_path: Path) -> None:
    from harness.report import files

    arms = [Arm("../up/a", [0.5] * 4, speed=1.0)]
    write_run(tmp_path, arms, measure=[{"name": "speed", "probe": "fake/tabled", "prompts": "p"}])
    path = drop_digests(tmp_path / "records.jsonl")
    body = {"title": "t", "corner": "c", "columns": [["v", "", "none"]], "rows": [["r", [1.0]]], "remarks": []}
    path.write_text(path.read_text().replace('"notes":{}', f'"notes":{{"table":{json.dumps(body)}}}'))
    names = list(files.contents(build([load_run(tmp_path)])))
    assert any(name.startswith("speed-") for name in names)
    assert not any("/" in name for name in names)
