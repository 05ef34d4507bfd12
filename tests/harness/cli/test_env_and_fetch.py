"""`harness doctor`, `env` and `fetch` as a user types them: what they say, the fix, and the exit code."""

import hashlib
import json
import re
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from road import FAKES
from typed_commands import Harness

from harness.cli.main import main
from harness.environments.build import MARKER, folder_of
from harness.environments.lock import read_lock
from harness.environments.weights.manifest import read_manifest


@pytest.fixture
def type_in(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VIDEOMLA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("VIDEOMLA_WEIGHTS", str(tmp_path / "weights"))

    def call(line: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            main(line.split())
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out + said.err

    return call


def test_environments_are_listed_verified_and_removed(type_in):
    code, said = type_in("env list")
    assert code == 0
    assert said.count("not built") == 2
    root = folder_of(read_lock("vbench"))
    (root / "bin").mkdir(parents=True)
    assert "half-built" in type_in("env list")[1]
    code, said = type_in("env verify vbench")
    assert code == 1
    assert "type: harness env build vbench" in said
    (root / "bin" / "python").symlink_to(sys.executable)
    (root / MARKER).write_text(json.dumps({"digest": read_lock("vbench").digest, "packages": {}}))
    assert "ready" in type_in("env list")[1]
    code, said = type_in("env verify vbench")
    assert code == 1
    assert "vbench is not installed, the lock says 0.1.5" in said
    assert f"removed {root}" in type_in("env remove vbench")[1]
    assert type_in("env remove vbench") == (0, "vbench is not built\n")


@pytest.mark.parametrize("verb", ["build", "verify", "remove"])
def test_an_unknown_environment_is_bad_input(type_in, verb):
    code, said = type_in(f"env {verb} vbenhc")
    assert code == 2
    assert "did you mean vbench" in said


def test_an_interpreter_of_another_version_is_refused(type_in):
    code, said = type_in("env build vbench --python /bin/false")
    assert code == 1
    assert "needs Python 3.11" in said
    assert "--python" in said


def test_weights_are_listed_with_size_licence_and_state(type_in):
    code, said = type_in("fetch")
    assert code == 0
    assert "about 354 MB" in said
    assert "4,071 bytes" in said
    assert "missing; only with --with amt" in said


def test_files_of_ones_own_are_checked_and_taken(type_in, tmp_path, monkeypatch):
    mine = tmp_path / "mine"
    mine.mkdir()
    path = "dino_model/dino_vitbase16_pretrain.pth"
    (mine / "dino_vitbase16_pretrain.pth").write_bytes(b"weights")
    code, said = type_in(f"fetch vbench --only subject_consistency --from {mine}")
    assert code == 1
    assert "lacks 3 of 4 files" in said
    folder = read_manifest().get("vbench").folder
    assert hashlib.sha256((folder / path).read_bytes()).digest() == hashlib.sha256(b"weights").digest()
    assert (folder / "torch/hub/checkpoints/dino_vitbase16_pretrain.pth").read_bytes() == b"weights"
    (mine / "hubconf.py").write_text("another file of that name")
    code, said = type_in(f"fetch vbench --only subject_consistency --from {mine}")
    assert code == 2
    assert "hubconf.py has 25 bytes" in said
    assert not (folder / "dino_model/facebookresearch_dino_main/hubconf.py").exists()


def test_a_check_of_weights_that_are_not_here_does_not_say_that_all_is_well(type_in):
    code, said = type_in("fetch vbench --check --only aesthetic_quality")
    assert code == 3
    assert "vbench: 2 of 2 files are not here: clip_model/ViT-L-14.pt" in said
    assert "as published" not in said
    folder = read_manifest().get("vbench").folder
    (folder / "clip_model").mkdir(parents=True)
    (folder / "clip_model/ViT-L-14.pt").write_bytes(b"weights")
    code, said = type_in("fetch vbench --check --only aesthetic_quality")
    assert code == 1
    assert "1 of 2 files are not here: aesthetic_model" in said


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("fetch vbench --check --only colour", "did you mean color"),
        ("fetch vbench --check --from .", "takes no --from"),
        ("fetch vbemch", "did you mean vbench"),
        ("fetch vbench --only colour", "did you mean color"),
        ("fetch vbench --with atm", "did you mean amt"),
        ("fetch --check", "name the weights to fetch"),
    ],
)
def test_a_wrong_name_is_bad_input(type_in, line, says):
    code, said = type_in(line)
    assert code == 2
    assert says in said


def test_doctor(harness: Harness, tmp_path: Path) -> None:
    found = harness("doctor", "--plugin", str(FAKES))
    for name in ("python", "torch", "device", "run folder", "video"):
        assert re.search(rf"^ok +{name}: ", found.out, re.MULTILINE)
    assert re.search(r"^not here +metric fake/unavailable: .*\n +harness env build backbone", found.out, re.MULTILINE)
    assert found.code == 0
    assert not (tmp_path / "runs").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="Triton is for Linux")
@pytest.mark.parametrize(
    ("torch", "triton", "cuda", "says"),
    [
        ("2.13.0+cpu", "3.7.1", False, "ok        triton: 3.7.1\n"),
        ("2.13.0+cpu", "3.9.0", False, "ok        triton: 3.9.0; on a GPU torch 2.13.0 runs 3.7.1\n"),
        ("2.13.0", "3.9.0", True, "MISSING   triton: 3.9.0; on a GPU torch 2.13.0 runs 3.7.1\n"),
        ("2.14.1", "3.8.0", True, "ok        triton: 3.8.0\n"),
        ("2.99.0", "3.9.0", True, "ok        triton: 3.9.0; the kernels were compiled with those of torch 2.13"),
    ],
)
def test_doctor_names_the_triton_that_a_gpu_runs(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, torch: str, triton: str, cuda: bool, says: str
) -> None:
    installed = {"torch": torch, "triton": triton}
    monkeypatch.setattr("harness.cli.doctor.version", lambda name: installed.get(name) or version(name))
    monkeypatch.setattr("harness.cli.doctor.devices.torch_has_cuda", lambda: cuda)
    found = harness("doctor")
    assert says in found.out
    assert found.code == int(says.startswith("MISSING"))
    assert ("pip install -c constraints.txt torch triton" in found.out) == bool(found.code)


@pytest.mark.parametrize(("devices", "mark"), [(0, "ok"), (1, "not here")])
def test_doctor_says_where_a_gpus_clocks_could_not_be_read(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, devices: int, mark: str
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setattr("harness.cli.doctor.devices.cuda_devices", lambda: devices)
    monkeypatch.setattr(
        "harness.cli.doctor.devices.describe", lambda kind: {"name": "x", "cores": 1, "memory_bytes": 0}
    )
    found = harness("doctor")
    assert re.search(rf"^{mark} +nvml: ", found.out, re.MULTILINE)
    assert ("pip install -c constraints.txt nvidia-ml-py" in found.out) == bool(devices)
    assert found.code == 0
