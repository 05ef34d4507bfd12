"""Plug-in files that a suite names, and that a plan keeps so that readers of a run need no flag."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.contracts import registry
from harness.suite import plugins

OWN = """\
from harness.contracts import Metric, Value, registry

@registry.metrics.register("own/brightness")
class Brightness(Metric):
    '''Mean pixel.'''

    values = (Value("brightness"),)

    def score(self, clip):
        return {"brightness": float(clip.read().mean())}
"""

SUITE = """\
suite: own
device: cpu
plugins: [plugins/own.py]
models: [{name: fake/moving}, {name: fake/moving, label: b, options: {chunk: 2}}]
prompts: {p: [one, two]}
generate: [{name: short, prompts: p, frames: 4, metrics: [own/brightness]}]
"""

FAKES = Path(__file__).parents[2] / "data" / "fake_models.py"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a suite and the plug-ins it names, and a cache of its own."""
    monkeypatch.setenv("VIDEOMLA_CACHE", str(tmp_path / "cache"))
    (tmp_path / "lab" / "suites" / "plugins").mkdir(parents=True)
    (tmp_path / "lab" / "suites" / "plugins" / "own.py").write_text(OWN)
    (tmp_path / "lab" / "suites" / "own.yaml").write_text(SUITE.replace("own.py", f"own.py, {FAKES}"))
    return tmp_path / "lab"


def harness(folder: Path, *arguments: str, code: int = 0) -> tuple[str, str]:
    """A command in a process of its own, which knows no plug-in."""
    ended = subprocess.run(
        [sys.executable, "-m", "harness", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ended.returncode == code, ended.stderr
    return ended.stdout, ended.stderr


def test_a_suite_brings_its_plugins_and_readers_need_no_flag(folder: Path) -> None:
    out, _ = harness(folder, "run", "suites/own.yaml")
    assert "6 units" not in out
    assert "8 units: 8 done now" in out
    plan = json.loads((folder / "runs/own/plan.json").read_text())
    assert plan["suite"]["plugins"][0] == "suites/plugins/own.py"
    table, _ = harness(folder, "table", "runs/own")
    assert "brightness" in table
    assert table in out
    assert "brightness" in harness(folder, "compare", "runs/own", "fake/moving", "b")[0]
    harness(folder, "gate", "runs/own", "--baseline", "runs/own")


def test_a_plan_keeps_the_plugins_of_the_command_line(folder: Path) -> None:
    text = (folder / "suites/own.yaml").read_text()
    (folder / "suites/own.yaml").write_text("".join(line for line in text.splitlines(True) if "plugins:" not in line))
    harness(folder, "run", "suites/own.yaml", "--plugin", "suites/plugins/own.py", "--plugin", str(FAKES))
    assert "brightness" in harness(folder, "table", "runs/own")[0]


def test_a_plugin_that_this_user_never_loaded_is_not_run_unasked(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    harness(folder, "run", "suites/own.yaml")
    shutil.copytree(folder, tmp_path / "elsewhere")
    marker = tmp_path / "was_run"
    evil = tmp_path / "elsewhere" / "suites" / "plugins" / "own.py"
    evil.write_text(f"from pathlib import Path\nPath({str(marker)!r}).touch()\n" + OWN)
    _, err = harness(tmp_path / "elsewhere", "table", "runs/own", code=2)
    assert "unknown metric 'own/brightness'" in err
    assert "if you trust the files that its plan names: --plugin suites/plugins/own.py" in err
    assert not marker.exists()
    assert "brightness" in harness(tmp_path / "elsewhere", "table", "runs/own", "--plugin", str(evil))[0]
    assert marker.exists()


def test_a_plugin_that_is_gone_is_one_line(folder: Path) -> None:
    harness(folder, "run", "suites/own.yaml")
    (folder / "suites/plugins/own.py").unlink()
    _, err = harness(folder, "table", "runs/own", code=2)
    assert "--plugin suites/plugins/own.py" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("plugins", "message"),
    [
        ("[absent.py]", "own.yaml:3: plug-in file .*absent.py does not exist"),
        ("own.py", "plugins: Input should be a valid list"),
        ("[3]", "Input should be a valid string"),
        ("[plugins/broken.py]", "fails on import: ZeroDivisionError"),
    ],
)
def test_a_wrong_plugin_is_named_with_its_line(folder: Path, plugins: Any, message: str) -> None:
    import re

    (folder / "suites/plugins/broken.py").write_text("1 / 0\n")
    text = (folder / "suites/own.yaml").read_text()
    (folder / "suites/own.yaml").write_text(re.sub(r"plugins: .*", f"plugins: {plugins}", text))
    _, err = harness(folder, "plan", "suites/own.yaml", code=2)
    assert re.search(message, err)
    assert "Traceback" not in err


def test_a_file_that_a_plan_names_is_found_from_another_folder_later(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = folder / "suites" / "plugins" / "own.py"
    file.write_text(OWN.replace("own/brightness", "own/later"))
    monkeypatch.setattr(registry, "offered", [])
    monkeypatch.chdir(file.parent)
    plugins.load([file])
    plugins.offer(["own.py"])
    monkeypatch.chdir(tmp_path)
    assert registry.offered == [file.resolve()]
