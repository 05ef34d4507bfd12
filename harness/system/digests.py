"""Canonical JSON and SHA-256: the one text of a value, and the one digest of a text or a file."""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path
from typing import IO

from pydantic_core import from_json

from harness.contracts import Json
from harness.errors import HarnessError, StorageError
from harness.system.files import cache_folder, open_regular, write_atomic

ALWAYS_HASHED = 8 << 20
"""Bytes below which a file is hashed each time, which costs less than remembering it."""

encode_json = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode


def canonical(value: Json) -> str:
    """The one JSON text of `value`: keys sorted, ASCII, no blanks, floats as `repr`. Raises for NaN and infinity."""
    try:
        return encode_json(value)
    except (ValueError, TypeError) as error:
        raise HarnessError(f"cannot make an identity of a value: {error}", "use finite numbers, texts and lists") from (
            error
        )


def digest(content: str | bytes) -> str:
    """SHA-256 of bytes, or of a text in UTF-8, 64 hexadecimal digits."""
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hexadecimal digits. Raises `OSError`."""
    with open_regular(path) as file:
        return content_sha256(file)


def content_sha256(file: IO[bytes]) -> str:
    """SHA-256 of what is left to read of an open file, 64 hexadecimal digits. Raises `OSError`."""
    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def remembered_sha256(path: Path) -> str:
    """As `file_sha256`, but that of a large file is kept in the cache folder until its size, inode or times change."""
    state, name = path.stat(), str(path.resolve())
    if state.st_size < ALWAYS_HASHED:
        return file_sha256(path)
    memory, stamp = cache_folder() / "digests.json", [state.st_size, state.st_ino, state.st_mtime_ns, state.st_ctime_ns]
    entries = _entries(memory)
    if entries.get(name, [])[:-1] != stamp:
        entries[name] = [*stamp, file_sha256(path)]
        with contextlib.suppress(StorageError):  # a read-only home costs time, not correctness
            write_atomic(memory, json.dumps(entries, indent=0))
    return str(entries[name][-1])


def _entries(memory: Path) -> dict[str, list[int | str]]:
    try:
        body = from_json(memory.read_bytes())
    except (OSError, ValueError):
        return {}
    if not isinstance(body, dict):
        return {}
    return {path: entry for path, entry in body.items() if isinstance(entry, list) and len(entry) == 5}
