"""Plug-in files import what lies beside them, whatever it is called, and those that exist keep their imports."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
MODEL = """\
from collections.abc import Iterator
import numpy as np
from harness.contracts import Frames, ModelCard, Request, VideoModel, no_spans
from harness.registry import models
from models.{net} import SIZE


@models.register("{name}")
class Mine(VideoModel):
    def describe(self):
        return ModelCard(family="mine", height=SIZE, width=SIZE, frame_rate=8.0, frames_per_chunk=4)

    def stream(self, request, spans=no_spans):
        from models.{net} import frames

        for start in range(0, request.frames, 4):
            yield frames(request, start, min(4, request.frames - start))
"""
NET = """\
from zlib import crc32

import numpy as np

SIZE = 8


def frames(request, start, count):
    texts = [crc32(request.prompt(clip, start).encode()) for clip in range(request.batch)]
    draws = [np.random.default_rng([start, *each]) for each in zip(request.seeds, texts)]
    return np.stack([draw.integers(0, 256, (count, SIZE, SIZE, 3), np.uint8) for draw in draws])
"""
COMMAND = ("-c", "from harness.cli.main import main; main()")


def write(folder: Path, name: str, net: str) -> Path:
    """A plug-in file and a package `models` beside it."""
    (folder / "models").mkdir(parents=True)
    (folder / "models/__init__.py").write_text("")
    (folder / f"models/{net}.py").write_text(NET)
    plugin = folder / "mine.py"
    plugin.write_text(MODEL.format(name=name, net=net))
    return plugin


def python(folder: Path, *arguments: str | Path, path: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [path, os.environ.get("PYTHONPATH")]))}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("start", [COMMAND, ("-m", "harness")], ids=["script", "module"])
@pytest.mark.parametrize("clone", ["", str(ROOT)], ids=["installed", "clone"])
def test_a_package_called_models_beside_a_plugin_hides_nothing(
    tmp_path: Path, start: tuple[str, ...], clone: str
) -> None:
    plugin = write(tmp_path / "lab", "lab/mine", "mynet")
    for folder in (plugin.parent, tmp_path):
        listed = python(folder, *start, "list", "models", "--plugin", plugin, path=clone)
        assert listed.returncode == 0, listed.stderr
        assert "cannot be imported" not in listed.stdout
        assert {"lab/mine", "toy/dense", "videomla-1.3b", "command"} <= {
            line.split()[0] for line in listed.stdout.splitlines()
        }
    checked = python(tmp_path, *start, "check", "lab/mine", "--plugin", plugin, path=clone)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_two_packages_of_one_name_are_named_with_the_remedy(tmp_path: Path) -> None:
    one, two = write(tmp_path / "one", "lab/one", "first"), write(tmp_path / "two", "lab/two", "second")
    listed = python(tmp_path, *COMMAND, "list", "models", "--plugin", one, "--plugin", two)
    assert listed.returncode == 2
    error, fix = listed.stderr.splitlines()
    assert "No module named 'models.second'" in error
    assert str(tmp_path / "one/models/__init__.py") in fix
    assert f"give {tmp_path / 'two/models'} another name" in fix


def test_a_missing_package_is_no_clash(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import nowhere_to_be_found\n")
    listed = python(tmp_path, *COMMAND, "list", "models", "--plugin", "mine.py")
    assert (listed.returncode, len(listed.stderr.splitlines())) == (2, 1)


@pytest.mark.parametrize(
    "code",
    [
        "from harness.registry import load_plugin, metrics, models, probes; from harness.contracts import registry; "
        "assert models is registry.models",
        "from harness.check import check_model; from harness import testing; assert check_model is testing.check_model",
        "import harness.registry; assert harness.registry.models.kind == 'model'",
        "import harness, inspect, sys; inspect.getmodule(sys._getframe()); inspect.stack(); "
        "[getattr(m, '__file__', None) for m in list(sys.modules.values())]; assert 'numpy' not in sys.modules",
    ],
)
def test_plugins_that_exist_keep_their_imports(tmp_path: Path, code: str) -> None:
    done = python(tmp_path, "-c", code)
    assert done.returncode == 0, done.stderr
