"""The weights folder: which files are missing, and the digests of those that are there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.contracts import Availability
from harness.environments.weights.manifest import WeightSet, read_manifest
from harness.system.digests import remembered_sha256


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
        file.path: remembered_sha256(weights.folder / file.path) if _is_there(weights.folder / file.path) else ""
        for file in weights.needed(groups)
    }


def _is_there(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except OSError:
        return False
