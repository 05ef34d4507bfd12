"""`harness table`, `by-prompt`, `show`, `page` and `sheet`: what a run left, read and made again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from road import FAKES
from typed_commands import SUITE, Harness, run


def test_a_table_of_an_earlier_plan_is_removed_and_a_note_beside_it_is_not(harness: Harness, tmp_path: Path) -> None:
    run(harness)
    tables = tmp_path / "runs/tiny/tables"
    (tables / "note.md").write_text("mine")
    (tmp_path / "suite.yaml").write_text(SUITE + "tables: [{name: other, columns: [{value: 'short:brightness'}]}]\n")
    run(harness)
    suffixes = (".csv", ".html", ".md", ".tex")
    assert sorted(path.name for path in tables.iterdir()) == ["note.md", *(f"other{suffix}" for suffix in suffixes)]
    for suffix in suffixes:
        (tables / f"stale{suffix}").write_text("of another plan")
    every = ("table", "--all", "runs", "--plugin", str(FAKES))
    assert harness(*every, "--check").code == 1
    assert harness(*every).code == 0
    assert not list(tables.glob("stale*"))


def test_table_formats_and_files(harness: Harness, tmp_path: Path) -> None:
    run(harness)
    plugin = ("--plugin", str(FAKES))
    for name, mark in (("md", "### "), ("csv", "model,reference"), ("latex", r"\toprule"), ("html", "<!DOCTYPE")):
        assert mark in harness("table", "runs/tiny", "--format", name, *plugin).out
    assert harness("table", "runs/tiny", "--out", "made", *plugin).code == 0
    made = {path.name: path.read_bytes() for path in (tmp_path / "made").iterdir()}
    kept = {path.name: path.read_bytes() for path in (tmp_path / "runs/tiny/tables").iterdir()}
    assert made == kept
    assert sorted(kept) == ["tiny.csv", "tiny.html", "tiny.md", "tiny.tex"]


def test_all_tables_are_made_again_byte_for_byte(harness: Harness, tmp_path: Path) -> None:
    run(harness, "--out", "results/one")
    every = ("table", "--all", "results", "--plugin", str(FAKES))
    assert harness(*every, "--check").code == 0
    path = tmp_path / "results/one/tables/tiny.md"
    before = path.read_bytes()
    path.write_bytes(before + b" ")
    assert harness(*every, "--check").code == 1
    assert path.read_bytes() == before + b" "
    assert "written: results/one/tables/tiny.md" in harness(*every).out
    assert path.read_bytes() == before
    assert harness("table", "--all", "nowhere").code == 2


def test_a_table_without_its_plugin_says_how_to_bring_it(harness: Harness, tmp_path: Path) -> None:
    run(harness)
    command = [sys.executable, "-m", "harness", "table", "runs/tiny"]
    # A user who has loaded the file before needs no flag.
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 0
    other_user = {**os.environ, "VIDEOMLA_CACHE": str(tmp_path / "cache")}
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=other_user)
    assert (found.returncode, f"--plugin {FAKES}" in found.stderr) == (2, True)
    assert harness("table", "runs/tiny", "--plugin", str(FAKES)).code == 0


def test_by_prompt_view(harness: Harness, tmp_path: Path) -> None:
    run(harness)
    found = harness("by-prompt", "runs/tiny", "--arm", "dense")
    assert "4 clips: runs/tiny/by-prompt" in found.out
    assert (tmp_path / "runs/tiny/by-prompt/dense/short/a red circle-1.mp4").is_file()


def test_show_asks_for_more_digits_and_knows_when_there_is_none(harness: Harness) -> None:
    assert harness("show", "ab").code == 2
    run(harness)
    assert "give more digits" in harness("show", "").err
    assert harness("show", "0" * 64, "--run", "runs/tiny").code == 2


def test_run_names_the_page_and_page_and_sheet_make_theirs(harness: Harness, tmp_path: Path) -> None:
    assert f"page:    harness page runs/tiny --plugin {FAKES}\n" in run(harness).out
    made = harness("page", "runs/tiny", "--plugin", str(FAKES))
    assert made.out == "page: runs/tiny/page/index.html (8 clips)\n"
    assert (tmp_path / "runs/tiny/page/index.html").is_file()
    sheet = harness("sheet", "runs/tiny", "--prompts", "0", "--frames", "0,-1", "--out", "papers/a.png")
    assert sheet.out == "sheet: papers/a.png\n"
    assert (tmp_path / "papers/a.png").read_bytes().startswith(b"\x89PNG")
    assert harness("page", "runs/tiny", "--plugin", str(FAKES), "--out", "runs").err.startswith("error: runs holds")
    assert harness("sheet", "runs/tiny", "--frames", "first").err.startswith("error: --frames first: expected numbers")
