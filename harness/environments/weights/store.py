"""What is in the weights folder: missing files, and digests remembered by size and time."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from harness.contracts import Availability
from harness.environments.weights.manifest import WeightSet, read_manifest
from harness.system.files import weights_folder

REMEMBERED = ".digests.json"


def missing(weights: WeightSet, groups: Sequence[str] = ()) -> list[str]:
    """Paths below the set's folder that `groups` need and that are not there, or are empty."""
    wanted = [path for file in weights.needed(groups) for path in (file.path, *file.links)]
    return [path for path in wanted if not _is_there(weights.folder / path)]


def availability(name: str, groups: Sequence[str] = ()) -> Availability:
    """Whether the weights `name` for `groups` are here, and what to type when they are not. Reads no file."""
    weights = read_manifest().get(name)
    gone = missing(weights, groups)
    if not gone:
        return Availability(True)
    asked = sorted({file.ask for file in weights.needed(groups) if file.ask and file.path in gone})
    words = ["harness fetch", name, *(f"--only {group}" for group in groups), *(f"--with {ask}" for ask in asked)]
    more = f" and {len(gone) - 1} more" if len(gone) > 1 else ""
    return Availability(False, f"{weights.folder / gone[0]}{more} not found", " ".join(words))


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
    stamp = [state.st_size, state.st_ino, state.st_mtime_ns, state.st_ctime_ns]
    memory = weights_folder() / REMEMBERED
    known = _remembered(memory)
    held = known.get(str(path.resolve()))
    if held is not None and held[:-1] == stamp:
        return str(held[-1])
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    known[str(path.resolve())] = [*stamp, found]
    with contextlib.suppress(OSError):  # a read-only folder costs time, not correctness
        draft = memory.with_name(f"{REMEMBERED}.{os.getpid()}")
        draft.write_text(json.dumps(known, indent=0), encoding="utf-8")
        draft.replace(memory)
    return found


def _remembered(memory: Path) -> dict[str, list[int | str]]:
    try:
        held = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(held, dict):
        return {}
    return {path: entry for path, entry in held.items() if isinstance(entry, list) and len(entry) == 5}


def _is_there(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except OSError:
        return False
