"""Canonical JSON and SHA-256: the one text of a value, and the one digest of a text or a file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from harness.contracts import Json
from harness.errors import HarnessError

_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode


def canonical(value: Json) -> str:
    """The one JSON text of `value`: keys sorted, ASCII, no blanks, floats as `repr`. Raises for NaN and infinity."""
    try:
        return _encode(value)
    except (ValueError, TypeError) as error:
        raise HarnessError(f"cannot make an identity of a value: {error}", "use finite numbers, texts and lists") from (
            error
        )


def digest(text: str) -> str:
    """SHA-256 of `text` in UTF-8, 64 hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hexadecimal digits. Raises `OSError`."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
