"""`harness env` and `harness fetch` as a user types them: what they say, the fix, and the exit code."""

import hashlib
import json
import sys

import pytest

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
