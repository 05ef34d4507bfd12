"""Files and folders that people name on the command line: pipes in their place, and names that no system takes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import page_runs
import pytest
import studies
from fault_cases import Tried
from road import FAKES, base, write
from safetensors.numpy import save_file

from harness.cli.main import main

PLUGIN = Path(page_runs.__file__)
STATE = {"weight": page_runs.np.zeros(3, page_runs.np.float32)}

IN_TURN = """
import contextlib, io, json, os, sys
from harness.cli.main import main
for path, arguments in json.loads(sys.argv[1]):
    there = os.path.lexists(path)
    if there:
        os.rename(path, path + ".kept")
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    os.mkfifo(path)
    says = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(says):
        try:
            main(arguments)
        except SystemExit as end:
            code = end.code
    os.unlink(path)
    if there:
        os.rename(path + ".kept", path)
    print(json.dumps([path, arguments, code, says.getvalue()]), flush=True)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, a study of it, a suite, a recipe, a checkpoint and a table of attributes."""
    folder = tmp_path_factory.mktemp("named")
    studies.make_study(folder, "overall", raters=2, each=2, obvious=0)
    write(folder, base())
    save_file(STATE, folder / "x.safetensors")
    shutil.copy(Path(__file__).parents[2] / "suites" / "training" / "distilled.yaml", folder / "r.yaml")
    return folder


def test_a_pipe_in_place_of_any_file_is_refused_without_waiting(folder: Path, tried: Tried) -> None:
    plugin = ["--plugin", str(PLUGIN)]
    a_clip = next((folder / "run" / "clips").rglob("*.mp4")).relative_to(folder)
    cases = [
        (name, [*command, *plugin])
        for name in ("run/plan.json", "run/records.jsonl", "run/people.json")
        for command in (
            ["table", "run"], ["compare", "run", "a", "b"], ["gate", "run", "--baseline", "run"],
            ["page", "run", "--out", "page"],
        )
    ]  # fmt: skip
    cases += [
        (name, command)
        for name in ("run/plan.json", "run/records.jsonl")
        for command in (["merge", "out", "run"], ["sheet", "run", "--out", "a.png"], ["by-prompt", "run"],
                        ["show", "0", "--run", "run"], ["study", "new", "run", "--out", "s2"])
    ]  # fmt: skip
    cases += [
        ("run/plan.json", ["run", "s.yaml", "--out", "run", "--plugin", str(FAKES)]),
        ("run/records.jsonl", ["run", "s.yaml", "--out", "run", "--replace-plan", "--plugin", str(FAKES)]),
        ("run/.lock", ["run", "s.yaml", "--out", "run", "--plugin", str(FAKES)]),
        (str(a_clip), ["page", "run", "--out", "page", *plugin]),
        (str(a_clip), ["sheet", "run", "--out", "a.png"]),
        (str(a_clip), ["merge", "out2", "run"]),
        (str(a_clip), ["study", "new", "run", "--out", "s3"]),
        ("attributes.csv", ["page", "run", "--out", "page", "--attributes", "attributes.csv", *plugin]),
        ("a.png", ["sheet", "run", "--out", "a.png"]),
        ("study/study.json", ["study", "tally", "study"]),
        ("study/study.json", ["study", "export", "study"]),
        ("study/judges/x.json", ["study", "tally", "study"]),
        ("study/votes.sqlite", ["study", "tally", "study"]),
        ("votes.json", ["study", "tally", "study", "votes.json"]),
        ("consent.txt", ["study", "new", "run", "--consent", "consent.txt", "--out", "s4"]),
        ("s.yaml", ["plan", "s.yaml"]),
        ("s.yaml", ["rehearse", "s.yaml"]),
        ("plugin.py", ["plan", "s.yaml", "--plugin", "plugin.py"]),
        ("r.yaml", ["train", "r.yaml", "--dry-run"]),
        ("results.json", ["vbench", "totals", "results.json"]),
        ("x.safetensors", ["convert", "x.safetensors", "y.safetensors"]),
        ("x.pt", ["convert", "x.pt", "y.safetensors"]),
        ("names.yaml", ["convert", "x.safetensors", "y.safetensors", "--map", "names.yaml"]),
        ("x.safetensors", ["verify-trace", "x.safetensors"]),
        ("x.safetensors", ["rank", "x.safetensors", "--out", "rank"]),
    ]
    done = subprocess.run(
        [sys.executable, "-c", IN_TURN, json.dumps(cases)],
        cwd=folder, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    ended = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(ended) == len(cases), done.stderr
    for path, arguments, code, says in ended:
        assert code in (0, 1, 2, 3), (path, arguments, code, says)
        assert "Traceback" not in says, (path, arguments, says)
    # Not by those that look at other files, and a page or sheet shows that a clip is not there.
    assert sum(code != 0 for *_, code, _ in ended) >= len(cases) - 8
    tried(len(cases))


COMMANDS = [
    ["plan", "{}"], ["run", "{}"], ["run", "s.yaml", "--out", "{}"], ["rehearse", "{}"],
    ["rehearse", "s.yaml", "--out", "{}"], ["train", "{}"], ["train", "r.yaml", "--out", "{}"], ["merge", "{}"],
    ["merge", "out", "{}"], ["table", "{}"], ["table", "run", "--out", "{}"], ["table", "{}", "--all"],
    ["compare", "{}", "a", "b"], ["compare", "run", "a", "{}"], ["gate", "run", "--baseline", "{}"],
    ["show", "{}"], ["show", "a", "--run", "{}"], ["page", "{}"], ["page", "run", "--out", "{}"],
    ["page", "run", "--attributes", "{}"], ["sheet", "{}"], ["sheet", "run", "--out", "{}"],
    ["sheet", "run", "--prompts", "{}"], ["sheet", "run", "--frames", "{}"], ["sheet", "run", "--section", "{}"],
    ["by-prompt", "{}"], ["by-prompt", "run", "--arm", "{}"], ["vbench", "totals", "{}"],
    ["study", "new", "{}"], ["study", "new", "run", "--out", "{}"], ["study", "new", "run", "--consent", "{}"],
    ["study", "new", "run", "--title", "{}"], ["study", "new", "run", "--pairs", "{}"],
    ["study", "new", "run", "--questions", "{}"], ["study", "serve", "{}"], ["study", "export", "{}"],
    ["study", "export", "study", "--out", "{}"], ["study", "tally", "{}"], ["study", "tally", "study", "{}"],
    ["study", "judge", "study", "--name", "{}"], ["convert", "{}", "y.safetensors"],
    ["convert", "x.safetensors", "{}"], ["convert", "x.safetensors", "y.safetensors", "--map", "{}"],
    ["convert", "x.safetensors", "y.safetensors", "--lora", "{}"], ["verify-trace", "{}"],
    ["rank", "{}", "--out", "rank"], ["rank", "x.safetensors", "--out", "{}"], ["check", "{}"],
    ["check", "toy/dense", "--set", "{}=1", "--no-live"], ["describe", "{}"], ["list", "{}"],
    ["list", "models", "--plugin", "{}"], ["new", "model", "{}"], ["new", "suite", "x", "--out", "{}"],
    ["fetch", "{}"], ["fetch", "clip_vit_b_32", "--from", "{}"], ["env", "build", "{}"], ["doctor", "--out", "{}"],
    ["kernels", "--target", "{}"],
]  # fmt: skip
NAMES = {
    "long": "x" * 5000,
    "deep": "x/" * 4000 + "x",
    "undecodable": "\udcff.yaml",
    "home": "~nobodyhere/x",
    "control": "a\x1b[2Jb\nc",
    "empty": "",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_no_file_has_is_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tried: Tried, name: str
) -> None:
    for command in COMMANDS:
        monkeypatch.chdir(folder)
        with pytest.raises(SystemExit) as ended:
            main([part.format(NAMES[name]) for part in command])
        _, says = capsys.readouterr()
        assert ended.value.code in (0, 1, 2, 3), command
        assert "Traceback" not in says, (command, says)
        assert "\x1b" not in says, (command, says)
        assert len(says) < 6000, (command, len(says))
    tried(len(COMMANDS))
