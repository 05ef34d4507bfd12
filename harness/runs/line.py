"""Encode a record as one line of JSON, and state the bytes at which a reader may cut it.

The index (`harness.runs.index`) reads a million lines without decoding them. It relies on the order of members and on
the bytes between them that `encode` writes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from pydantic_core import from_json

from harness.contracts import Json
from harness.errors import RecordError
from harness.runs.plan import Kind
from harness.system.digests import digest

RECORD_SCHEMA = 1
"""Stands in every line. Readers refuse a newer one."""

Status = Literal["ok", "failed", "skipped"]

Tag = tuple[Kind, Status, int]
"""Kind, status and schema of a record."""

SPLIT = b',"unit":{'
"""Where the indexed part of a line ends."""

VALUES, CLIP, CONTEXT = b',"values":{', b',"clip":{', b',"context":{'
"""Where members of the indexed part begin. Inside a JSON text quotes are escaped, so that these bytes, and those of
`SPLIT`, occur nowhere else before the pre-image."""

DIGEST, DIGITS = b',"line_sha256":"', 16
"""The last member of a line, and its length: the first digits of the SHA-256 of all that stands before it. Lines that
were written before there was one end with their error, a mapping."""

TAIL = -len(DIGEST) - DIGITS - len(b'"}\n')

LINE_START = b'{"schema":%d,"key":"' % RECORD_SCHEMA

KEY = slice(len(LINE_START), len(LINE_START) + 64)

TAGS: dict[bytes, Tag] = {
    f'","kind":"{kind}","status":"{status}","values":'.encode(): (kind, status, RECORD_SCHEMA)
    for kind in get_args(Kind)
    for status in get_args(Status)
}
"""The bytes between a key and its values. A line with one of them was written by `encode`."""


def numbers(values: Mapping[str, float | None]) -> dict[str, float]:
    """Values as read from JSON, NaN for null. Raises `ValueError` for one that is no finite number."""
    for name, value in values.items():
        if value is not None and (type(value) not in (int, float) or math.isinf(value)):
            raise ValueError(f"value {name!r} is {value!r:.60}, no finite number")
    return {name: math.nan if value is None else value for name, value in values.items()}


@dataclass(frozen=True, slots=True)
class Record:
    """One attempt at one unit. The newest record of a key counts.

    Attributes:
        key: digest of `preimage`. kind: what was done.
        status: `ok`; `failed` with `error`; `skipped` with `notes["reason"]` and perhaps `notes["fix"]`.
        preimage: everything that could change the result; `unit` in the JSON.
        values: headline numbers by name; NaN where undefined. samples: raw samples by name.
        started, ended: UTC, ISO 8601.
        error: `type`, `message`, `traceback`.
    """

    key: str
    kind: Kind
    status: Status
    preimage: Mapping[str, Json]
    context: Mapping[str, Json] = field(default_factory=dict)
    values: Mapping[str, float] = field(default_factory=dict)
    samples: Mapping[str, Sequence[float]] = field(default_factory=dict)
    notes: Mapping[str, Json] = field(default_factory=dict)
    clip: Mapping[str, Json] = field(default_factory=dict)
    device: Mapping[str, Json] = field(default_factory=dict)
    versions: Mapping[str, Json] = field(default_factory=dict)
    git: Mapping[str, Json] = field(default_factory=dict)
    started: str = ""
    ended: str = ""
    error: Mapping[str, Json] = field(default_factory=dict)
    schema: int = RECORD_SCHEMA


def device_label(device: Mapping[str, Json]) -> str:
    """The name of a record's machine in tables and comparisons. Two of one label count as the same."""
    cores = device.get("cores") if device.get("kind") == "cpu" else None
    return f"{device.get('name', 'unknown')}" + (f" ({cores} cores)" if cores else "")


AGAIN = "remove that line; its unit will be run again"

_INDEXED = ("schema", "key", "kind", "status", "values", "clip", "context")

