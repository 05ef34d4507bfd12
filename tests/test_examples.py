"""Every file of examples/ runs as it says."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.contracts import Request, registry
from harness.runs.records import RecordFile
from harness.system.stream_process import MODULE
from harness.testing import check_model

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
PLUGINS = ("--plugin", str(EXAMPLES / "own_model.py"), "--plugin", str(EXAMPLES / "own_metric.py"))


def done(folder: Path, *command: str | Path) -> str:
    """What a command that succeeds prints. `python` is this interpreter."""
    (folder / "bin").mkdir(exist_ok=True)
    if not (python := folder / "bin" / "python").exists():
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        python.chmod(0o755)
    environment = {**os.environ, "PATH": os.pathsep.join([str(folder / "bin"), os.environ["PATH"]])}
    process = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the notebook has run; what it printed is in `printed`."""
    path = tmp_path_factory.mktemp("examples")
    (path / "printed").write_text(done(path, "python", EXAMPLES / "notebook_api.py"))
    return path


def test_the_notebook_prints_scores_a_table_and_verdicts(folder: Path) -> None:
    printed = (folder / "printed").read_text()
    assert "### A bar against a small model" in printed
    assert "short:brightness" in printed
    cells = (EXAMPLES / "notebook_api.py").read_text().split("# %%")[2:]
    lines = [line for cell in cells for line in cell.splitlines()[1:] if line.strip()]
    assert len(lines) <= 10, "a notebook does in ten lines what the commands do"


def test_the_own_model_and_metric_keep_their_contracts(folder: Path) -> None:
    for name in ("lab/bar", "lab/brightness"):
        assert "FAILED" not in done(folder, "python", "-m", "harness", "check", name, *PLUGINS)
    again = done(folder, "python", "-m", "harness", "run", EXAMPLES / "own.yaml", "--out", "runs/own", *PLUGINS)
    assert "nothing to do: all 36 units are done" in again


def test_a_folder_of_clips_gets_the_scores_that_its_maker_had(folder: Path) -> None:
    done(folder, "python", "-m", "harness", "by-prompt", "runs/own", "--arm", "bar")
    clips = folder / "runs/own/by-prompt/bar/short"
    done(folder, EXAMPLES / "score_a_folder.sh", clips, "21", folder / "scored")
    first = {
        record.context["prompt"]: record.values["brightness"]
        for record in RecordFile(folder / "runs/own/records.jsonl").records()
        if record.context["arm"] == "bar" and record.context["plugin"] == "lab/brightness"
    }
    second = {
        record.context["prompt"]: record.values["brightness"]
        for record in RecordFile(folder / "scored/records.jsonl").records()
        if record.kind == "score"
    }
    assert len(first) == 6
    assert second == first


@pytest.mark.parametrize(
    ("page", "example"), [("README.md", "own_model.py"), ("docs/add-a-metric.md", "own_metric.py")]
)
def test_the_pages_show_the_examples(page: str, example: str) -> None:
    (block,) = (ROOT / page).read_text(encoding="utf-8").split("```python\n")[1:]
    code = block.partition("```")[0]
    assert (EXAMPLES / example).read_text(encoding="utf-8").endswith(code)


def test_a_model_streams_from_its_own_process(folder: Path) -> None:
    shutil.copytree(EXAMPLES / "process", folder / "examples" / "process")
    assert (EXAMPLES / "process" / MODULE.name).read_text() == MODULE.read_text()
    done(folder, "python", "-m", "harness", "run", "examples/process/suite.yaml", "--out", "runs/process")
    records = list(RecordFile(folder / "runs/process/records.jsonl").records())
    clips = [record.clip for record in records if record.kind == "generate"]
    assert [clip["frames"] for clip in clips] == [33, 33]
    # Chunks begin at frames 0, 9 and 21; the switch was asked for at frame 20.
    assert [clip["switches"] for clip in clips] == [[{"asked": 20, "frame": 21}]] * 2
    (speed,) = [record for record in records if record.kind == "measure"]
    assert speed.values["chunk_s"] > 0
    assert speed.values["peak_bytes"] > 0


def test_a_pipeline_of_diffusers_keeps_its_contract_and_says_how_many_frames_come() -> None:
    pytest.importorskip("diffusers", exc_type=ImportError)
    registry.load_plugin(EXAMPLES / "diffusers_model.py")
    findings = check_model("lab/diffusers", live=True)
    assert [finding for finding in findings if finding.ok is False] == []
    assert sum(finding.ok is True for finding in findings) >= 9
    for asked in (1, 17, 20, 22, 30):
        model = registry.models.create("lab/diffusers", {"num_frames": asked, "steps": 1})
        model.load("cpu")
        clips = model.pipeline(num_frames=asked, **model.arguments(Request(("a",), (0,), asked))).frames
        card = model.describe()
        assert clips.shape[1] == card.frames_per_chunk == card.details["frames_returned"]
        assert card.details["frames_asked"] == asked


def test_every_example_is_tried_here() -> None:
    names = {path.name for path in EXAMPLES.iterdir() if path.is_file()}
    tried = {"own_model.py", "own_metric.py", "own.yaml", "notebook_api.py", "score_a_folder.sh", "diffusers_model.py"}
    assert names == tried | {"raycluster.yaml"}, "the last is held by test_raycluster.py"
