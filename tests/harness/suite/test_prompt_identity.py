"""A clip is known by its short prompt, where a longer or translated one makes it: one translation may serve two."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from road import base, planned, run

from harness.contracts import Clip, Metric, Value, registry
from harness.errors import ClipError, SuiteError
from harness.metrics.vbench import read_short
from harness.metrics.vbench_protocol import SuitePrompt, write_prompts
from harness.report.long_table import comma_separated
from harness.report.tables import build
from harness.runs.by_prompt import by_prompt
from harness.runs.records import RecordFile, load_run
from harness.system import video


@registry.metrics.register("fake/letters")
class Letters(Metric):
    """Letters of what the clip is known by, and of what made it."""

    values = (Value("known"), Value("made"))

    def score(self, clip: Clip) -> Mapping[str, float]:
        return {"known": float(len(clip.known_as)), "made": float(len(clip.prompt))}


LISTED = [
    SuitePrompt("a person washing dishes", ("human_action",)),
    SuitePrompt("a person washing the dishes", ("human_action",)),
    SuitePrompt("a dog", ("object_class",)),
]
TRANSLATED = ["一个人在洗碗", "一个人在洗碗", "一只狗"]


def translated(folder: Path, **changes: Any) -> dict[str, Any]:
    """A suite over the file that the protocol writes of translations, of which two prompts share one."""
    write_prompts(folder, LISTED, TRANSLATED)
    prompts = {"p": {"file": "vbench.jsonl", "identity": "short", **changes}}
    section = {"name": "short", "prompts": "p", "seeds": [0, 1], "frames": 6, "metrics": ["fake/letters"]}
    return base(prompts=prompts, generate=[section])


def test_one_text_of_two_prompts_makes_one_clip_and_two_scores(tmp_path: Path) -> None:
    assert run(tmp_path, translated(tmp_path)).exit_code == 0
    records = list(RecordFile(tmp_path / "run/records.jsonl").records())
    assert sorted(r.context["prompt"] for r in records if r.kind == "generate") == sorted(TRANSLATED[1:] * 2)
    scores = {(r.preimage["prompt_identity"], r.context["seed"]): r.values for r in records if r.kind == "score"}
    assert scores == {
        (entry.text, seed): {"known": float(len(entry.text)), "made": float(len(text))}
        for entry, text in zip(LISTED, TRANSLATED, strict=True)
        for seed in (0, 1)
    }
    (table,) = build([load_run(tmp_path / "run")])
    assert table.rows[0].cells[0].value == pytest.approx(sum(len(entry.text) for entry in LISTED) / 3)
    assert table.rows[0].cells[0].count == "6/6"
    assert "a person washing the dishes" in comma_separated([load_run(tmp_path / "run")])


def test_clips_have_the_names_of_the_prompts_that_they_are_known_by(tmp_path: Path) -> None:
    assert run(tmp_path, translated(tmp_path)).exit_code == 0
    folder, count = by_prompt(load_run(tmp_path / "run"))
    assert count == 6
    names = {path.name for path in folder.glob("a/short/*.mp4")}
    assert names == {f"{entry.text}-{seed}.mp4" for entry in LISTED for seed in (0, 1)}


def test_texts_that_identify_themselves_keep_their_plan(tmp_path: Path) -> None:
    write_prompts(tmp_path / "plain", LISTED)
    prompts = {"file": "plain/vbench.jsonl", "identity": "short"}
    with_identity = planned(tmp_path, base(prompts={"p": prompts}))
    plain = planned(tmp_path, base(prompts={"p": [entry.text for entry in LISTED]}))
    assert with_identity.groups == plain.groups
    assert not with_identity.suite.prompts["p"].identities


def test_clips_that_exist_are_found_by_what_they_are_known_by(tmp_path: Path) -> None:
    for entry in LISTED:
        for seed in (0, 1):
            path = tmp_path / "clips" / f"{entry.text}-{seed}.mp4"
            path.parent.mkdir(exist_ok=True)
            video.write(path, [np.zeros((6, 16, 16, 3), np.uint8)], 16.0, 8, "ultrafast")
    data = translated(tmp_path)
    data["models"] = [{"name": "folder", "label": "a", "options": {"path": "clips"}}]
    assert run(tmp_path, data).exit_code == 0
    assert len(load_run(tmp_path / "run").groups[0].keys) == 6


def test_what_is_known_twice_or_by_no_column_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("prompt,short\nlong one,one\nlong two,one\n")
    with pytest.raises(SuiteError, match="two prompts are known as 'one'"):
        planned(tmp_path, base(prompts={"p": {"file": "p.csv", "identity": "short"}}))
    with pytest.raises(SuiteError, match="no column 'shrot'; did you mean short"):
        planned(tmp_path, base(prompts={"p": {"file": "p.csv", "identity": "shrot"}}))
    (tmp_path / "p.txt").write_text("one\n")
    with pytest.raises(SuiteError, match=r"p\.txt has no columns, so no `identity`"):
        planned(tmp_path, base(prompts={"p": {"file": "p.txt", "identity": "short"}}))


def test_vbench_asks_for_the_identity_where_a_text_stands_for_two_prompts(tmp_path: Path) -> None:
    write_prompts(tmp_path, LISTED, TRANSLATED)
    path = tmp_path / "vbench.jsonl"
    assert read_short(path)[TRANSLATED[0]] == [LISTED[0].text, LISTED[1].text]
    metric = registry.metrics.create("vbench", {"dimensions": ["temporal_flickering"], "prompts": str(path)})
    clip = Clip(tmp_path / "c.mp4", TRANSLATED[0], 0, 0, 6, 16, 16, 8.0, "", lambda: np.zeros((6, 16, 16, 3), np.uint8))
    with pytest.raises(ClipError, match="stands for 2 prompts of VBench\n  say `identity: short`"):
        metric.score(clip)


def test_lines_of_augmented_prompts_stay_in_their_places(tmp_path: Path) -> None:
    """A line separator inside a prompt ends no line, and an empty line leaves that prompt as it is."""
    write_prompts(tmp_path, LISTED, ["one\u2028more", "", "a\x85dog"])
    rows = [json.loads(line) for line in (tmp_path / "vbench.jsonl").read_bytes().split(b"\n") if line]
    assert [row["prompt"] for row in rows] == ["one\u2028more", LISTED[1].text, "a\x85dog"]
    suite = planned(tmp_path, base(prompts={"p": {"file": "vbench.jsonl", "identity": "short"}})).suite
    assert suite.prompts["p"].texts == [row["prompt"] for row in rows]
