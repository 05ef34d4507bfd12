from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from road import FAKES, base, write

from harness.contracts import registry
from harness.errors import SuiteError
from harness.suite.load import load_suite
from harness.suite.schema import Suite, dump

LINES = """\
suite: small
title: A suite
device: cpu
models:
  - name: fake/moving
    label: a
    options:
      chunk: 3
prompts:
  heldout: [one, two]
generate:
  - name: short
    prompts: heldout
    seeds: [0, 1]
    frames: 6
    metrics:
      - fake/brightness
measure:
  - name: speed
    probe: fake/count
    prompts: heldout
tables:
  - name: main
    columns:
      - {value: "short:brightness"}
      - {value: "card:cached_scalars"}
"""


@pytest.fixture(autouse=True)
def _fakes() -> None:
    registry.load_plugin(FAKES)


def load(folder: Path, data: dict[str, Any] | str, *overrides: str) -> Suite:
    return load_suite(write(folder, data), overrides)


def test_a_good_suite_is_resolved(tmp_path: Path) -> None:
    loaded = load(tmp_path, LINES)
    assert loaded.models[0].options == {"height": 16, "width": 16, "chunk": 3, "chunk_seconds": 0.0}
    assert loaded.reference == "a"
    assert loaded.prompts["heldout"].texts == ["one", "two"]
    assert Suite.model_validate(dump(loaded)) == loaded


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("title:", "titel:", 2, "unknown key 'titel'; did you mean title"),
        ("    label: a", "    labl: a", 6, "did you mean label?"),
        ("    seeds:", "    seads:", 14, "did you mean seeds?"),
        ("device: cpu", "device: cuda0", 3, "did you mean cuda"),
        ("    frames: 6", "    frames: six", 15, "frames"),
        ("    frames: 6", "    frames: 0", 15, "greater than or equal to 1"),
        ("    frames: 6", "    frames: true", 15, "frames"),
        ("    frames: 6\n", "", 12, "key 'frames' is missing"),
        ("suite: small\n", "suite: ../small\n", 1, "suite"),
        ("fake/moving", "fake/movin", 5, "unknown model 'fake/movin'; did you mean fake/moving"),
        ("      chunk: 3", "      chnk: 3", 8, "no option 'chnk'; did you mean chunk?"),
        ("      chunk: 3", "      chunk: three", 8, "option 'chunk'"),
        ("fake/brightness", "fake/brightnes", 17, "unknown metric 'fake/brightnes'; did you mean fake/brightness"),
        ("probe: fake/count", "probe: fake/cuont", 20, "unknown probe 'fake/cuont'; did you mean fake/count"),
        (
            "    prompts: heldout\n    seeds",
            "    prompts: heldut\n    seeds",
            13,
            "unknown prompt set 'heldut'; did you",
        ),
        ("    prompts: heldout\n    seeds", "    prompts: ''\n    seeds", 13, "unknown prompt set ''"),
        ("short:brightness", "shrt:brightness", 25, "unknown section 'shrt'; did you mean short"),
        ("short:brightness", "short:brightnes", 25, "unknown value 'brightnes'; did you mean brightness?"),
        ("card:cached_scalars", "card:cached", 26, "unknown value 'cached'; did you mean cached_scalars"),
        ("  - name: speed", "  - name: short", 19, "two sections are called 'short'"),
        ("  - name: short", "  - name: card", 12, "'card' names the model's card"),
        ("seeds: [0, 1]", "seeds: [1, 1]", 14, "a seed stands twice"),
        ("seeds: [0, 1]", "seeds: [-1]", 14, "seeds"),
        ("device: cpu", "reference: b", 3, "unknown model label 'b'"),
        ("device: cpu", "errors: 0", 3, "errors"),
        ("device: cpu", "errors: 1.5", 3, "a fraction lies between 0 and 1"),
        ("device: cpu", "errors: sometimes", 3, "errors"),
        ("  heldout: [one, two]", "  heldout: []", 10, "needs either texts or a file"),
        ("  heldout: [one, two]", '  heldout: [one, "  "]', 10, "a prompt is empty"),
        ("  heldout: [one, two]", "  heldout: [one, 2]", 10, "heldout"),
    ],
)
def test_a_fault_is_one_line_with_file_line_and_nearest_name(
    tmp_path: Path, old: str, new: str, line: int, says: str
) -> None:
    assert LINES.count(old) == 1 or old in ("fake/moving", "fake/brightness")
    path = write(tmp_path, LINES.replace(old, new, 1))
    with pytest.raises(SuiteError) as caught:
        load_suite(path)
    assert caught.value.message.startswith(f"{path}:{line}: "), caught.value.message
    assert says in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.exit_code == 2


