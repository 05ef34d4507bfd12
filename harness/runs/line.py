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

LINE_START = b'{"schema":%d,"key":"' % RECORD_SCHEMA

KEY = slice(len(LINE_START), len(LINE_START) + 64)

TAGS: dict[bytes, Tag] = {
    f'","kind":"{kind}","status":"{status}","values":'.encode(): (kind, status, RECORD_SCHEMA)
    for kind in get_args(Kind)
    for status in get_args(Status)
}
"""The bytes between a key and its values. A line with one of them was written by `encode`."""


def numbers(values: Mapping[str, float | None]) -> dict[str, float]:
    """Values as read from JSON, NaN for null."""
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


_INDEXED = ("schema", "key", "kind", "status", "values", "clip", "context")

_REST = ("preimage", "samples", "notes", "device", "versions", "git", "started", "ended", "error")

_JSON_NAMES = {"preimage": "unit"}
"""Members that have another name in the line."""


def encode(record: Record) -> bytes:
    """`record` as one line, newline included. Raises `RecordError` for an infinite number."""
    body: dict[str, Any] = {_JSON_NAMES.get(name, name): getattr(record, name) for name in (*_INDEXED, *_REST)}
    # JSON has no NaN: an undefined value is null.
    body["values"] = {name: _finite(name, value) for name, value in record.values.items()}
    body["samples"] = {name: [_finite(name, item) for item in items] for name, items in record.samples.items()}
    try:
        text = json.dumps(body, separators=(",", ":"), allow_nan=False)
    except (ValueError, TypeError) as error:
        raise RecordError(f"record {record.key[:12]} is no JSON: {error}") from error
    return text.encode() + b"\n"


def _finite(name: str, value: float) -> float | None:
    if math.isinf(value):
        raise RecordError(f"value {name!r} is infinite")
    return None if math.isnan(value) else float(value)


def decode(line: bytes, where: str = "record") -> Record:
    """The record in one line. Raises `RecordError` that starts with `where`."""
    body = _load(line, where)
    try:
        body["samples"] = {n: [math.nan if x is None else x for x in s] for n, s in body["samples"].items()}
        body["values"] = numbers(body["values"])
        return Record(**{name: body[_JSON_NAMES.get(name, name)] for name in (*_INDEXED, *_REST)})
    except (KeyError, TypeError, AttributeError) as error:
        raise RecordError(f"{where}: not a record: {error!r}") from error


def _load(line: bytes, where: str) -> dict[str, Any]:
    try:
        body = from_json(line)
        schema = body["schema"]
    except (ValueError, KeyError, TypeError) as error:
        raise RecordError(f"{where}: not a record", "remove that line; its unit will be run again") from error
    if not isinstance(schema, int) or schema > RECORD_SCHEMA:
        raise RecordError(
            f"{where}: record schema {schema} is newer than this harness reads ({RECORD_SCHEMA})",
            "pip install --upgrade videomla-bench",
        )
    return dict(body)
