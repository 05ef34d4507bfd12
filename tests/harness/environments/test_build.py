"""Environments: locks are exact, builds come out of them alone, and a half-built one is never used."""

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from harness.environments import build as envs
from harness.environments.lock import lock_names, read_lock
from harness.errors import HarnessError, NotAvailable
from harness.system.files import cache_folder

VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"


def write_lock(folder: Path, name: str, *pins: str, python: str = VERSION, imports: str = "") -> None:
    folder.mkdir(exist_ok=True)
    lines = [f"# python: {python}", f"# imports: {imports}", *pins]
    (folder / f"{name}.lock").write_text("\n".join(lines) + "\n")


def write_wheel(folder: Path, name: str, version: str, source: str = "", needs: str = "") -> None:
    folder.mkdir(exist_ok=True)
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": source,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n" + needs,
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in files) + f"{info}/RECORD,,\n"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        for path, text in {**files, f"{info}/RECORD": record}.items():
            wheel.writestr(path, text)


@pytest.fixture
def offline(tmp_path, monkeypatch):
    monkeypatch.setenv("VIDEOMLA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    monkeypatch.setenv("PIP_CONSTRAINT", str(tmp_path / "missing.txt"))
    return tmp_path


@pytest.mark.parametrize("name", ["vbench", "quality"])
def test_the_committed_locks_are_exact(name):
    lock = read_lock(name)
    assert lock.python == "3.11"
    assert lock.pins["torch"] == "2.13.0"
    assert {"av", "numpy", "pillow", "torchvision"} <= set(lock.pins)
    assert not any(package.startswith(("nvidia-", "cuda")) for package in lock.pins)


def test_the_locks_hold_the_packages_that_they_are_for():
    assert lock_names() == ["quality", "vbench"]
    assert read_lock("vbench").pins["vbench"] == "0.1.5"
    quality = read_lock("quality").pins
    assert (quality["open-clip-torch"], quality["hpsv3"], quality["transformers"]) == ("3.3.0", "1.0.0", "4.45.2")


def test_the_digest_follows_what_the_lock_says_and_not_how(tmp_path):
    write_lock(tmp_path, "a", "x==1.0", "y_z==2.0")
    write_lock(tmp_path, "b", "# a comment", "Y-z==2.0", "", "X==1.0")
    write_lock(tmp_path, "c", "x==1.0", "y_z==2.1")
    write_lock(tmp_path, "d", "x==1.0", "y_z==2.0", python="3.10")
    first, second, third, fourth = (read_lock(name, tmp_path).digest for name in "abcd")
    assert first == second
    assert len({first, third, fourth}) == 3


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("torch>=2", "bad.lock:3: 'torch>=2' is not of the form name==version"),
        ("x==1\nX==2", "bad.lock:4: x is pinned twice"),
        ("-r other.txt", "not of the form"),
        ("x @ file:///etc/passwd", "not of the form"),
    ],
)
def test_a_lock_line_that_is_no_exact_version_is_refused(tmp_path, line, says):
    write_lock(tmp_path, "bad", line)
    with pytest.raises(HarnessError, match=says.replace("(", r"\(")):
        read_lock("bad", tmp_path)


def test_an_unknown_environment_is_answered_with_the_nearest():
    with pytest.raises(HarnessError, match="did you mean vbench"):
        envs.find("vbenhc")


def test_build_verify_list_remove(offline):
    locks, wheels = offline / "locks", offline / "wheels"
    write_lock(locks, "tiny", "tinything==1.0", imports="tinything")
    write_wheel(wheels, "tinything", "1.0", "answer = 42", needs="Requires-Dist: not-anywhere\n")

    with pytest.raises(NotAvailable, match="harness env build tiny"):
        envs.find("tiny", locks)
    half = envs.folder_of(read_lock("tiny", locks))
    half.mkdir(parents=True)
    (half / "left-over").touch()
    assert [row.state for row in envs.listing(locks)] == ["half-built"]
    with pytest.raises(NotAvailable):
        envs.find("tiny", locks)

    said: list[str] = []
    built = envs.build("tiny", log=said.append, folder=locks)
    assert not (half / "left-over").exists()
    assert any("venv" in line for line in said)
    out = subprocess.run([built.python, "-c", "import tinything as t; print(t.answer)"], capture_output=True, text=True)
    assert out.stdout.strip() == "42"
    assert envs.find("tiny", locks) == built
    assert json.loads((built.root / envs.MARKER).read_text())["packages"]["tinything"] == "1.0"
    assert envs.verify("tiny", locks) == []
    said.clear()
    assert envs.build("tiny", log=said.append, folder=locks) == built
    assert said == []

    site = next(built.root.glob("lib/python*/site-packages"))
    (site / "tinything.py").write_text("raise OSError('broken')")
    assert envs.verify("tiny", locks) == ["import tinything: OSError: broken"]
    shutil.rmtree(site / "tinything-1.0.dist-info")
    assert envs.verify("tiny", locks) == ["tinything is not installed, the lock says 1.0"]

    write_lock(locks, "tiny", "tinything==1.1", imports="tinything")
    assert {row.state for row in envs.listing(locks)} == {"not built", "of an older lock"}
    with pytest.raises(HarnessError, match=r"failed \(exit status 1\):(.|\n)*tinything==1.1(.|\n)*the whole log"):
        envs.build("tiny", folder=locks)
    with pytest.raises(NotAvailable):
        envs.find("tiny", locks)
    assert len(envs.remove("tiny", locks)) == 2
    assert not list((cache_folder() / "envs").glob("tiny-*/"))


def test_a_lock_for_another_python_says_what_to_type(offline):
    write_lock(offline / "locks", "old", python="3.1")
    with pytest.raises(NotAvailable, match=r"needs Python 3.1 .*is 3\.\d+(.|\n)*--python"):
        envs.build("old", folder=offline / "locks")
    with pytest.raises(NotAvailable, match="is no Python"):
        envs.build("old", python=Path("/etc/hostname"), folder=offline / "locks")
    assert envs.listing(offline / "locks")[0].state == "not built"


def test_a_marker_of_another_lock_does_not_count(offline):
    locks = offline / "locks"
    write_lock(locks, "tiny")
    root = envs.folder_of(read_lock("tiny", locks))
    (root / "bin").mkdir(parents=True)
    (root / "bin" / "python").symlink_to(sys.executable)
    (root / envs.MARKER).write_text(json.dumps({"digest": "0" * 64}))
    with pytest.raises(NotAvailable):
        envs.find("tiny", locks)
    (root / envs.MARKER).write_text("{ torn")
    with pytest.raises(NotAvailable):
        envs.find("tiny", locks)
