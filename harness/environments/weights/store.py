"""The weights folder: which files are missing, and digests of those that are there, remembered by size and time."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from harness.contracts import Availability
from harness.environments.weights.manifest import WeightSet, read_manifest
from harness.system.digests import file_sha256
from harness.system.files import weights_folder

REMEMBERED = ".digests.json"


def missing(weights: WeightSet, groups: Sequence[str] = ()) -> list[str]:
    """Paths below the set's folder that `groups` need and that are not there, or are empty."""
    paths = [path for file in weights.needed(groups) for path in (file.path, *file.links)]
    return [path for path in paths if not _is_there(weights.folder / path)]


def availability(name: str, groups: Sequence[str] = ()) -> Availability:
    """Whether the weights `name` for `groups` are here, and what to type when they are not. Reads no file."""
    weights = read_manifest().get(name)
    absent = missing(weights, groups)
    if not absent:
        return Availability(True)
    optional = sorted({file.ask for file in weights.needed(groups) if file.ask and file.path in absent})
    words = ["harness fetch", name, *(f"--only {group}" for group in groups), *(f"--with {ask}" for ask in optional)]
    more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
    return Availability(False, f"{weights.folder / absent[0]}{more} not found", " ".join(words))


def digests(name: str, groups: Sequence[str] = ()) -> dict[str, str]:
    """SHA-256 by path of what `groups` need and is here; a file that is not here has an empty one."""
    weights = read_manifest().get(name)
    return {
        file.path: digest(weights.folder / file.path) if _is_there(weights.folder / file.path) else ""
        for file in weights.needed(groups)
    }


def digest(path: Path) -> str:
    """SHA-256 of a file; remembered in the weights folder until its size, inode or times change."""
    state = path.stat()
    # Copying can keep the time of modification. The inode and the time of the last change of state it cannot.
    stamp = [state.st_size, state.st_ino, state.st_mtime_ns, state.st_ctime_ns]
    memory = weights_folder() / REMEMBERED
    remembered = _remembered(memory)
    entry = remembered.get(str(path.resolve()))
    if entry is not None and entry[:-1] == stamp:
        return str(entry[-1])
    sha256 = file_sha256(path)
    remembered[str(path.resolve())] = [*stamp, sha256]
    with contextlib.suppress(OSError):  # a read-only folder costs time, not correctness
        # By process: two at once would write into one file. What one of them remembered may be lost, and is read again.
        draft = memory.with_name(f"{REMEMBERED}.{os.getpid()}")
        draft.write_text(json.dumps(remembered, indent=0), encoding="utf-8")
        draft.replace(memory)
    return sha256


def _remembered(memory: Path) -> dict[str, list[int | str]]:
    try:
        entries = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(entries, dict):
        return {}
    return {path: entry for path, entry in entries.items() if isinstance(entry, list) and len(entry) == 5}


def _is_there(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except OSError:
        return False
