from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from road import base, run

from harness.contracts import Request, registry
from harness.errors import ClipError, RecordError
from harness.runs import by_prompt, folder
from harness.runs.records import load_run
from harness.system import video
from harness.system.digests import file_sha256
from harness.system.text import FORMULAS, without_quote

HOSTILE = [
    "../../../etc/passwd",
    "/etc/passwd",
    "..",
    ".",
    "-rf *",
    "a \"quoted\" 'one'",
    "two\nlines\r\n",
    "🎥 café",
    "x" * 300,
    "é" * 300,
    "<script>alert('x')</script>",
    "nul\x00byte",
    "a\\b:c|d",
    "`rm -rf /`$(reboot)",
    " leading and trailing ",
]


def harmless(name: str) -> bool:
    ok = name not in ("", ".", "..") and not set(name) & set('/\\\0\n\r<>|:*?"')
    return ok and len(name.encode()) <= by_prompt.MAX_NAME and name[0] not in ".-"


@pytest.mark.parametrize("prompt", HOSTILE)
def test_a_hostile_prompt_gives_a_harmless_name(prompt: str) -> None:
    assert harmless(by_prompt.safe_name(prompt))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), unique=True, max_size=5))
def test_names_are_harmless_and_distinct(prompts: list[str]) -> None:
    names = [by_prompt.safe_name(prompt) for prompt in prompts]
    assert all(harmless(name) for name in names)
    assert len(set(names)) == len(names)


def test_a_plain_prompt_is_its_own_name() -> None:
    prompt = "In a still frame, a stop sign's post (red), 3 cats & 1 dog"
    assert by_prompt.safe_name(prompt) == prompt
    longest = "a" * 210  # bytes of VBench's longest prompt
    assert by_prompt.safe_name(longest) == longest
    assert len(f"{by_prompt.safe_name('b' * 999)}-99999999.mp4") <= 255