def test_a_fault_in_an_included_file_names_that_file(tmp_path: Path) -> None:
    write(tmp_path, "prompts:\n  p:\n    lmit: 3\n", "base.yaml")
    with pytest.raises(SuiteError, match=r"base\.yaml:3: unknown key 'lmit'; did you mean limit\?"):
        load(tmp_path, {"include": "base.yaml", **base(prompts={})})


def test_a_grid_expands_options_and_models(tmp_path: Path) -> None:
    entries = [
        {"name": "fake/moving", "label": "a", "grid": {"chunk": [2, 3], "height": [16, 32]}},
        {"grid": {"name": ["fake/short", "fake/long"]}, "options": {"when": "never"}},
    ]
    generate = [{**base()["generate"][0], "models": ["a", "fake/long"]}]
    loaded = load(tmp_path, base(models=entries, generate=generate))
    labels = [entry.label for entry in loaded.models]
    assert labels == [
        "a [chunk=2, height=16]",
        "a [chunk=2, height=32]",
        "a [chunk=3, height=16]",
        "a [chunk=3, height=32]",
        "fake/short",
        "fake/long",
    ]
    assert loaded.models[2].options["chunk"] == 3
    assert loaded.generate[0].models == [*labels[:4], "fake/long"]


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"name": "fake/moving", "grid": {"chunk": []}}, "has no values"),
        ({"name": "fake/moving", "options": {"chunk": 2}, "grid": {"chunk": [3]}}, "both in `options` and in `grid`"),
        ({"name": "fake/moving", "grid": {"chnk": [3]}}, "no option 'chnk'; did you mean chunk?"),
        ({"name": "fake/moving", "grid": {"chunk": [1], "height": list(range(1001))}}, "1001 combinations"),
        ({"label": "x"}, "key 'name' is missing"),
    ],
)
def test_a_wrong_grid_is_refused(tmp_path: Path, entry: dict[str, Any], says: str) -> None:
    with pytest.raises(SuiteError) as caught:
        load(tmp_path, base(models=[entry]))
    assert says in caught.value.message


def test_two_arms_need_two_labels(tmp_path: Path) -> None:
    with pytest.raises(SuiteError, match="two models are labelled 'fake/moving'"):
        load(tmp_path, base(models=[{"name": "fake/moving"}, {"name": "fake/moving", "options": {"chunk": 2}}]))


def test_set_changes_the_suite_before_it_is_checked(tmp_path: Path) -> None:
    loaded = load(tmp_path, LINES, "models.a.options.chunk=5", "generate.short.frames=9", "prompts.heldout=[x]")
    assert (loaded.models[0].options["chunk"], loaded.generate[0].frames) == (5, 9)
    assert loaded.prompts["heldout"].texts == ["x"]
    with pytest.raises(SuiteError, match=r"--set generate\.short\.framse=9: unknown key 'framse'; did you mean frames"):
        load(tmp_path, LINES, "generate.short.framse=9")


def test_prompts_come_from_text_csv_and_jsonl_relative_to_the_suite(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("# first\r\n\nsecond\nsecond\nthird")
    (tmp_path / "b.csv").write_text('id,text\n1,"a, b"\n2,"c\nd"\n')
    (tmp_path / "c.jsonl").write_text('{"prompt": "x"}\n\n{"prompt": "\\u00e9"}\n')
    prompts = {
        "a": {"file": "a.txt", "sha256": hashlib.sha256((tmp_path / "a.txt").read_bytes()).hexdigest()},
        "b": {"file": "b.csv", "column": "text"},
        "c": {"file": "c.jsonl", "limit": 1},
        "p": ["one"],
    }
    loaded = load(tmp_path, base(prompts=prompts)).prompts
    assert loaded["a"].texts == ["second", "third"]
    assert loaded["a"].dropped == {"comment": [1], "blank": [2], "repeated": [4]}
    assert loaded["b"].texts == ["a, b", "c\nd"]
    assert loaded["c"].texts == ["x"]
    assert loaded["c"].sha256 == hashlib.sha256((tmp_path / "c.jsonl").read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"file": "heldot.txt"}, "heldot.txt does not exist; did you mean heldout.txt"),
        ({"file": "heldout.txt", "sha256": "0" * 64}, "not 0000"),
        ({"file": "heldout.txt", "sha256": "xyz"}, "sha256"),
        ({"file": "x.csv", "column": "text"}, "no column 'text'; known: prompt"),
        ({"file": "x.jsonl"}, "x.jsonl:2: no text 'prompt'"),
        ({"file": "y.jsonl"}, "y.jsonl:1: not JSON"),
        ({"file": "latin.txt"}, "not UTF-8"),
        ({"file": "."}, "cannot be read"),
        ({"file": "empty.txt"}, "no prompts"),
        ({"file": "heldout.txt", "texts": ["a"]}, "either texts or a file"),
    ],
)
def test_a_wrong_prompt_file_is_one_line(tmp_path: Path, entry: dict[str, Any], says: str) -> None:
    (tmp_path / "heldout.txt").write_text("one\n")
    (tmp_path / "x.csv").write_text("prompt\none\n")
    (tmp_path / "x.jsonl").write_text('{"prompt": "a"}\n{"prompt": 3}\n')
    (tmp_path / "y.jsonl").write_text("[" * 100_000)
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1"))
    (tmp_path / "empty.txt").write_text("\n")
    path = write(tmp_path, base(prompts={"p": entry}))
    with pytest.raises(SuiteError) as caught:
        load_suite(path)
    assert caught.value.message.startswith(f"{path}:")
    assert says in caught.value.message
    assert "\n" not in caught.value.message


