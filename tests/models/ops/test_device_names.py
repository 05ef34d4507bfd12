"""The device's name from the driver's files, and Triton's version from its source."""

from __future__ import annotations

import importlib.util
import re
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from videomla_models.ops import device, variants

ROOT = Path(__file__).parents[3]


def gpu(proc: Path, place: str, text: str) -> None:
    folder = proc / place
    folder.mkdir()
    (folder / "information").write_text(text)


def test_device_names_come_from_the_driver(tmp_path: Path) -> None:
    assert device.device_name("cpu", tmp_path) == "cpu"
    assert device.device_name("cuda", tmp_path) == "cuda"
    gpu(tmp_path, "0000:18:00.0", "Model: \t\t NVIDIA H200\nIRQ:   44\n")
    assert device.device_name("cuda:0", tmp_path) == "NVIDIA H200"
    gpu(tmp_path, "0000:19:00.0", "Model: \t\t NVIDIA H200\nIRQ:   45\n")
    assert device.device_name("cuda:1", tmp_path) == "NVIDIA H200"


@pytest.mark.parametrize("other", ["Model: NVIDIA T400\n", "Model: \nIRQ: 3\n", "IRQ: 3\n"])
def test_unlike_gpus_have_no_name(other: str, tmp_path: Path) -> None:
    """CUDA may number them in another order than the driver's files do."""
    gpu(tmp_path, "0000:18:00.0", "Model: NVIDIA H200\n")
    gpu(tmp_path, "0000:19:00.0", other)
    assert device.device_name("cuda:0", tmp_path) == device.UNNAMED


def test_a_driver_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "0000:18:00.0").mkdir()
    assert device.device_name("cuda", tmp_path) == device.UNNAMED


def test_columns_are_those_of_the_table() -> None:
    assert set(device.COLUMNS.values()) == set(variants.ARCHITECTURES)
    assert device.column("NVIDIA GH200 480GB") == 90
    assert device.column("Tesla T4") is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [("__version__ = '3.3.1'", "triton 3.3.1 is older than 3.7"),
     ('__version__ = "3.6.0+git1"', "triton 3.6.0+git1 is"), ("__version__ = '3.7.0'", ""),
     ("__version__ = '3.10.0'", ""), ("__version__ = '4.0.0'", ""), ("import os", "")],
)  # fmt: skip
def test_triton_by_its_version(text: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "__init__.py"
    source.write_text(f'"""isort:skip_file"""\n{text}\n')
    found = ModuleSpec("triton", None, origin=str(source))
    monkeypatch.setattr(device, "find_spec", lambda name: found)
    assert device.no_triton().startswith(reason)
    assert bool(device.no_triton()) == bool(reason)


def test_no_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "find_spec", lambda name: None)
    assert device.no_triton() == "triton is not installed"


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_the_version_read_is_that_of_the_module() -> None:
    import triton

    parts = triton.__version__.split(".")
    assert bool(device.no_triton()) == ((int(parts[0]), int(parts[1])) < device.LEAST_TRITON)


def test_the_oldest_triton_is_the_one_declared() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r'"triton>=(\d+)\.(\d+);', text)
    assert found
    assert (int(found[1]), int(found[2])) == device.LEAST_TRITON
