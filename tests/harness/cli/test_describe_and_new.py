"""`describe`, `list`, `check`, and what `new` writes: each works at once."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from road import FAKES
from typed_commands import SUITE, Harness

from harness.cli.columns import columns
from harness.contracts import registry

COMMAND = [sys.executable, "-m", "harness"]


def harness(folder: Path, *arguments: str, width: int = 400) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": str(width)}
    command = [*COMMAND, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def printed(folder: Path, *arguments: str, width: int = 400) -> str:
    done = harness(folder, *arguments, width=width)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# ------------------------------------------------------------------------------------------------ describe


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("streaming", ["streaming, probe, version 4", "min_seconds", "seconds", "end_to_end_fps", "a model"]),
        ("clip/score", ["clip/score, metric", "environment", "quality", "clip_t", "how a frame is brought to"]),
        ("toy/dense", ["toy/dense, model", "cached scalars", "denoising steps per chunk", "integer ≥ 1, ≤ 1,000"]),
        ("folder", ["needs options: path"]),
        ("train", ["needs options", "NetworkOptions"]),
        ("suite", ["A checked suite", "incomplete", "whether a mean over fewer clips"]),
        ("generate.frames", ["GenerateSection", "integer ≥ 1, ≤ 1,000,000", "of a clip"]),
        ("tables.columns", ["value", "relative"]),
        ("recipe", ["recipe"]),
    ],
)
def test_describe_tells_options_with_types_defaults_units_and_meaning(
    tmp_path: Path, name: str, lines: list[str]
) -> None:
    text = printed(tmp_path, "describe", name)
    assert [line for line in lines if line not in text] == [], text


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("streming", "did you mean streaming"),
        ("toy/dence", "did you mean toy/dense"),
        ("clip/scor", "did you mean clip/score"),
        ("generate.frame", "did you mean generate.frames"),
        ("suite.generat", "did you mean generate?"),
        ("generate.frames.more", "'frames' has no keys of its own"),
    ],
)
def test_a_wrong_name_is_answered_with_near_ones(tmp_path: Path, name: str, says: str) -> None:
    done = harness(tmp_path, "describe", name)
    assert done.returncode == 2
    assert says in done.stderr


def test_describe_as_json_has_every_option_of_the_schema(tmp_path: Path) -> None:
    body = json.loads(printed(tmp_path, "describe", "streaming", "--json", "--set", "warmups=3"))
    assert [key["name"] for key in body["keys"]] == list(registry.probes.get("streaming").schema.model_fields)
    assert body["options"]["warmups"] == 3
    assert {"name": "ceiling_s", "type": "number > 0", "default": "`600.0`", "unit": "seconds"}.items() <= next(
        key for key in body["keys"] if key["name"] == "ceiling_s"
    ).items()
    keys = json.loads(printed(tmp_path, "describe", "suite.video", "--json"))["keys"]
    assert [key["name"] for key in keys] == ["crf", "preset"]
    metric = json.loads(printed(tmp_path, "describe", "fake/unavailable", "--json", "--plugin", str(FAKES)))
    assert (metric["here"], metric["fix"]) == (False, "harness env build backbone")


def test_options_without_a_docstring_are_described_all_the_same(tmp_path: Path) -> None:
    assert "chunk_seconds" in printed(tmp_path, "describe", "fake/moving", "--plugin", str(FAKES))


@pytest.mark.parametrize("name", [*registry.models.names(), *registry.metrics.names(), *registry.probes.names()])
def test_every_registered_name_can_be_described(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    from harness.cli.describe import describe

    (text,) = describe(name)
    assert text.splitlines()[0].startswith(f"{name}, ")


# ------------------------------------------------------------------------------------------------- columns


def test_columns_fit_the_width_and_never_break_a_name() -> None:
    rows = [("a/rather-long-name", "what it is, " * 12, "one, two"), ("b", "short", "three")]
    text = columns(rows, ("name", "about", "values"), width=60)
    assert max(map(len, text.splitlines())) <= 60
    assert "a/rather-long-name" in text
    assert text.count("it") == text.count("what") == 12
    assert len(columns(rows, ("name", "about", "values"), width=100_000).splitlines()) == 4


def test_a_control_character_does_not_reach_the_terminal() -> None:
    assert "\x1b" not in columns([("a\x1b[31m", "[bold]b[/bold]")], width=80)
    assert "[bold]b[/bold]" in columns([("a", "[bold]b[/bold]")], width=80)


@pytest.mark.parametrize("kind", ["models", "metrics", "probes"])
def test_lists_fit_a_terminal(tmp_path: Path, kind: str) -> None:
    text = printed(tmp_path, "list", kind, width=100)
    assert max(map(len, text.splitlines())) <= 100


# --------------------------------------------------------------------------------------------------- new


@pytest.mark.parametrize("kind", ["metric", "probe"])
def test_new_plugins_do_what_they_print_and_pass_their_tests(tmp_path: Path, kind: str) -> None:
    made = printed(tmp_path, "new", kind, "lab/my-own")
    tried = printed(tmp_path, *shlex.split(made.rpartition("try: harness ")[2]))
    assert "FAILED" not in tried
    assert {"metric": "ok        score", "probe": "ok        measure"}[kind] in tried
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_lab_my_own.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "1 passed" in done.stdout, done.stdout + done.stderr
    assert harness(tmp_path, "new", kind, "lab/my-own").returncode == 2
    assert harness(tmp_path, "new", kind, "../escape").returncode == 2


@pytest.mark.parametrize("name", ["none", "metric", "measurement", "2nd"])
def test_a_name_that_the_file_itself_uses_makes_a_working_file(tmp_path: Path, name: str) -> None:
    made = printed(tmp_path, "new", "probe", name)
    assert "ok        measure" in printed(tmp_path, *shlex.split(made.rpartition("try: harness ")[2]))


def test_a_name_that_is_taken_is_refused(tmp_path: Path) -> None:
    for kind, name in (("metric", "toy/world"), ("probe", "streaming"), ("model", "toy/dense")):
        done = harness(tmp_path, "new", kind, name)
        assert (done.returncode, "already registered" in done.stderr) == (2, True)


def test_a_new_suite_is_planned_and_runs(tmp_path: Path) -> None:
    made = printed(tmp_path, "new", "suite", "lab/first")
    planned = printed(tmp_path, *shlex.split(made.rpartition("try: harness ")[2]))
    assert "8 to generate, 16 to score, 2 to measure" in planned
    ran = printed(tmp_path, "run", "lab_first.yaml", "-q", "--set", "models=[{name: toy/dense, label: dense}]")
    assert "### lab/first" in ran
    assert "13 units: 13 done now" in ran


@pytest.mark.parametrize("kind", ["models", "metrics", "probes", "suites"])
def test_lists(harness: Harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    (tmp_path / "suites").mkdir()
    (tmp_path / "suites/tiny.yaml").write_text(SUITE)
    (tmp_path / "suites/base.yaml").write_text("errors: stop\n")
    (tmp_path / "suites/broken.yaml").write_text("a: [")
    found = harness("list", kind, "--plugin", str(FAKES))
    assert found.code == 0
    expected = {"models": "fake/moving", "metrics": "fake/brightness", "probes": "fake/count", "suites": "Moving"}
    assert expected[kind] in found.out
    if kind == "metrics":
        assert "weights of the backbone are missing (harness env build backbone)" in found.out
    if kind == "suites":
        assert "base.yaml" not in found.out
        assert "cannot be read" in found.out


def test_describe(harness: Harness) -> None:
    plugin = ("--plugin", str(FAKES))
    body = json.loads(harness("describe", "fake/moving", "--json", "--set", "chunk=8", *plugin).out)
    assert body["options"]["chunk"] == 8
    assert body["card"]["frames_per_chunk"] == 8
    assert "cached scalars" in harness("describe", "fake/moving", *plugin).out
    wrong = harness("describe", "fake/moving", "--set", "chnk=8", *plugin)
    assert (wrong.code, "did you mean chunk?" in wrong.err) == (2, True)


def test_check(harness: Harness) -> None:
    good = harness("check", "fake/moving", "--plugin", str(FAKES))
    assert good.code == 0
    assert "ok        equal seeds give equal clips" in good.out
    for name in ("fake/brightness", "fake/count"):
        assert harness("check", name, "--plugin", str(FAKES)).code == 0
    misspelt = harness("check", "fake/coutn", "--plugin", str(FAKES))
    assert misspelt.code == 2
    assert "did you mean fake/count" in misspelt.err
    bad = harness("check", "fake/nan", "--plugin", str(FAKES))
    assert bad.code == 1
    assert re.search(r"FAILED +stream.*NaN", bad.out)


def test_new_model_runs_and_keeps_the_contract(harness: Harness, tmp_path: Path) -> None:
    made = harness("new", "model", "lab/my-model")
    assert made.code == 0
    assert "try: harness check lab/my-model --plugin lab_my_model.py" in made.out
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_lab_my_model.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
    assert harness("new", "model", "lab/my-model").code == 2
    assert harness("new", "model", "../escape").code == 2


def test_new_process_runs_and_keeps_the_contract(harness: Harness, tmp_path: Path) -> None:
    made = harness("new", "process", "lab/mine")
    assert made.code == 0
    assert {path.name for path in tmp_path.iterdir()} >= {"lab_mine.py", "lab_mine.yaml", "harness_stream.py"}
    command = made.out.rpartition("try: harness ")[2].split()
    checked = harness(*command, "--set", f"python={sys.executable}")
    assert checked.code == 0
    assert "ok        clip unchanged after loading again" in checked.out
    planned = harness("plan", "lab_mine.yaml")
    assert planned.code == 0
    assert harness("new", "process", "lab/mine").code == 2
    assert harness("new", "process", "lab/other").code == 0
    assert harness("new", "process", "harness-stream").code == 2
    (tmp_path / "harness_stream.py").write_text("older")
    assert "is not this harness's" in harness("new", "process", "lab/third").err