def test_a_switch_needs_as_many_prompts_as_the_section_or_one(tmp_path: Path) -> None:
    section = {**base()["generate"][0], "switches": [{"frame": 3, "prompts": "other"}]}
    for texts in (["x"], ["x", "y"]):
        load(tmp_path, base(prompts={"p": ["one", "two"], "other": texts}, generate=[section]))
    with pytest.raises(SuiteError, match="has 3 prompts; a switch needs 1 or 2"):
        load(tmp_path, base(prompts={"p": ["one", "two"], "other": ["x", "y", "z"]}, generate=[section]))
    late = {**section, "switches": [{"frame": 6, "prompts": "p"}]}
    with pytest.raises(SuiteError, match="a switch at frame 6 never happens in 6 frames"):
        load(tmp_path, base(generate=[late]))


def test_a_value_that_two_metrics_give_needs_the_metric(tmp_path: Path) -> None:
    section = {**base()["generate"][0], "metrics": ["fake/faulty", "fake/other_one"]}

    @registry.metrics.register("fake/other_one")
    class Other(registry.metrics.get("fake/faulty")):  # type: ignore[misc]
        pass

    try:
        column = {"value": "short:one"}
        tables = [{"name": "main", "columns": [column]}]
        with pytest.raises(SuiteError, match="given by fake/faulty and by fake/other_one"):
            load(tmp_path, base(generate=[section], tables=tables))
        column["metric"] = "fake/other_one"
        load(tmp_path, base(generate=[section], tables=tables))
        column["metric"] = "fake/othr"
        with pytest.raises(SuiteError, match="unknown metric 'fake/othr'"):
            load(tmp_path, base(generate=[section], tables=tables))
    finally:
        del registry.metrics._classes["fake/other_one"]


ALONE = {"name": "alone", "probe": "fake/device"}


@pytest.mark.parametrize(
    ("changes", "line", "says"),
    [
        ({"generate": [{**base()["generate"][0], "models": []}]}, "models: []", "section 'short' names no model"),
        (
            {"tables": [{"name": "t", "columns": [{"value": "short:brightness"}], "models": []}]},
            "models: []",
            "table 't' would be empty: it shows no model",
        ),
        (
            {
                "models": [],
                "generate": [],
                "measure": [ALONE],
                "tables": [{"name": "t", "columns": [{"value": "card:layers"}]}],
            },
            "columns:",
            "table 't' would be empty: it shows no model",
        ),
        ({"plots": [{"name": "p", "kind": "cache_by_length", "models": []}]}, "models: []", "plot 'p' shows no model"),
    ],
)
def test_what_would_show_nothing_is_refused_before_anything_runs(
    tmp_path: Path, changes: dict[str, Any], line: str, says: str
) -> None:
    with pytest.raises(SuiteError, match=re.escape(says)) as caught:
        load(tmp_path, base(**changes))
    number = int(str(caught.value).split(":")[1])
    assert line in (tmp_path / "s.yaml").read_text(encoding="utf-8").splitlines()[number - 1]


def test_a_table_of_what_needs_no_model_or_of_published_rows_may_show_none(tmp_path: Path) -> None:
    tables = [
        {"name": "device", "columns": [{"value": "alone:answer"}], "models": []},
        {
            "name": "others",
            "columns": [{"value": "short:brightness", "published": "throughput"}],
            "published": [{"table": "Table 3"}],
            "models": [],
        },
    ]
    assert [table.models for table in load(tmp_path, base(measure=[ALONE], tables=tables)).tables] == [[], []]


