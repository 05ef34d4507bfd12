"""Derived values from two sections, and metrics that choose which clips count."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import run_folders  # noqa: F401  (registers the fake model)

from harness.contracts import Clip, Metric, Value, registry
from harness.errors import Incomplete
from harness.report.tables import build
from harness.runs.line import Record
from harness.runs.plan import make, to_json
from harness.runs.records import RecordFile, load_run
from harness.suite.schema import Suite


@registry.metrics.register("fake/parts")
class Parts(Metric):
    values = (Value("left"), Value("right"))
    derived = (Value("both"),)

    def score(self, clip: Clip) -> Mapping[str, float]:
        raise NotImplementedError

    def keep(self, name: str, prompts: Sequence[int], scores: Sequence[float]) -> Sequence[bool]:
        """The first clip of each prompt, for `right`."""
        if name != "right":
            return super().keep(name, prompts, scores)
        return [prompt not in prompts[:place] for place, prompt in enumerate(prompts)]

    def derive(self, means: Mapping[str, float]) -> Mapping[str, float]:
        return {"both": means["left"] + means["right"]} if len(means) == 2 else {}


def run(folder: Path, column: Mapping[str, Any], right: Sequence[float | None], notes: Any = None, **more: Any) -> Any:
    """Two prompts and two seeds: section `l` defines `left`, section `r` defines `right`."""
    section = {"prompts": "p", "seeds": [0, 1], "metrics": [{"name": "fake/parts"}]}
    body = {
        "suite": "fake",
        "reference": "arm",
        "models": [{"name": "fake/card", "label": "arm", "options": {"label": "arm"}}],
        "prompts": {"p": {"texts": ["one", "two"]}},
        "generate": [{"name": "l", "frames": 8, **section}, {"name": "r", "frames": 9, **section}],
        "tables": [{"name": "t", "columns": [column]}],
        **more,
    }
    plan = make(Suite.model_validate(body), "cpu")
    folder.mkdir(parents=True)
    (folder / "plan.json").write_text(json.dumps(to_json(plan)))
    units = {unit.key: unit for unit in plan.units}
    scores = {"l": [1.0, 2.0, 3.0, 4.0], "r": right}
    with RecordFile(folder / "records.jsonl") as file:
        for group in plan.groups:
            if group.kind != "score":
                continue
            for key, score in zip(group.keys, scores[group.section], strict=True):
                if score is not None:
                    name = {"l": "left", "r": "right"}[group.section]
                    values = {"left": math.nan, "right": math.nan, name: score}
                    unit = units[key]
                    made = Record(
                        key, "score", "ok", unit.preimage, context=unit.context, values=values, notes=notes or {}
                    )
                    file.append(made)
    return build([load_run(folder)])[0].rows[0].cells[0]


def test_a_derived_value_needs_the_values_of_both_sections(tmp_path: Path) -> None:
    assert run(tmp_path / "a", {"value": "l:both"}, [10.0, 20.0, 30.0, 40.0]).text == "undefined"
    joined = run(tmp_path / "b", {"value": "l:both", "joined": ["r"]}, [10.0, 20.0, 30.0, 40.0])
    assert joined.value == pytest.approx(2.5 + 20.0)


def test_a_metric_chooses_the_clips_that_count(tmp_path: Path) -> None:
    assert run(tmp_path / "a", {"value": "r:right"}, [10.0, 20.0, 30.0, 40.0]).value == pytest.approx(20.0)
    assert run(tmp_path / "b", {"value": "r:right"}, [math.nan, 20.0, 30.0, 40.0]).value == pytest.approx(30.0)


def test_a_gap_in_a_joined_section_refuses_or_marks_the_mean(tmp_path: Path) -> None:
    column = {"value": "l:both", "joined": ["r"]}
    with pytest.raises(Incomplete, match="r: fake/parts has 3 of 4"):
        run(tmp_path / "a", column, [10.0, None, 30.0, 40.0], incomplete="refuse")
    marked = run(tmp_path / "b", column, [10.0, None, 30.0, 40.0], incomplete="mark")
    assert marked.marks
    assert marked.value == pytest.approx(22.5)


def test_a_value_that_no_clip_has_shows_the_reason_of_its_record(tmp_path: Path) -> None:
    notes = {"not_available": {"right": "needs a package", "both": "lacks right"}}
    nothing = [math.nan] * 4
    assert run(tmp_path / "a", {"value": "r:right"}, nothing, notes).text == "not available: needs a package"
    both = {"value": "l:both", "joined": ["r"]}
    assert run(tmp_path / "b", both, nothing, notes).text == "not available: lacks right"
    assert run(tmp_path / "c", {"value": "r:right"}, nothing).text == "undefined"
    assert run(tmp_path / "d", {"value": "r:right"}, [1.0, 2.0, 3.0, 4.0], notes).value == pytest.approx(2.0)
