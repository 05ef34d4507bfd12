"""Prompts as the field writes them: paired line by line, scripts of many prompts, comments, and what is dropped."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from road import base, planned, run, write

from harness.cli.forecast import prompt_lines
from harness.errors import SuiteError
from harness.report.page import folder as pages
from harness.report.tables import build
from harness.runs.by_prompt import by_prompt
from harness.runs.plan import Plan
from harness.runs.records import RecordFile, load_run
from harness.suite.load import load_suite
from harness.suite.schema import Suite, dump
from harness.suite.scripts import scripts_of


def section(switches: Any, **changes: Any) -> dict[str, Any]:
    return {"name": "s", "prompts": "p", "frames": 14, "seeds": [0], "switches": switches, **changes}


def suite_of(folder: Path, prompts: dict[str, Any], switches: Any, **changes: Any) -> Suite:
    planned(folder, base())  # loads the fakes
    models = [{"name": "fake/chunked", "label": "a"}]
    return load_suite(write(folder, base(models=models, prompts=prompts, generate=[section(switches, **changes)])))


def pairs(suite: Suite) -> list[tuple[str, ...]]:
    return [(script.text, *script.later) for script in scripts_of(suite, suite.generate[0])]


SWITCH = [{"frame": 6, "prompts": "q"}]


def two_files(folder: Path, first: str, second: str, **limits: Any) -> dict[str, Any]:
    (folder / "p.txt").write_text(first)
    (folder / "q.txt").write_text(second)
    return {"p": {"file": "p.txt", **limits}, "q": {"file": "q.txt", **limits}}


@pytest.mark.parametrize(
    ("first", "second", "limits", "right"),
    [
        ("a\nb\nc\nd\n", "x\nx\ny\nz\n", {"limit": 3}, [("a", "x"), ("b", "x"), ("c", "y")]),
        ("a\nb\nc\n", "x\n\ny\n", {}, [("a", "x"), ("b", ""), ("c", "y")]),
        ("a\n\nc\n", "x\ny\nz\n", {}, [("a", "x"), ("c", "z")]),
        ("a\na\nb\na\n", "x\ny\nz\nx\n", {}, [("a", "x"), ("a", "y"), ("b", "z")]),
        ("a\nb\n", "x\nx\n", {}, [("a", "x"), ("b", "x")]),
        ("a\nb\n\n", "x\ny\nz\n", {}, [("a", "x"), ("b", "y")]),
        ("a\nb\nc\n", "x\n\n\n", {}, [("a", "x"), ("b", ""), ("c", "")]),
        ("# head\na\nb\n", "x\ny\n", {}, [("a", "x"), ("b", "y")]),
        ("a\r\nb\r\n", "x\r\n\r\n", {}, [("a", "x"), ("b", "")]),
    ],
)
def test_lines_are_paired_before_any_is_dropped(
    tmp_path: Path, first: str, second: str, limits: dict[str, Any], right: list[tuple[str, ...]]
) -> None:
    assert pairs(suite_of(tmp_path, two_files(tmp_path, first, second, **limits), SWITCH)) == right


@pytest.mark.parametrize(("first", "second"), [("a\nb\nc\n", "x\ny\n"), ("a\na\nb\nc\n", "x\ny\nz\n")])
def test_sets_of_other_lengths_are_refused(tmp_path: Path, first: str, second: str) -> None:
    with pytest.raises(SuiteError, match=r"s\.yaml:\d+: prompt set 'q' has \d prompts; a switch needs 1 or \d"):
        suite_of(tmp_path, two_files(tmp_path, first, second), SWITCH)


def test_plain_pairs_keep_their_plan_and_a_plan_is_read_back(tmp_path: Path) -> None:
    plain = suite_of(tmp_path, {"p": ["a", "b"], "q": ["x", "y"]}, SWITCH)
    body = dump(plain)
    assert body["generate"][0]["switches"] == [{"frame": 6, "prompts": "q"}]  # type: ignore[index,call-overload]
    assert not {"scripts", "dropped"} & set(body["generate"][0])  # type: ignore[index,call-overload,arg-type]
    paired = suite_of(tmp_path, two_files(tmp_path, "a\nb\n", "x\n\n"), SWITCH)
    assert pairs(Suite.model_validate(json.loads(json.dumps(dump(paired))))) == [("a", "x"), ("b", "")]


def generated(plan: Plan) -> list[Any]:
    return [unit.preimage for unit in plan.units if unit.kind == "generate"]


def test_each_clip_has_the_switches_of_its_own_line(tmp_path: Path) -> None:
    prompts = two_files(tmp_path, "a\nb\nc\n", "x\n\ny\n")
    models = [{"name": "fake/chunked", "label": "a", "options": {"height": 32, "width": 32}}]
    data = base(models=models, prompts=prompts, generate=[section(SWITCH, metrics=["fake/brightness"])])
    assert run(tmp_path, data).exit_code == 0
    clips = {
        r.context["prompt"]: r for r in RecordFile(tmp_path / "run/records.jsonl").records() if r.kind == "generate"
    }
    assert clips["a"].preimage["switches"] == [[6, "x"]]
    assert clips["b"].preimage["switches"] == []
    assert "switches" not in clips["b"].clip
    assert clips["c"].clip["switches"] == [{"asked": 6, "frame": 8}]
    # A clip without a switch is the same as one of a section that asks for none.
    alone = planned(tmp_path, base(models=models, prompts={"p": ["b"]}, generate=[section([], metrics=[])]))
    assert clips["b"].key == alone.units[0].key
    (table,) = build([load_run(tmp_path / "run")])
    assert [row.cells[0].count for row in table.rows] == ["3/3"]
    assert any("happen at: 8 (a)" in remark for remark in table.remarks)


def test_what_is_dropped_is_said_by_plan_and_table(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("# five\none\n\ntwo\none\none\n")
    data = base(prompts={"p": {"file": "p.txt"}})
    said = "\n".join(prompt_lines(planned(tmp_path, data), every=False))
    assert "short: 2 prompts (p), 2 seeds each" in said
    assert "2 lines (5, 6) repeat an earlier one; 1 line (3) is blank; 1 line (1) is a comment" in said
    assert run(tmp_path, data).exit_code == 0
    (table,) = build([load_run(tmp_path / "run")])
    assert any(remark.startswith("short: 2 prompts; 2 lines (5, 6) repeat") for remark in table.remarks)


def test_a_comment_is_a_prompt_where_it_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("#1 in the charts\none\n")
    texts = {
        choice: planned(tmp_path, base(prompts={"p": {"file": "p.txt", "comments": choice}})).suite.prompts["p"].texts
        for choice in ("drop", "keep")
    }
    assert texts == {"drop": ["one"], "keep": ["#1 in the charts", "one"]}


# ------------------------------------------------------------------------------------------- scripts

STORIES = [[f"{name}{number}" for number in range(6)] for name in ("a", "b", "a")]


def stories(folder: Path, rows: Any = STORIES, **columns: Any) -> dict[str, Any]:
    lines = [json.dumps({"prompts": row, **columns}) for row in rows]
    (folder / "stories.jsonl").write_text("\n".join(lines) + "\n")
    return {"p": {"file": "stories.jsonl", "column": "prompts"}}


def test_a_script_a_line_switches_by_latent_frames_as_memflow_counts_them(tmp_path: Path) -> None:
    model = {"name": "videomla-1.3b", "label": "a", "options": {"weights": "random", "network": "tiny"}}
    switches = {"latent": [40, 80, 120, 160, 200]}
    data = base(models=[model], prompts=stories(tmp_path), generate=[section(switches, frames=957)])
    plan = planned(tmp_path, data)
    first, second = generated(plan)
    # Latent frame L of Wan's VAE begins at pixel 4 L - 3; chunks of three begin at latent 42, 81, 120, 162 and 201.
    asked = [4 * latent - 3 for latent in (40, 80, 120, 160, 200)]
    assert [frame for frame, _ in first["switches"]] == asked == [157, 317, 477, 637, 797]
    assert first["switched_at"] == [4 * latent - 3 for latent in (42, 81, 120, 162, 201)]
    assert [first["prompt"], *(text for _, text in first["switches"])] == STORIES[0]
    assert [second["prompt"], *(text for _, text in second["switches"])] == STORIES[1]
    said = "\n".join(prompt_lines(plan, every=True))
    assert "1 line (3) repeats an earlier one" in said
    assert "switches at pixel frames 157, 317, 477, 637, 797 (a)" in said
    assert "| from latent frame 200: a5" in said


def test_seconds_are_those_of_each_model(tmp_path: Path) -> None:
    models = [
        {"name": "fake/chunked", "label": "a"},
        {"name": "toy/dense", "label": "b", "options": {"weights": "random"}},
    ]
    data = base(models=models, prompts=stories(tmp_path), generate=[section({"second": [0.5, 1]}, frames=40)])
    by_model = {unit.context["arm"]: unit.preimage for unit in planned(tmp_path, data).units}
    rates = {arm.label: arm.card.frame_rate for arm in planned(tmp_path, data).arms}
    for label, preimage in by_model.items():
        frames = [frame for frame, _ in preimage["switches"]]  # type: ignore[union-attr,misc]
        assert frames == [rates[label] / 2, rates[label]]
    with pytest.raises(SuiteError, match=r"model 'a': a switch at 3 s never happens in 40 frames"):
        planned(tmp_path, {**data, "generate": [section({"second": [3]}, frames=40)], "models": models[:1]})


def test_records_table_and_page_carry_the_points(tmp_path: Path) -> None:
    models = [{"name": "fake/chunked", "label": "a", "options": {"height": 32, "width": 32}}]
    one = section({"latent": [5, 9]}, metrics=["fake/switches"])
    data = base(models=models, prompts=stories(tmp_path), generate=[one])
    assert run(tmp_path, data).exit_code == 0
    clip = next(r for r in RecordFile(tmp_path / "run/records.jsonl").records() if r.kind == "generate")
    assert clip.clip["switches"] == [
        {"asked": 5, "frame": 8, "point": "latent frame 5"},
        {"asked": 9, "frame": 12, "point": "latent frame 9"},
    ]
    (table,) = build([load_run(tmp_path / "run")])
    assert "s: prompt switches asked for at latent frame 5, 9 happen at: 8, 12 (a)." in table.remarks


@pytest.mark.parametrize(
    ("rows", "switches", "says"),
    [
        ([["a", "b"]], {"frame": [2, 6]}, "the script of line 1 of 'p' has 2 prompts; 2 switches need 3"),
        ([["a", "b"]], [{"latent": 2, "second": 1}], "one of `frame`, `latent` and `second`"),
        ([["a", "b", "c"]], {"latent": [6, 2]}, "put them in their order"),
        ([["a", 3]], {"frame": [2]}, "'prompts' is no list of texts"),
        ([[]], {"frame": [2]}, "'prompts' is no list of texts"),
        ([["a", "b"]], [{"frame": 2, "prompts": "p"}], "holds scripts; name it as the section's"),
        ([["a", "b"]], {"frames": [2]}, "unknown key 'frames'"),
    ],
)
def test_a_wrong_script_is_one_line(tmp_path: Path, rows: Any, switches: Any, says: str) -> None:
    data = base(
        models=[{"name": "fake/chunked", "label": "a"}],
        prompts=stories(tmp_path, rows),
        generate=[section(switches)],
    )
    with pytest.raises(SuiteError, match=says) as caught:
        planned(tmp_path, data)
    assert "\n" not in caught.value.message


def test_scripts_may_stand_in_the_suite_and_an_empty_prompt_brings_no_new_one(tmp_path: Path) -> None:
    suite = suite_of(tmp_path, {"p": {"scripts": [["a", "", "c"], ["d", "e", "f"]]}}, {"frame": [4, 9]})
    assert pairs(suite) == [("a", "", "c"), ("d", "e", "f")]
    first, second = generated(
        planned(
            tmp_path,
            base(
                models=[{"name": "fake/chunked", "label": "a"}],
                prompts={"p": {"scripts": [["a", "", "c"], ["d", "e", "f"]]}},
                generate=[section({"frame": [4, 9]})],
            ),
        )
    )
    assert (first["switches"], second["switches"]) == ([[9, "c"]], [[4, "e"], [9, "f"]])
    with pytest.raises(SuiteError, match="holds no scripts, so a switch must name its `prompts`"):
        suite_of(tmp_path, {"p": ["a"]}, {"frame": [4]})


def test_a_measurement_takes_scripts_and_refuses_a_gap(tmp_path: Path) -> None:
    measure = {"name": "m", "probe": "fake/count", "prompts": "p", "frames": 14, "switches": {"latent": [5]}}
    models = [{"name": "fake/chunked", "label": "a"}]
    data = base(models=models, prompts=stories(tmp_path, [["a", "b"], ["c", "d"]]), generate=[], measure=[measure])
    (unit,) = planned(tmp_path, data).units
    assert unit.preimage["workload"]["prompts"] == ["a", "c"]  # type: ignore[index,call-overload]
    assert unit.preimage["workload"]["switches"] == [[5, ["b", "d"]]]  # type: ignore[index,call-overload]
    with pytest.raises(SuiteError, match="a measurement switches all clips together"):
        planned(tmp_path, {**data, "prompts": stories(tmp_path, [["a", "b"], ["c", ""]])})


def test_scripts_without_a_switch_say_that_their_first_prompt_counts(tmp_path: Path) -> None:
    plan = planned(tmp_path, base(prompts=stories(tmp_path, concept="cat")))
    assert plan.suite.prompts["p"].texts == ["a0", "b0"]
    assert plan.suite.prompts["p"].attributes == {"concept": [["cat"], ["cat"]]}
    assert "of up to 6 prompts of a script the first 1 count" in "\n".join(prompt_lines(plan, every=False))


def test_a_list_is_no_identity(tmp_path: Path) -> None:
    prompts = stories(tmp_path)
    prompts["p"]["identity"] = "prompts"
    with pytest.raises(SuiteError, match=r"stories\.jsonl:1: no text 'prompts'"):
        planned(tmp_path, base(prompts=prompts))


def test_the_first_frame_is_no_switch(tmp_path: Path) -> None:
    data = base(
        models=[{"name": "fake/chunked", "label": "a"}],
        prompts=stories(tmp_path),
        generate=[section({"second": [0.001]})],
    )
    assert generated(planned(tmp_path, data))[0]["switches"] == [[1, "a1"]]


def test_scripts_that_begin_alike_have_rows_and_names_of_their_own(tmp_path: Path) -> None:
    models = [{"name": "fake/chunked", "label": "a", "options": {"height": 32, "width": 32}}]
    data = base(
        models=models,
        prompts={"p": {"scripts": [["a", "b"], ["a", "c"], ["d", ""]]}},
        generate=[section({"frame": [6]}, metrics=["fake/brightness"])],
    )
    assert run(tmp_path, data).exit_code == 0
    finished = load_run(tmp_path / "run")
    folder, count = by_prompt(finished)
    assert (count, sorted(path.name for path in folder.glob("a/s/*.mp4"))) == (3, ["a-0.mp4", "a-1.mp4", "d-0.mp4"])
    page = pages.write([finished], tmp_path / "page")
    (text,) = re.findall(r'id="data">(.*?)</script>', page.index.read_text(), re.DOTALL)
    rows = json.loads(text)["sections"][0]["rows"]
    assert [(row["prompt"], row["cells"]["0"]["switches"]) for row in rows] == [
        ("a", [[8, "b"]]),
        ("a", [[8, "c"]]),
        ("d", []),
    ]


def test_scripts_that_a_suite_or_a_damaged_plan_states_do_no_harm(tmp_path: Path) -> None:
    stated = section([], scripts=[{"prompt": 9, "later": ["x"]}], dropped={"blank": [1]})
    suite = load_suite(write(tmp_path, base(generate=[stated])))
    assert pairs(suite) == [("one",), ("two",)]
    body = json.loads(json.dumps(dump(suite)))
    for scripts in ([{"prompt": 9, "later": []}], [{"prompt": 0, "later": ["x"]}]):
        body["generate"][0]["scripts"] = scripts
        with pytest.raises(SuiteError, match="section 's': its scripts do not fit its prompts"):
            scripts_of(Suite.model_validate(body), Suite.model_validate(body).generate[0])
    body["prompts"]["p"]["identities"] = ["one"]
    with pytest.raises(ValueError, match="1 identities for 2 texts"):
        Suite.model_validate(body)
