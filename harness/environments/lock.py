"""The committed locks: the packages of an environment of metrics, at exact versions."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from harness.errors import HarnessError, NotAvailable, nearest
from harness.system.digests import digest
from harness.system.platforms import SUPPORTED, described, here

FOLDER = Path(__file__).parent
STARTUP_VERSION = 1
"""Part of every lock's digest: raised when the start-up file changes what an environment computes."""

_PIN = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([A-Za-z0-9][A-Za-z0-9.!+_-]*)")


@dataclass(frozen=True, slots=True)
class Lock:
    """An environment before it is built.

    Attributes:
        name: as in `harness env build NAME`.
        path: the lock file.
        python: major and minor version of the interpreter that it was resolved for, as in `3.11`.
        imports: modules that must import once it is built.
        platforms: where every pin can be installed, by the names of `harness.system.platforms.SUPPORTED`.
        pins: exact version by normalised package name.
    """

    name: str
    path: Path
    python: str
    imports: tuple[str, ...]
    platforms: tuple[str, ...]
    pins: dict[str, str]

    @property
    def digest(self) -> str:
        """SHA-256 of interpreter, pins and start-up file. Comments and the order of lines do not count."""
        lines = [f"python {self.python}", f"startup {STARTUP_VERSION}"]
        lines += [f"{name}=={version}" for name, version in sorted(self.pins.items())]
        return digest("\n".join(lines))

    def require_platform(self) -> None:
        """Raise `NotAvailable` where a pin has nothing to install on this system."""
        if here() not in self.platforms:
            raise NotAvailable(
                f"environment {self.name!r} cannot be built on {described(here())}: a package of its lock has no wheel",
                f"use {' or '.join(map(described, self.platforms))}",
            )


def normalise(name: str) -> str:
    """A package name as pip compares it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def lock_names(folder: Path = FOLDER) -> list[str]:
    """Every environment that has a lock, sorted."""
    return sorted(path.stem for path in folder.glob("*.lock"))


def read_lock(name: str, folder: Path = FOLDER) -> Lock:
    """The lock of environment `name`. Raises `HarnessError` for an unknown name or a malformed line."""
    if name not in lock_names(folder):
        raise HarnessError(f"unknown environment {name!r}", nearest(name, lock_names(folder)))
    path = folder / f"{name}.lock"
    pins: dict[str, str] = {}
    header: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        line = line.strip()
        if line.startswith("#"):
            key, colon, value = line[1:].partition(":")
            if colon:
                header[key.strip()] = value.strip()
        elif line:
            match = _PIN.fullmatch(line)
            if match is None:
                raise HarnessError(f"{path.name}:{number}: {line!r} is not of the form name==version")
            package = normalise(match[1])
            if package in pins:
                raise HarnessError(f"{path.name}:{number}: {package} is pinned twice")
            pins[package] = match[2]
    if not re.fullmatch(r"3\.\d+", header.get("python", "")):
        raise HarnessError(f"{path.name}: no line '# python: 3.N'")
    platforms = tuple(header.get("platforms", " ".join(SUPPORTED)).split())
    if unsupported := [platform for platform in platforms if platform not in SUPPORTED]:
        raise HarnessError(f"{path.name}: unknown platform {unsupported[0]!r}", nearest(unsupported[0], SUPPORTED))
    return Lock(name, path, header["python"], tuple(header.get("imports", "").split()), platforms, pins)
