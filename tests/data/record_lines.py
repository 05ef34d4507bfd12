"""Lines of records as nobody but a test writes them: without a digest, or edited and with a fresh one."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any


def without_digest(lines: bytes) -> bytes:
    """Lines of records without their digests."""
    return re.sub(rb',"line_sha256":"\w{16}"(?=}\n)', b"", lines)


def drop_digests(path: Path) -> Path:
    """Take the digests out of a file of records; the file."""
    path.write_bytes(without_digest(path.read_bytes()))
    return path


def with_digest(body: dict[str, Any]) -> bytes:
    """The line of a record, whatever it holds, with the bytes and the digest that the harness gives it."""
    body = {name: member for name, member in body.items() if name != "line_sha256"}
    whole = json.dumps(body, separators=(",", ":")).encode()[:-1]
    return b'%b,"line_sha256":"%b"}\n' % (whole, hashlib.sha256(whole).hexdigest()[:16].encode())


def edit(path: Path, **members: Any) -> None:
    """Let the records of a file hold these members beside those that they have, without those that are `...`, and
    fresh digests.
    """
    lines = []
    for line in path.read_bytes().splitlines():
        body = json.loads(line)
        for name, changes in members.items():
            body[name] = {key: value for key, value in {**body[name], **changes}.items() if value is not ...}
        lines.append(with_digest(body))
    path.write_bytes(b"".join(lines))
