"""Records as versions before the digest of a line wrote them, for tests that edit them."""

from __future__ import annotations

import re
from pathlib import Path


def without_digest(lines: bytes) -> bytes:
    """Lines of records without their digests."""
    return re.sub(rb',"line_sha256":"\w{16}"(?=}\n)', b"", lines)


def drop_digests(path: Path) -> Path:
    """Take the digests out of a file of records; the file."""
    path.write_bytes(without_digest(path.read_bytes()))
    return path