def test_the_view_has_vbench_names_and_an_index_that_leads_back(tmp_path: Path) -> None:
    prompts = ["a red circle", *HOSTILE[:11]]
    section = {"name": "short", "prompts": "p", "seeds": [4, 7], "frames": 2}
    run(tmp_path, base(prompts={"p": prompts}, generate=[section]))
    loaded = load_run(tmp_path / "run")
    folder, count = by_prompt.by_prompt(loaded)
    assert count == 24
    assert (folder / "a" / "short" / "a red circle-0.mp4").is_file()
    assert (folder / "a" / "short" / "a red circle-1.mp4").is_file()
    with (folder / "index.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    # No spreadsheet takes a prompt for a formula, and a folder of clips takes it for what it was.
    assert not any(row["prompt"].startswith(FORMULAS) for row in rows)
    for row in rows:
        row["prompt"] = without_quote(row["prompt"])
    assert {(row["prompt"], row["seed"]) for row in rows} == {(p, s) for p in prompts for s in ("4", "7")}
    by_digest = {entry.clip["digest"]: entry.context for entry in loaded.index.values()}
    for row in rows:
        path = folder / row["file"]
        assert path.resolve().is_relative_to(folder.resolve()) or path.is_symlink()
        context = by_digest[video.inspect(path).digest]
        assert (context["prompt"], str(context["seed"])) == (row["prompt"], row["seed"])
    files = {item for item in folder.rglob("*") if item.is_file()}
    assert len(files) == 26
    assert by_prompt.by_prompt(loaded)[1] == 24
    with pytest.raises(RecordError, match="no clips"):
        by_prompt.by_prompt(loaded, labels=["nobody"])


def test_the_folder_of_an_arm_is_scored_as_it_is_and_one_of_two_arms_row_by_row(tmp_path: Path) -> None:
    """Clips of seeds 4 and 7 are samples 0 and 1 by name, and 4 and 7 by the index."""
    models = [{"name": "fake/moving", "label": label} for label in ("one arm", "two")]
    section = {"name": "short", "prompts": "p", "seeds": [4, 7], "frames": 6, "metrics": ["fake/brightness"]}
    run(tmp_path, base(models=models, generate=[section]))
    view, _ = by_prompt.by_prompt(load_run(tmp_path / "run"))
    with pytest.raises(ClipError, match="is listed twice"):
        registry.models.create("folder", {"path": str(view), "index": "index.csv"}).describe()
    again = [
        {"name": "folder", "label": "a", "options": {"path": str(view / "two" / "short"), "index": "index.csv"}},
        {"name": "folder", "label": "b", "options": {"path": str(view), "index": "index.csv", "where": {"arm": "two"}}},
    ]
    (tmp_path / "again").mkdir()
    assert run(tmp_path / "again", base(models=again, generate=[section])).exit_code == 0
    by_name = [{"name": "folder", "label": "a", "options": {"path": str(view / "two" / "short")}}]
    (tmp_path / "named").mkdir()
    assert run(tmp_path / "named", base(models=by_name, generate=[{**section, "seeds": [0, 1]}])).exit_code == 0
    with pytest.raises(ClipError) as refused:
        registry.models.create("folder", by_name[0]["options"]).file(Request(("one",), (4,), 6))
    assert refused.value.fix == "its seeds are [0, 1]"


def test_a_sample_keeps_its_number_while_others_are_not_made_yet(tmp_path: Path) -> None:
    run(tmp_path, base(generate=[{"name": "short", "prompts": "p", "seeds": [0, 1], "frames": 2}]))
    records = tmp_path / "run" / "records.jsonl"
    keys = load_run(tmp_path / "run").groups[0].keys
    lines = records.read_text().splitlines(keepends=True)
    records.write_text("".join(line for line in lines if keys[0] not in line))  # as if it had not been made yet
    view, count = by_prompt.by_prompt(load_run(tmp_path / "run"))
    assert count == 3
    assert sorted(path.name for path in view.rglob("*.mp4")) == ["one-1.mp4", "two-0.mp4", "two-1.mp4"]


def test_the_view_falls_back_to_symbolic_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path, base())

    def refuse(source: Any, target: Any) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    folder, _ = by_prompt.by_prompt(load_run(tmp_path / "run"))
    link = folder / "a" / "short" / "one-0.mp4"
    assert link.is_symlink()
    assert len(video.read(link)) == 6


def test_a_clip_that_does_not_agree_is_not_shown(tmp_path: Path) -> None:
    run(tmp_path, base())
    next((tmp_path / "run" / "clips").rglob("*.mp4")).write_bytes(b"x")
    with pytest.raises(ClipError, match="does not agree"):
        by_prompt.by_prompt(load_run(tmp_path / "run"))


def test_two_runs_on_one_folder_are_refused(tmp_path: Path) -> None:
    with folder.Store(tmp_path / "run"):
        with pytest.raises(RecordError, match="another run is working in") as caught:
            folder.Store(tmp_path / "run")
        assert caught.value.exit_code == 2
        assert "--out" in caught.value.fix
    folder.Store(tmp_path / "run").close()


@pytest.mark.parametrize("name", ["../x.mp4", "/etc/passwd", "clips/../../x"])
def test_a_record_cannot_name_a_file_outside_of_its_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(RecordError, match="outside"):
        folder.inside(tmp_path, name)
    assert not folder.agrees(tmp_path, {"path": name, "bytes": 1})


def test_agreement_is_of_length_and_on_request_of_content(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"abcd")
    clip = {"path": "a.mp4", "bytes": 4, "sha256": file_sha256(path)}
    assert folder.agrees(tmp_path, clip)
    assert folder.agrees(tmp_path, clip, verify=True)
    path.write_bytes(b"abcx")
    assert folder.agrees(tmp_path, clip)
    assert not folder.agrees(tmp_path, clip, verify=True)
    path.write_bytes(b"abc")
    assert not folder.agrees(tmp_path, clip)
    assert not folder.agrees(tmp_path, {})
