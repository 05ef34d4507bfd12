"""Load plug-in files, and remember which this user has loaded, so that a plan may name them.

A plan comes from a run folder, perhaps somebody else's, and a plug-in is code. So a file that a plan names is loaded
only where this user has loaded the file at that place before, by a suite or by `--plugin`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from harness.contracts import registry
from harness.errors import StorageError
from harness.system import files
from harness.system.digests import digest


def load(paths: Iterable[Path]) -> None:
    """Import plug-in files that the user names. Raises `RegistryError`."""
    for path in paths:
        registry.load_plugin(path)
        memory = _memory(path)
        if not memory.exists():
            with suppress(StorageError):  # a read-only home costs a flag, not correctness
                files.write_atomic(memory, b"")


def offer(paths: Iterable[str]) -> None:
    """Let the files that a plan names be loaded once a name is asked for that nothing else registers."""
    for path in map(Path, paths):
        known = path.is_file() and _memory(path).exists()
        into = registry.offered if known else registry.withheld
        # Found now: it is loaded later, when the current folder may be another.
        file = path.resolve() if known else path
        if file not in into:
            into.append(file)


def place(path: Path) -> str:
    """How a plan names the file: from the current folder where it is in it, else by its whole path."""
    path = path.resolve()
    folder = Path.cwd()
    return os.path.relpath(path, folder) if folder in path.parents else str(path)


def _memory(path: Path) -> Path:
    return files.cache_folder() / "plugins" / digest(str(path.resolve()))[:32]
