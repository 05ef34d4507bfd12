"""Every supported platform can install what `constraints.txt` pins: python tests/check_resolve.py, from anywhere.

Resolves the project with every extra, the tools that the tests need and every environment's lock against uv's default
index alone, whatever indexes, local wheels and constraints this machine is set up with, and exits 1 where one cannot
be. Nothing is installed or built. `--write` makes `constraints.txt` anew instead: versions that it holds stay, except
those of `--upgrade-package NAME`.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from harness.environments.lock import Lock, lock_names, normalise, read_lock  # noqa: E402 (the project is not installed here)
from harness.system.platforms import SUPPORTED, TRITON_OF_TORCH  # noqa: E402

CONSTRAINTS = ROOT / "constraints.txt"
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
TARGETS = {
    "linux-x86_64": "x86_64-manylinux_2_28",
    "linux-aarch64": "aarch64-manylinux_2_28",
    "macos-arm64": "aarch64-apple-darwin",
}
"""uv's name of each supported platform. Public wheels of torch ask for glibc 2.28 and for macOS 14."""
TIMEOUT_S = 180
"""Longest that one resolution may take; one of the whole project takes some ten seconds with an empty cache."""
PROJECT = ("pyproject.toml", "--all-extras", "--group", "tools")
LOCK = (
    *PROJECT, "--universal", "--python-version", PYTHONS[0], "--fork-strategy", "fewest", "--no-annotate",
    "--custom-compile-command", "tox -e lock",
)  # fmt: skip
"""What makes `constraints.txt`: one version of each package for all platforms and Pythons, wherever there is one."""


@dataclass(frozen=True)
class Check:
    """One resolution: its name, arguments, what stands on standard input, and pins that its answer must keep to."""

    name: str
    arguments: tuple[str, ...]
    requirements: str = ""
    pins: dict[str, set[str]] | None = None


def uv(*arguments: str, requirements: str = "") -> subprocess.CompletedProcess[str]:
    """`uv pip compile` without this machine's configuration. Raises `subprocess.TimeoutExpired`."""
    program = shutil.which("uv")
    if program is None:
        sys.exit("uv is not installed; run: tox -e resolve")
    kept = {name: value for name, value in os.environ.items() if not re.match(r"(UV|PIP)_(?!CACHE_DIR$)", name)}
    kept |= {"MACOSX_DEPLOYMENT_TARGET": "14.0", "UV_HTTP_TIMEOUT": "30"}
    return subprocess.run(
        [program, "pip", "compile", "--no-config", "--quiet", "--no-progress", "--python", sys.executable, *arguments],
        cwd=ROOT,
        env=kept,
        input=requirements,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def read_pins(text: str) -> dict[str, set[str]]:
    """Versions by normalised package name; several where a package's version depends on the platform."""
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([A-Za-z0-9][\w.-]*)==([^\s;]+)", text, re.MULTILINE):
        found.setdefault(normalise(name), set()).add(version)
    return found


def checks(constraints: Path) -> Iterator[Check]:
    """Everything that must resolve."""
    pins = read_pins(constraints.read_text(encoding="utf-8"))
    for platform, target in TARGETS.items():
        for python in PYTHONS:
            where = ("--python-platform", target, "--python-version", python, "--only-binary", ":all:")
            yield Check(
                f"project, extras and tools: {SUPPORTED[platform]}, Python {python}",
                (*PROJECT, *where, "--constraints", str(constraints)),
                pins=pins,
            )
    for lock in map(read_lock, lock_names()):
        for platform in lock.platforms:
            yield from _of_lock(lock, platform)
    for release, triton in TRITON_OF_TORCH.items():
        yield Check(
            f"torch {release} brings Triton {triton}",
            ("--python-platform", TARGETS["linux-x86_64"], "--python-version", PYTHONS[0], "-"),
            f"torch=={release}.*\ntriton\n",
            {"triton": {triton}},
        )


def _of_lock(lock: Lock, platform: str) -> Iterator[Check]:
    """The two steps in which `harness env build` installs a lock."""
    where = ("--python-platform", TARGETS[platform], "--python-version", lock.python)
    name = f"environment {lock.name}: {SUPPORTED[platform]}, Python {lock.python}"
    torch = f"torch=={lock.pins['torch']}\n"
    yield Check(f"{name}, torch", (*where, "--constraints", str(lock.path), "-"), torch)
    pinned = "".join(f"{package}=={version}\n" for package, version in lock.pins.items())
    yield Check(f"{name}, all pins", (*where, "--no-deps", "-"), pinned)


def fault(check: Check) -> str:
    """Why it does not resolve; empty where it does."""
    try:
        done = uv(*check.arguments, requirements=check.requirements)
    except subprocess.TimeoutExpired:
        return f"no answer within {TIMEOUT_S} s"
    if done.returncode:
        return done.stderr.strip() or f"uv ended with exit status {done.returncode}"
    if check.pins is None:
        return ""
    found = read_pins(done.stdout)
    complete = len(check.pins) > 1  # one pin alone is a question about that package
    strange = [
        f"{name} {' or '.join(versions)}"
        for name, versions in found.items()
        if (complete or name in check.pins) and not versions <= check.pins.get(name, set())
    ]
    return f"{len(strange)} not of the pinned version: {', '.join(strange[:5])}" if strange else ""


def is_made_by_command(constraints: Path) -> str:
    """Why `constraints` is not what `--write` makes; empty where it is."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "constraints.txt"
        shutil.copyfile(constraints, copy)
        try:
            done = uv(*LOCK, "--output-file", str(copy))
        except subprocess.TimeoutExpired:
            return f"no answer within {TIMEOUT_S} s"
        if done.returncode:
            return done.stderr.strip()
        same = copy.read_text(encoding="utf-8") == constraints.read_text(encoding="utf-8")
    return "" if same else "tox -e lock would write another file"


def verify(constraints: Path, jobs: int) -> int:
    """Print a line for each check; the exit status."""
    started, faults = time.monotonic(), 0
    todo = list(checks(constraints))
    with ThreadPoolExecutor(jobs) as pool:
        first = pool.submit(is_made_by_command, constraints)
        found = pool.map(fault, todo)
        lines = [(f"{constraints.name} is the output of tox -e lock", first.result())]
        lines += zip((check.name for check in todo), found, strict=True)
    for name, why in lines:
        print(f"{'FAILED' if why else 'ok':7}{name}", flush=True)
        if why:
            faults += 1
            print("       " + "\n       ".join(why.splitlines()))
    print(f"{len(lines) - faults} of {len(lines)} resolve, in {time.monotonic() - started:.0f} s")
    return int(faults > 0)


def write(extra: list[str]) -> int:
    """Make `constraints.txt` anew; the exit status."""
    done = uv(*LOCK, "--output-file", str(CONSTRAINTS), *extra)
    print(done.stderr, end="", file=sys.stderr)
    return done.returncode


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="make constraints.txt anew")
    parser.add_argument("--upgrade-package", action="append", default=[], metavar="NAME", help="with --write")
    parser.add_argument("--constraints", type=Path, default=CONSTRAINTS, help="another file to check")
    parser.add_argument("--jobs", type=int, default=12, help="resolutions at a time")
    given = parser.parse_args()
    if given.write:
        return write([word for name in given.upgrade_package for word in ("--upgrade-package", name)])
    return verify(given.constraints.resolve(), given.jobs)


if __name__ == "__main__":
    sys.exit(main())