_TEXTS = ("key", "kind", "status", "started", "ended")

_REST = ("preimage", "samples", "notes", "device", "versions", "git", "started", "ended", "error")

_JSON_NAMES = {"preimage": "unit"}
"""Members that have another name in the line."""


def encode(record: Record) -> bytes:
    """`record` as one line, newline included, that ends with a digest of what stands before it.

    Half of a surrogate pair, which no reader of JSON takes, becomes U+FFFD. Raises `RecordError` for what is no JSON:
    an infinite number, another type, a value inside itself.
    """
    body: dict[str, Any] = {_JSON_NAMES.get(name, name): getattr(record, name) for name in (*_INDEXED, *_REST)}
    # JSON has no NaN: an undefined value is null.
    body["values"] = {name: _finite(name, value) for name, value in record.values.items()}
    body["samples"] = {name: [_finite(name, item) for item in items] for name, items in record.samples.items()}
    try:
        text = json.dumps(body, separators=(",", ":"), allow_nan=False)
    except (ValueError, TypeError, RecursionError) as error:
        raise RecordError(f"record {record.key[:12]} is no JSON: {error}") from error
    if "\\ud" in text:
        text = _without_halves(text)
    whole = text.encode()[:-1]
    return b"%b%b%b%b\n" % (whole, DIGEST, _digest(whole), b'"}')


def _without_halves(text: str) -> str:
    """The JSON `text` with U+FFFD for every half of a surrogate pair."""
    plain = json.dumps(json.loads(text), separators=(",", ":"), ensure_ascii=False)
    mended = plain.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return json.dumps(json.loads(mended), separators=(",", ":"))


def _digest(content: bytes) -> bytes:
    return digest(content)[:DIGITS].encode()


def untouched(line: bytes) -> bool:
    """Whether a line that `encode` wrote is as it was; of lines without a digest, whether it ends as they do."""
    if line.startswith(DIGEST, TAIL):
        return _digest(line[:TAIL]) == line[TAIL + len(DIGEST) : TAIL + len(DIGEST) + DIGITS]
    return line.endswith(b"}}\n")


def _finite(name: str, value: float) -> float | None:
    if math.isinf(value):
        raise RecordError(f"value {name!r} is infinite")
    return None if math.isnan(value) else float(value)


def decode(line: bytes, where: str = "record") -> Record:
    """The record in one line. Raises `RecordError` that starts with `where`."""
    if line.startswith(DIGEST, TAIL) and not untouched(line):
        raise RecordError(f"{where}: it was changed after it was written", AGAIN)
    body = _load(line, where)
    try:
        # Added to, as a text is no number even where it spells one.
        body["samples"] = {n: [math.nan if x is None else x + 0.0 for x in s] for n, s in body["samples"].items()}
        body["values"] = numbers(body["values"])
        record = Record(**{name: body[_JSON_NAMES.get(name, name)] for name in (*_INDEXED, *_REST)})
    except (ArithmeticError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise RecordError(f"{where}: not a record: {error!r}", AGAIN) from error
    for name in (*_INDEXED, *_REST):
        kind = str if name in _TEXTS else int if name == "schema" else dict
        if not isinstance(getattr(record, name), kind):
            raise RecordError(f"{where}: not a record: {name} is {getattr(record, name)!r:.60}", AGAIN)
    return record


def _load(line: bytes, where: str) -> dict[str, Any]:
    try:
        body = from_json(line)
        schema = body["schema"]
    except (ValueError, KeyError, TypeError) as error:
        raise RecordError(f"{where}: not a record", AGAIN) from error
    if not isinstance(schema, int) or schema > RECORD_SCHEMA:
        raise RecordError(
            f"{where}: record schema {schema} is newer than this harness reads ({RECORD_SCHEMA})",
            "pip install --upgrade videomla-bench",
        )
    return dict(body)
