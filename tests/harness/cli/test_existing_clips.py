"""What `plan` and `check` say of clips that exist, and the commands that README and suites print."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from harness.cli import main
from harness.environments.weights.manifest import read_manifest
from harness.runs.records import RecordFile
from harness.suite.load import load_suite
from harness.system import video

ROOT = Path(__file__).parents[3]
SUITES = sorted((ROOT / "suites").glob("*.yaml"))
FAKES = ROOT / "tests" / "data" / "fake_models.py"


def call(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(main.app, list(map(str, arguments)))
    return result.exit_code, result.output


def clip(path: Path, frames: int = 6, level: int = 90, height: int = 16) -> Path:
    video.write(path, [np.full((frames, height, 16, 3), level, np.uint8)], 8.0, 8, "ultrafast")
    return path


@pytest.fixture
def clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, empty but for `clips` with good and bad ones."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "clips"
    clip(folder / "a red fox-0.mp4")
    clip(folder / "short-0.mp4", frames=3, height=32)
    clip(folder / "other seed-4.mp4")
    (folder / "broken-0.mp4").write_bytes(b"\0nonsense")
    return folder


NAMED = ("--set", "models.clips.options.path=clips", "--set", "prompts.clips.folder=clips")
SCORE = ROOT / "suites" / "score.yaml"


def test_plan_tells_in_one_table_what_lacks_is_short_or_unreadable(clips: Path) -> None:
    code, text = call("plan", SCORE, *NAMED, "--set", "generate.clips.frames=6", "--set", "generate.clips.metrics=[]")
    assert code == 0
    rows = {tuple(re.split(r"  +", line.strip())[1:5]) for line in text.splitlines()}
    assert ("too short", "short", "0", "short-0.mp4") in rows
    assert ("missing", "other seed", "0", "-") in rows
    assert ("surplus", "other seed", "4", "other seed-4.mp4") in rows
    assert not any("a red fox" in row for row in rows)
    assert "1 of 4 clips are there, 1 unreadable, 1 missing, 1 too short, 1 surplus" in text


def test_check_decodes_every_clip(clips: Path) -> None:
    cut = clips / "cut-0.mp4"
    shutil.copy(clips / "a red fox-0.mp4", cut)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    code, text = call("check", "folder", "--set", "path=clips")
    assert code == 1
    assert "clips: 3 of 5 can be taken" in text
    assert "broken-0.mp4: unreadable: cannot be decoded" in text
    assert "cut-0.mp4: unreadable: " in text


def test_check_holds_an_index_to_the_folder(clips: Path) -> None:
    (clips / "clips.csv").write_text("prompt,seed,file\na fox,0,a red fox-0.mp4\na cat,0,cat.mp4\n")
    code, text = call("check", "folder", "--set", "path=clips", "--set", "index=clips.csv")
    assert code == 1
    assert "clips: 1 of 5 can be taken" in text
    assert "cat.mp4: missing: there is no such file" in text
    for name in ("broken-0.mp4", "other seed-4.mp4", "short-0.mp4"):
        assert f"{name}: surplus: the index does not list it" in text


def test_check_of_good_clips_is_content(clips: Path) -> None:
    (clips / "broken-0.mp4").unlink()
    (clips / "a red fox-0.json").write_text("{}")
    (clips / "notes-1.txt").write_text("all good")
    code, text = call("check", "folder", "--set", "path=clips")
    assert (code, "clips: 3 of 3 can be taken" in text) == (0, True)


def test_the_readmes_score_example_works_in_an_empty_folder(clips: Path) -> None:
    (line,) = re.findall(r"^    harness (run suites/score\.yaml .*)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    command = [word.replace("suites/", f"{ROOT / 'suites'}/") for word in shlex.split(line)]
    code, text = call(*command, "--plugin", FAKES, "--set", "generate.clips.metrics=[fake/brightness]")
    assert code == 1, text
    records = [r for r in RecordFile(clips.parent / "runs" / "score" / "records.jsonl").records() if r.status == "ok"]
    brightness = {r.context["prompt"]: r.values["brightness"] for r in records if r.kind == "score"}
    assert brightness == {"a red fox": pytest.approx(90, abs=1), "short": pytest.approx(90, abs=1)}


def test_a_path_starts_from_the_suite_and_with_set_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place, level in (("suite/clips", 10), ("here/clips", 20)):
        clip(tmp_path / place / f"level {level}-0.mp4", level=level)
    text = SCORE.read_text().replace("../clips", "clips")
    (tmp_path / "suite" / "s.yaml").write_text(text)
    monkeypatch.chdir(tmp_path / "here")
    for settings, level in (((), 10), (NAMED[1::2], 20)):
        suite = load_suite(Path("../suite/s.yaml"), [*settings, "generate.clips.metrics=[]"])
        assert suite.prompts["clips"].texts == [f"level {level}"]
        assert Path(str(suite.models[0].options["path"])).resolve() == (
            tmp_path / ("here" if settings else "suite") / "clips"
        )
    absolute = load_suite(tmp_path / "suite" / "s.yaml", ["generate.clips.metrics=[]"])
    assert absolute.prompts["clips"].texts == ["level 10"]


def test_prompts_come_from_names_once_each_and_only_of_clips(clips: Path) -> None:
    shutil.copy(clips / "a red fox-0.mp4", clips / "a red fox-1.mkv")
    suite = load_suite(SCORE, [*NAMED[1::2], "generate.clips.metrics=[]"])
    assert suite.prompts["clips"].texts == ["a red fox", "broken", "other seed", "short"]


def heads() -> Iterator[tuple[Path, str]]:
    for suite in SUITES:
        for line in suite.read_text(encoding="utf-8").splitlines():
            if line.startswith("#   "):
                yield suite, re.sub(r"  +\(.*\)$", "", line.removeprefix("#   "))


@pytest.mark.parametrize(("suite", "line"), list(heads()), ids=lambda value: getattr(value, "stem", value))
def test_the_commands_that_suites_print_work_as_printed(
    suite: Path, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run from the clone, with a file or folder where the text says FILE, PATH or CLIPS."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "suites").symlink_to(ROOT / "suites")
    (tmp_path / "FILE").write_text("a prompt\n")
    clip(tmp_path / "CLIPS" / "a prompt-0.mp4")
    line = line.replace("PATH", "FILE")
    if "vbench.jsonl" in line:
        pytest.skip("names files that the line above it makes")
    for command in line.split("; "):
        words = shlex.split(command)
        settings = [value for word, value in pairwise(words) if word == "--set"]
        if words[0] != "harness":
            assert settings or words[:2] == ["python", "-m"]
        elif words[1] in ("run", "plan"):
            assert ROOT / words[2] == suite
        else:
            assert call(*words[1:2], "--help")[0] == 0
            assert words[1] == "env" or read_manifest().get(words[2]).files
        if settings and "moviegen" in suite.read_text():
            settings.append("prompts.moviegen.file=FILE")
        if settings:
            random = ["models.VideoMLA.options.weights=random"] if "VideoMLA" in suite.read_text() else []
            load_suite(suite, [*settings, *(random if suite.stem == "clip_hpsv3" else [])])