def test_nothing_to_do_is_said(tmp_path: Path) -> None:
    with pytest.raises(SuiteError, match="nothing to do"):
        load(tmp_path, base(generate=[]))


def test_hostile_prompts_are_kept_as_they_are(tmp_path: Path) -> None:
    texts = [
        "../../etc/passwd",
        "a \"quoted\" 'one'",
        "two\nlines",
        "🎥 caf\u00e9",
        "x" * 300,
        "<script>alert(1)</script>",
    ]
    assert load(tmp_path, base(prompts={"p": texts})).prompts["p"].texts == texts
    assert yaml.safe_load(write(tmp_path, base(prompts={"p": texts})).read_text())["prompts"]["p"] == texts


def test_drift_names_a_section_of_clips_and_curves_of_its_metrics(tmp_path: Path) -> None:
    section = {"name": "long", "prompts": "p", "frames": 6, "metrics": ["toy/world", "fake/brightness"]}
    changes = {"generate": [section], "models": [{"name": "fake/moving", "label": "a"}]}

    def suite(**drift: object) -> dict[str, Any]:
        return base(**changes, drift=[{"name": "d", "section": "long", **drift}])

    assert load(tmp_path, suite(curves=["motion_by_frame"], definitions=["vde"])).drift[0].seconds == 2.0
    wrong: list[tuple[dict[str, object], str]] = [
        ({"section": "short"}, "unknown section of clips 'short'"),
        ({"metric": "toy/survival"}, "unknown metric 'toy/survival'"),
        ({"metric": "fake/brightness"}, "no metric of section 'long' gives a curve"),
        ({"curves": ["motion"]}, "unknown curve 'motion'.*motion_by_frame"),
        ({"definitions": ["vdd"]}, "vdd"),
        ({"definitions": ["vde", "decay_mean"]}, "no curve of it has 'decay_mean'"),
        ({"definitions": ["regained"]}, "no curve of it has 'regained'; it needs prompt switches in section 'long'"),
        ({"seconds": 0}, "seconds"),
        ({"models": ["b"]}, "unknown model label 'b'"),
        ({"models": []}, "shows no model"),
        ({"name": "../d"}, "name"),
    ]
    for drift, words in wrong:
        with pytest.raises(SuiteError, match=words):
            load(tmp_path, suite(**drift))
    twice = suite()
    twice["drift"] *= 2
    with pytest.raises(SuiteError, match="two pictures or tables are called 'd'"):
        load(tmp_path, twice)


def test_serving_names_sections_of_its_probes(tmp_path: Path) -> None:
    measure = [
        {"name": "stream", "probe": "streaming", "prompts": "p", "frames": 12},
        {"name": "held", "probe": "sessions", "prompts": "p", "frames": 12, "options": {"budget_bytes": 1}},
    ]

    def suite(**serving: object) -> dict[str, Any]:
        return base(measure=measure, serving=[{"name": "s", "section": "stream", **serving}])

    assert load(tmp_path, suite(sessions="held", buffers_s=[0])).serving[0].buffers_s == [0.0]
    wrong: list[tuple[dict[str, object], str]] = [
        ({"section": "none"}, "unknown section of measurements 'none'"),
        ({"section": "held"}, "is of 'sessions', not of 'streaming'"),
        ({"sessions": "stream"}, "is of 'streaming', not of 'sessions'"),
        ({"buffers_s": []}, "buffers_s"),
        ({"buffers_s": [-1]}, "buffers_s"),
        ({"frame_rates": [0]}, "frame_rates"),
        ({"ahead_s": 0}, "ahead_s"),
        ({"price_per_hour": -1}, "price_per_hour"),
        ({"currency": "<b>"}, "currency"),
        ({"models": []}, "shows no model"),
    ]
    for serving, words in wrong:
        with pytest.raises(SuiteError, match=words):
            load(tmp_path, suite(**serving))


@pytest.mark.parametrize("kind", ["tables", "plots"])
def test_two_tables_or_pictures_of_one_name_are_refused_at_the_second(tmp_path: Path, kind: str) -> None:
    table = "  - {name: t, columns: [{value: 'short:brightness'}]}\n"
    plot = "  - {name: t, kind: quality_by_cache, values: ['short:brightness']}\n"
    entry = table if kind == "tables" else plot
    path = tmp_path / "s.yaml"
    path.write_text(
        "suite: s\nmodels: [{name: fake/moving}]\nprompts: {p: [one]}\n"
        "generate: [{name: short, prompts: p, frames: 4, metrics: [fake/brightness]}]\n" + f"{kind}:\n{entry}{entry}"
    )
    with pytest.raises(SuiteError, match=r"s\.yaml:7: two pictures or tables are called 't'"):
        load_suite(path)
