"""Every option that names a file starts from the suite's folder, and with `--set` from the current one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from road import base, write

from harness.contracts import registry
from harness.errors import SuiteError
from harness.suite.load import load_suite

PROGRAM = {"height": 16, "width": 16, "chunk": 4}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a folder of suites below it."""
    (tmp_path / "suites").mkdir()
    monkeypatch.chdir(tmp_path)
    registry.load_plugin(Path(__file__).parents[2] / "data" / "fake_models.py")
    return tmp_path


def options(folder: Path, name: str, given: dict[str, Any], *sets: str, **entry: Any) -> dict[str, Any]:
    data = base(models=[{"name": name, "label": "a", "options": given, **entry}])
    write(folder / "suites", data)
    return load_suite(Path("suites/s.yaml"), sets).models[0].options


@pytest.mark.parametrize(
    ("name", "given", "option", "value"),
    [
        ("toy/dense", {"weights": "own.safetensors"}, "weights", "suites/own.safetensors"),
        ("toy/dense", {"weights": "../own.safetensors"}, "weights", "own.safetensors"),
        ("toy/dense", {"weights": "random"}, "weights", "random"),
        ("toy/dense", {"weights": "/own.safetensors"}, "weights", "/own.safetensors"),
        ("toy/trained", {"checkpoints": ["a-{seed}.pt", "/b.pt"]}, "checkpoints", ["suites/a-{seed}.pt", "/b.pt"]),
        ("videomla-1.3b", {"weights": "stage3/model.pt"}, "weights", "suites/stage3/model.pt"),
        ("videomla-1.3b", {"weights": "Hidir/VideoMLA:stage3/model.pt"}, "weights", "Hidir/VideoMLA:stage3/model.pt"),
        ("videomla-1.3b", {"weights": "random", "lora": "l.pt"}, "lora", "suites/l.pt"),
        ("videomla-1.3b", {"weights": "random"}, "vae", "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"),
        ("process", {"file": "stream.py", **PROGRAM}, "file", "suites/stream.py"),
        ("process", {"file": "stream.py", "folder": ".", **PROGRAM}, "file", "stream.py"),
        ("command", {"argv": ["x"], "files": ["a.py"], **PROGRAM}, "files", ["suites/a.py"]),
    ],
)
def test_a_path_starts_from_the_suites_folder(
    here: Path, name: str, given: dict[str, Any], option: str, value: object
) -> None:
    assert options(here, name, given)[option] == value


def test_with_set_a_path_starts_from_the_current_folder(here: Path) -> None:
    changed = options(here, "toy/dense", {}, "models.a.options.weights=own.safetensors")
    assert changed["weights"] == "own.safetensors"
    changed = options(here, "process", {"file": "x.py", **PROGRAM}, "models.a.options.file=stream.py")
    assert changed["file"] == "stream.py"


def test_a_grid_of_paths_follows_the_rule(here: Path) -> None:
    assert options(here, "toy/dense", {}, grid={"weights": ["own.safetensors"]})["weights"] == "suites/own.safetensors"


def test_a_probe_of_a_checkpoint_follows_the_rule(here: Path) -> None:
    measure = [{"name": "m", "probe": "rank", "options": {"checkpoint": "own.pt", "lora": "org/name"}}]
    write(here / "suites", base(models=[], prompts={}, generate=[], measure=measure))
    loaded = load_suite(Path("suites/s.yaml")).measure[0].options
    assert (loaded["checkpoint"], loaded["lora"]) == ("suites/own.pt", "org/name")


def test_a_folder_that_could_be_a_hub_id_is_a_path_where_it_is(here: Path) -> None:
    (here / "suites/org/name").mkdir(parents=True)
    assert options(here, "videomla-1.3b", {"weights": "org/name"})["weights"] == "suites/org/name"
    (here / "suites/random").mkdir()
    assert options(here, "videomla-1.3b", {"weights": "random"})["weights"] == "random"
    (here / "mine/name").mkdir(parents=True)
    with pytest.raises(SuiteError, match="mine/name lies in the current folder, and a path starts from suites"):
        options(here, "videomla-1.3b", {"weights": "mine/name"})
    sets = ["models.a.options.weights=mine/name"]
    assert options(here, "videomla-1.3b", {"weights": "random"}, *sets)["weights"] == "mine/name"
