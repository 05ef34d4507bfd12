"""Where the project runs, and what it says on systems that lack something."""

from __future__ import annotations

import json
import os
import platform
import re
import resource
import select
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from road import write

from harness.cli import main
from harness.environments import build
from harness.environments.lock import lock_names, read_lock
from harness.environments.worker import program
from harness.environments.worker.client import Limits
from harness.errors import HarnessError, NotAvailable, OptionError
from harness.system import devices, platforms

ROOT = Path(__file__).parents[3]
PINS = {
    line.partition("==")[0]: Requirement(line)
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if not line.startswith("#")
}


def pretend(monkeypatch: pytest.MonkeyPatch, system: str, machine: str) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "machine", lambda: machine)


# --------------------------------------------------------------------------------------------- the pins


def test_the_pinned_triton_is_the_one_that_the_pinned_torch_requires() -> None:
    """By the Requires-Dist of torch's public wheels for Linux, which a local build without CUDA does not carry."""
    (torch,) = PINS["torch"].specifier
    release = ".".join(torch.version.split(".")[:2])
    assert (release, str(PINS["triton"].specifier)) == ("2.13", "==3.7.1")
    assert platforms.TRITON_OF_TORCH[release] == "3.7.1"


@pytest.mark.parametrize("system", ["linux", "darwin"])
def test_whatever_the_project_asks_for_is_pinned_to_a_version_that_it_takes(system: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"]
    groups = [project["project"]["dependencies"], *extras.values(), *project["dependency-groups"].values()]
    environment = {"sys_platform": system}
    for text in [line for group in groups for line in group]:
        asked = Requirement(text)
        if asked.marker is None or asked.marker.evaluate(environment):
            pinned = PINS[re.sub(r"[-_.]+", "-", asked.name).lower()]
            assert pinned.marker is None or pinned.marker.evaluate(environment), text
            (version,) = pinned.specifier
            assert (version.operator, asked.specifier.contains(version.version)) == ("==", True), text


# --------------------------------------------------------------------------------------------- Windows


@pytest.mark.parametrize("system", ["win32", "cygwin"])
@pytest.mark.parametrize("arguments", [["doctor"], ["run", "suites/quickstart.yaml"], ["--help"]])
def test_windows_is_refused_in_one_line(
    system: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    with pytest.raises(SystemExit) as ended:
        main.main(arguments)
    printed = capsys.readouterr()
    assert (ended.value.code, printed.out) == (2, "")
    assert printed.err == "error: Windows is not supported; run it inside WSL2 (wsl --install), as on Linux\n"


def test_the_refusal_needs_no_module_that_windows_lacks() -> None:
    absent = ("fcntl", "resource", "pwd", "grp", "termios")
    blocked = f"import sys; sys.modules |= dict.fromkeys({absent})"
    code = f"{blocked}; from harness.cli.main import main; sys.platform = 'win32'; main()"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    assert "WSL2" in done.stderr
    assert len(done.stderr.splitlines()) == 1


# ----------------------------------------------------------------------------------------------- macOS

MACOS = """
import platform, sys
import harness.probes.batch_scaling, torch, urllib.request
sys.platform = "darwin"
platform.machine = lambda: "arm64"
"""
SUITE = {
    "suite": "budgets",
    "incomplete": "mark",
    "models": [{"name": "toy/videomla", "label": "latent", "options": {"weights": "random"}}],
    "prompts": {"p": ["a red circle moves slowly to the left on a navy background"]},
    "measure": [
        {"name": "fit", "probe": "batch_scaling", "options": {"budget_bytes": 1 << 30}, "prompts": "p", "frames": 21}
    ],
    "tables": [{"name": "fit", "columns": [{"value": "fit:largest_batch"}]}],
}


def test_a_memory_budget_is_not_available_on_macos(tmp_path: Path) -> None:
    """The whole road in processes of their own, which take themselves for macOS once their modules are imported."""
    (tmp_path / "macos.py").write_text(MACOS, encoding="utf-8")
    out = tmp_path / "run"
    command = ["run", str(write(tmp_path, SUITE)), "--plugin", str(tmp_path / "macos.py"), "--set", "device=cpu"]
    done = subprocess.run(
        [sys.executable, "-m", "harness", *command, "--out", str(out)],
        cwd=tmp_path, capture_output=True, text=True, timeout=300, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    (record,) = [json.loads(line) for line in (out / "records.jsonl").read_text(encoding="utf-8").splitlines()]
    assert record["status"] == "skipped", done.stderr
    reason = "a memory budget on a CPU needs Linux (RLIMIT_DATA); macOS 14 or newer on Apple silicon enforces none"
    assert record["notes"] == {"reason": reason, "fix": "run batch scaling on Linux, or on CUDA"}
    assert f"not available: {reason}" in (out / "tables" / "fit.md").read_text(encoding="utf-8")


def test_a_workers_memory_limit_is_refused_where_it_would_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDEOMLA_WORKER_MEMORY", "2")
    assert Limits().with_user_settings().memory == 2e9
    pretend(monkeypatch, "darwin", "arm64")
    with pytest.raises(OptionError, match="VIDEOMLA_WORKER_MEMORY needs Linux"):
        Limits().with_user_settings()
    monkeypatch.delenv("VIDEOMLA_WORKER_MEMORY")
    assert Limits().with_user_settings() == Limits()


def test_a_workers_peak_is_in_bytes_on_macos_too(monkeypatch: pytest.MonkeyPatch) -> None:
    assert program.memory()["peak"] > 1 << 20
    monkeypatch.setattr(sys, "platform", "darwin")
    # Linux gives KiB here, macOS bytes.
    assert program.memory() == {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}


CHILD = """
import os, platform, sys, time
from harness.system import devices
sys.platform = sys.argv[1]
devices.end_with_parent(os.getppid())
print(os.getpid(), flush=True)
time.sleep(600)
"""
PARENT = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1], sys.argv[2]])"


