"""Build, check, list and remove the environments that metrics run in. A half-built one is never used."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.environments.lock import FOLDER, Lock, lock_names, normalise, read_lock
from harness.errors import HarnessError, NotAvailable
from harness.system.files import cache_folder, write_atomic

MARKER = "built.json"
"""Written last: a folder without it is half-built, and is never used."""

PIP_SETTINGS_DROPPED = ("PIP_CONSTRAINT", "PIP_REQUIREMENT", "PIP_TARGET", "PIP_PREFIX", "PIP_USER", "PIP_NO_DEPS")
"""pip's variables that would change what a lock installs; where it downloads from stays the user's choice."""

_LIST = """
import importlib.metadata as m, json, sys
print(json.dumps({"python": "%d.%d.%d" % sys.version_info[:3],
                  "packages": {d.metadata["Name"]: d.version for d in m.distributions() if d.metadata["Name"]}}))
"""

_IMPORT = """
import importlib, json, sys
faults = {}
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except BaseException as error:
        faults[name] = f"{type(error).__name__}: {error}"
sys.__stdout__.write("\\n" + json.dumps(faults))
"""


@dataclass(frozen=True, slots=True)
class Environment:
    """A built environment: `digest` of the lock it was built from, and the interpreter inside it."""

    name: str
    digest: str
    root: Path

    @property
    def python(self) -> Path:
        """The interpreter to start a worker with."""
        return self.root / "bin" / "python"


@dataclass(frozen=True, slots=True)
class EnvironmentRow:
    """A row of `harness env list`: `state` is `ready`, `not built`, `half-built` or `of an older lock`."""

    name: str
    digest: str
    state: str
    root: Path
    bytes: int


def folder_of(lock: Lock) -> Path:
    """The folder of a lock's environment. Its name holds the lock's digest, so a changed lock gets another folder."""
    return cache_folder() / "envs" / f"{lock.name}-{lock.digest[:12]}"


def find(name: str, folder: Path = FOLDER) -> Environment:
    """The built environment `name`. Raises `NotAvailable` with the command that builds it, or the system that can."""
    lock = read_lock(name, folder)
    root = folder_of(lock)
    if not _is_built(root, lock):
        lock.require_platform()
        raise NotAvailable(f"environment {name!r} is not built", f"type: harness env build {name}")
    return Environment(name, lock.digest, root)


def build(
    name: str, python: Path | None = None, log: Callable[[str], None] | None = None, folder: Path = FOLDER
) -> Environment:
    """Build environment `name` from its lock with venv and pip, unless it is built already.

    Args:
        name: a lock's name.
        python: the interpreter to build with; searched for when None.
        log: told each step in one line.
        folder: where the locks are.

    Raises:
        NotAvailable: no interpreter of the lock's version is here, or the lock is not for this system.
        HarnessError: pip failed, or the result does not pass `verify`; the message ends with the log's last lines.
    """
    lock = read_lock(name, folder)
    say = log or (lambda line: None)
    root = folder_of(lock)
    with _alone(root):
        if _is_built(root, lock):
            return Environment(name, lock.digest, root)
        lock.require_platform()
        if root.exists():
            say(f"removing the half-built {root}")
            shutil.rmtree(root)
        interpreter = find_python(lock, python)
        say(f"{name}: {interpreter} -m venv {root}")
        logfile = root.with_name(root.name + ".log")
        logfile.unlink(missing_ok=True)
        _step([str(interpreter), "-m", "venv", str(root)], logfile, name)
        for line, arguments in _pip_steps(lock):
            say(f"{name}: {line}")
            # Bytecode is left to the first import: compiling all 12,000 files would take longer than installing them.
            pip = [str(root / "bin" / "python"), "-m", "pip", "install", "--no-compile"]
            _step([*pip, *arguments], logfile, name)
        for site in (root / "lib").glob("python*/site-packages"):
            shutil.copyfile(FOLDER / "startup.py", site / "videomla_startup.py")
            (site / "videomla_startup.pth").write_text("import videomla_startup; videomla_startup.install()\n")
        environment = Environment(name, lock.digest, root)
        say(f"{name}: importing {', '.join(lock.imports)}")
        faults = _faults(environment, lock)
        if faults:
            raise HarnessError(f"environment {name!r} does not pass its check: {faults[0]}", f"the log: {logfile}")
        marker = {"digest": lock.digest, **_listing(environment)}
        write_atomic(root / MARKER, json.dumps(marker, indent=1))
    return environment


def verify(name: str, folder: Path = FOLDER) -> list[str]:
    """What is wrong with the built environment `name`, a line each; empty when every pin and import holds."""
    return _faults(find(name, folder), read_lock(name, folder))


def listing(folder: Path = FOLDER) -> list[EnvironmentRow]:
    """Every environment that has a lock, and every folder left of an older lock."""
    rows = []
    current = set()
    for name in lock_names(folder):
        lock = read_lock(name, folder)
        root = folder_of(lock)
        current.add(root.name)
        state = "ready" if _is_built(root, lock) else "half-built" if root.exists() else "not built"
        rows.append(EnvironmentRow(name, lock.digest[:12], state, root, _size(root)))
    for root in sorted((cache_folder() / "envs").glob("*/")):
        if root.name not in current:
            name, _, digest = root.name.rpartition("-")
            rows.append(EnvironmentRow(name, digest, "of an older lock", root, _size(root)))
    return rows


def remove(name: str, folder: Path = FOLDER) -> list[Path]:
    """Delete every built or half-built environment of this name, older locks included. Returns their folders."""
    read_lock(name, folder)
    removed = []
    for row in listing(folder):
        if row.name == name and row.root.is_dir():
            with _alone(row.root):
                shutil.rmtree(row.root)
            removed.append(row.root)
    return removed


def find_python(lock: Lock, interpreter: Path | None = None) -> Path:
    """An interpreter of the lock's version. Raises `NotAvailable` where there is none."""
    candidates = [interpreter] if interpreter else [Path(sys.executable)]
    if interpreter is None and (on_path := shutil.which(f"python{lock.python}")):
        candidates.append(Path(on_path))
    rejected = []
    for candidate in candidates:
        version = _version(candidate)
        if version == lock.python:
            return candidate
        rejected.append(f"{candidate} is {version or 'no Python'}")
    raise NotAvailable(
        f"environment {lock.name!r} needs Python {lock.python} ({'; '.join(rejected)})",
        f"type: harness env build {lock.name} --python PATH_OF_A_PYTHON_{lock.python}",
    )