LINUX = pytest.param("linux", marks=pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's"))


@pytest.mark.parametrize("system", [LINUX, "darwin"])
def test_a_measuring_process_dies_with_the_one_that_started_it(system: str) -> None:
    command = [sys.executable, "-c", PARENT, CHILD, system]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
        # The pipe ends when the child, which holds it too, is gone.
        ended, _, _ = select.select([parent.stdout], [], [], 30)
        if not ended:
            os.kill(pid, signal.SIGKILL)
        assert ended
        assert parent.stdout.read() == b""


def test_a_mac_is_known_by_its_chip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By `sysctl`, whose place a program with its answer takes here: records of two chips are told apart."""
    sysctl = tmp_path / "sysctl"
    sysctl.write_text('#!/bin/sh\n[ "$*" = "-n machdep.cpu.brand_string" ] && echo "Apple M4 Max"\n', encoding="utf-8")
    sysctl.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    pretend(monkeypatch, "darwin", "arm64")
    devices._cpu_name.cache_clear()
    try:
        assert devices.describe("cpu")["name"] == "Apple M4 Max"
    finally:
        devices._cpu_name.cache_clear()


@pytest.mark.parametrize(
    ("cpuinfo", "name"),
    [
        ("processor\t: 0\nmodel name\t: Intel(R) Xeon(R) Processor\n", "Intel(R) Xeon(R) Processor"),
        ("processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd4f\n", "ARM implementer 0x41 part 0xd4f"),
        ("processor\t: 0\n", ""),
    ],
)
def test_the_processors_name(cpuinfo: str, name: str) -> None:
    assert devices.cpu_name_in(cpuinfo) == name


# ------------------------------------------------------------------------------------- systems and locks


@pytest.mark.parametrize(
    ("system", "machine", "name"),
    [("linux", "x86_64", "Linux x86-64"), ("linux", "aarch64", "Linux aarch64"),
     ("darwin", "arm64", "macOS 14 or newer on Apple silicon"), ("darwin", "x86_64", "macos-x86_64")],
)  # fmt: skip
def test_doctor_names_the_system(
    system: str, machine: str, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import psutil  # noqa: F401 (it looks at the system when it is imported)

    pretend(monkeypatch, system, machine)
    with pytest.raises(SystemExit):
        main.main(["doctor"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{'ok' if name[0].isupper() or name.startswith('macOS') else 'not here':9} system: {name}"
    assert any("triton:" in line for line in lines) == (system == "linux")


@pytest.mark.parametrize("name", lock_names())
def test_an_environment_is_refused_where_its_lock_cannot_be_installed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIDEOMLA_CACHE", str(tmp_path))
    lock = read_lock(name)
    assert set(lock.platforms) <= set(platforms.SUPPORTED)
    assert ("macos-arm64" in lock.platforms) == ("decord" not in lock.pins)
    pretend(monkeypatch, "darwin", "arm64")
    if "decord" in lock.pins:
        for act in (build.find, build.build):
            with pytest.raises(NotAvailable, match="cannot be built on macOS 14") as refused:
                act(name)
            assert refused.value.fix == "use Linux x86-64"
    else:
        with pytest.raises(NotAvailable, match="is not built"):
            build.find(name)


def test_a_lock_for_a_system_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.lock").write_text("# python: 3.11\n# platforms: linux-x86_64 macos-arm\n", encoding="utf-8")
    with pytest.raises(HarnessError, match="unknown platform 'macos-arm'") as refused:
        read_lock("a", tmp_path)
    assert "macos-arm64" in refused.value.fix