def _version(python: Path) -> str:
    try:
        process = _run(python, 60, "import sys; print('%d.%d' % sys.version_info[:2])")
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return process.stdout.strip() if process.returncode == 0 else ""


def _run(python: Path, seconds: float, code: str, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run `code` by an interpreter that sees neither this process's modules (-I) nor the user's."""
    return subprocess.run(
        [str(python), "-I", "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
        env={**os.environ, **settings},
    )


def _pip_steps(lock: Lock) -> Iterator[tuple[str, list[str]]]:
    tools = [f"{name}=={lock.pins[name]}" for name in ("setuptools", "wheel") if name in lock.pins]
    if tools:
        yield f"pip install {' '.join(tools)}", ["--no-deps", *tools]
    if "torch" in lock.pins:
        # A CUDA build of torch pins its own libraries exactly and needs them; a CPU build needs none.
        torch = f"torch=={lock.pins['torch']}"
        yield f"pip install {torch}", ["-c", str(lock.path), torch]
    yield f"pip install {len(lock.pins)} locked packages", ["--no-deps", "--no-build-isolation", "-r", str(lock.path)]


def _step(command: list[str], logfile: Path, name: str) -> None:
    logfile.parent.mkdir(parents=True, exist_ok=True)
    settings = {key: value for key, value in os.environ.items() if key not in PIP_SETTINGS_DROPPED}
    settings |= {"PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    # Of the environment that this process runs in, whose packages must not be taken for the new one's.
    for key in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__"):
        settings.pop(key, None)
    with logfile.open("ab") as log:
        log.write(f"$ {' '.join(command)}\n".encode())
        log.flush()
        try:
            code = subprocess.run(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=settings, check=False
            ).returncode
        except OSError as error:
            raise HarnessError(f"environment {name!r}: cannot start {command[0]}: {error}") from error
    if code:
        tail = logfile.read_text(encoding="utf-8", errors="replace").splitlines()[-12:]
        raise HarnessError(
            f"environment {name!r}: {' '.join(command[1:4])} … failed (exit status {code}):\n" + "\n".join(tail),
            f"the whole log: {logfile}",
        )


def _listing(environment: Environment) -> dict[str, object]:
    process = _run(environment.python, 120, _LIST)
    if process.returncode:
        raise HarnessError(
            f"environment {environment.name!r}: its Python does not start: {process.stderr.strip()[-300:]}"
        )
    contents: dict[str, object] = json.loads(process.stdout)
    return contents


def _faults(environment: Environment, lock: Lock) -> list[str]:
    packages = _listing(environment)["packages"]
    assert isinstance(packages, dict)
    installed = {normalise(name): str(version) for name, version in packages.items()}
    faults = []
    for name, version in sorted(lock.pins.items()):
        version_here = installed.get(name)
        if version_here is None:
            faults.append(f"{name} is not installed, the lock says {version}")
        # Behind the plus stands the build (`+cpu`), which the index decides.
        elif version_here.split("+")[0] != version.split("+")[0]:
            faults.append(f"{name} is {version_here}, the lock says {version}")
    if not faults and lock.imports:
        faults += _import_faults(environment, lock)
    return faults


def _import_faults(environment: Environment, lock: Lock) -> list[str]:
    process = _run(environment.python, 600, _IMPORT, *lock.imports, HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
    if process.returncode:
        return [f"Python ended with {process.returncode} while importing: {process.stderr.strip()[-300:]}"]
    # The last line alone: packages print while they are imported.
    faults = json.loads(process.stdout.splitlines()[-1])
    return [f"import {name}: {fault}" for name, fault in faults.items()]


def _is_built(root: Path, lock: Lock) -> bool:
    try:
        marker = json.loads((root / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return marker.get("digest") == lock.digest and (root / "bin" / "python").exists()


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Hold the lock file of `root`, so that two builders of one environment take turns."""
    root.parent.mkdir(parents=True, exist_ok=True)
    # The system lets go of the lock when its holder dies. The file stays: one who waits would otherwise hold a deleted
    # file, and the next a new one, both at once.
    with root.with_name(root.name + ".busy").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _size(root: Path) -> int:
    return sum(path.lstat().st_size for path in root.rglob("*") if path.is_file()) if root.is_dir() else 0
