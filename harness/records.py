"""Records: what happened to each unit, one JSON object a line, appended durably and never rewritten.

Guarantees: a line that `append` returned from survives the loss of power; a crash while appending costs at most that
line, which the next reader skips and the next writer removes. Not guaranteed: two writers on one file (the run
folder's lock sees to that).
"""

from __future__ import annotations

import gc
import json
import math
import os
import re
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic_core import from_json

from harness import durable
from harness.contracts import Json, ModelCard
from harness.errors import RecordError
from harness.plan import PLAN_SCHEMA, Arm, Group, Kind
from harness.schema import Suite

RECORD_SCHEMA = 1
"""Stands in every line. Readers refuse a newer one."""

Status = Literal["ok", "failed", "skipped"]


class Head:
    """The part of a record that resuming and tables need; it comes first in the line and is read alone.

    A million of these are made to print a table, so members other than key, kind and status are decoded when asked
    for, each time anew; asking raises `RecordError` where the line is damaged.

    Attributes:
        key, kind, status, schema: as in `Record`.
        offset: byte at which the line starts. raw_values: the JSON text of `values`.
    """

    __slots__ = ("_line", "key", "kind", "offset", "raw_values", "schema", "status")

    def __init__(
        self,
        key: str,
        kind: Kind,
        status: Status,
        offset: int,
        line: bytes,
        schema: int = RECORD_SCHEMA,
        raw_values: bytes = b"",
    ) -> None:
        self.key = key
        self.kind = kind
        self.status = status
        self.offset = offset
        self.schema = schema
        self._line = line
        self.raw_values = raw_values or self._raw(_VALUES, _CLIP)

    @property
    def values(self) -> Mapping[str, float]:
        """Headline numbers by name; NaN where undefined."""
        raw = self.raw_values
        return _numbers(self._decoded(raw)) if b"null" in raw else self._decoded(raw)

    @property
    def clip(self) -> Mapping[str, Any]:
        """Of a generate unit `path` (relative to the run), `bytes`, `sha256`, `digest`, `frames`, …; of a score
        the `digest` that was scored; empty otherwise.
        """
        return self._decoded(self._raw(_CLIP, _CONTEXT))

    @property
    def context(self) -> Mapping[str, Any]:
        """Where the unit first stood: suite, arm, section, plugin, prompt, seed, index."""
        return self._decoded(self._raw(_CONTEXT, _SPLIT))

    def _raw(self, before: bytes, after: bytes) -> bytes:
        start = self._line.find(before) + len(before) - 1
        end = self._line.find(after, start)
        return self._line[start : end if end > 0 else None]

    def _decoded(self, raw: bytes) -> dict[str, Any]:
        try:
            found: dict[str, Any] = from_json(raw)
        except ValueError as error:
            raise RecordError(f"record {self.key[:12]} at byte {self.offset} is damaged: {error}") from error
        return found


@contextmanager
def uncollected() -> Iterator[None]:
    """Pauses the cyclic collector: heads live long and hold no cycles, and a million of them take half its time."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def values_of(heads: Sequence[Head]) -> list[Mapping[str, float]]:
    """`Head.values` of each of `heads`, decoded in one go. Raises `RecordError` as it does."""
    raw = b"[" + b",".join([head.raw_values for head in heads]) + b"]"
    try:
        found: list[Mapping[str, float]] = from_json(raw)
    except ValueError:
        return [head.values for head in heads]
    return [_numbers(values) for values in found] if b"null" in raw else found


@dataclass(frozen=True, slots=True)
class Record:
    """All that is known of one attempt at one unit. The newest record of a key counts.

    Attributes:
        key: digest of `unit`. kind: what was done.
        status: `ok`; `failed` with `error`; `skipped` with `notes["reason"]` and perhaps `notes["fix"]`.
        unit: the full pre-image of the key.
        values: headline numbers by name; NaN where undefined. samples: raw samples by name.
        started, ended: UTC, ISO 8601.
        error: `type`, `message`, `traceback`.
    """

    key: str
    kind: Kind
    status: Status
    unit: Mapping[str, Json]
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
    """How tables and comparisons name the machine of a record; two of one label count as the same."""
    cores = device.get("cores") if device.get("kind") == "cpu" else None
    return f"{device.get('name', 'unknown')}" + (f" ({cores} cores)" if cores else "")


_HEAD = ("schema", "key", "kind", "status", "values", "clip", "context")
_TAIL = ("unit", "samples", "notes", "device", "versions", "git", "started", "ended", "error")
_VALUES, _CLIP, _CONTEXT, _SPLIT = b',"values":{', b',"clip":{', b',"context":{', b',"unit":{'
"""Where members of the head begin, and where it ends. Inside a JSON text quotes are escaped, so these bytes occur
nowhere else before the unit."""
_START = re.compile(
    rb'\{"schema":%d,"key":"([0-9a-f]+)","kind":"(generate|score|measure)","status":"(ok|failed|skipped)",'
    rb'"values":(\{[^{}]*\}),"clip":\{' % RECORD_SCHEMA
)
_WORDS: dict[bytes, Any] = {
    word.encode(): sys.intern(word) for word in ("generate", "score", "measure", "ok", "failed", "skipped")
}


def encode(record: Record) -> bytes:
    """`record` as one line, newline included. Raises `RecordError` for an infinite number."""
    body: dict[str, Any] = {name: getattr(record, name) for name in (*_HEAD, *_TAIL)}
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


def _numbers(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: math.nan if value is None else value for name, value in values.items()}


def decode(line: bytes, where: str = "record") -> Record:
    """The record in one line. Raises `RecordError` that starts with `where`."""
    body = _load(line, where)
    try:
        body["samples"] = {n: [math.nan if x is None else x for x in s] for n, s in body["samples"].items()}
        body["values"] = _numbers(body["values"])
        return Record(**{name: body[name] for name in (*_HEAD, *_TAIL)})
    except (KeyError, TypeError, AttributeError) as error:
        raise RecordError(f"{where}: not a record: {error!r}") from error


def decode_head(line: bytes, offset: int = 0, where: str = "record") -> Head:
    """The head of the record in one line, whose members may stand in any order."""
    record = decode(line, where)
    if record.kind not in get_args(Kind) or record.status not in get_args(Status):
        raise RecordError(f"{where}: not a record: kind {record.kind!r}, status {record.status!r}")
    written = encode(record)
    return Head(record.key, record.kind, record.status, offset, written[: written.find(_SPLIT)], record.schema)


def _own_head(line: bytes, offset: int) -> Head | None:
    """The head of a line as `encode` writes it; the rest of the line is not looked at."""
    start = _START.match(line)
    if start is None:
        return None
    cut = line.find(_SPLIT, start.end())
    if cut < 0 or line.find(_CONTEXT, start.end(), cut) < 0:
        return None
    key, kind, status, values = start.groups()
    return Head(key.decode(), _WORDS[kind], _WORDS[status], offset, line[:cut], RECORD_SCHEMA, values)


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


class RecordFile:
    """A `*.jsonl` file of records: read at any time, appended to by one writer.

    The file need not exist before the first `append`. Threads of the one process may append in turn.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle: int | None = None
        self._writing = threading.Lock()

    def heads(self) -> Iterator[Head]:
        """The head of every complete line, in the order written. A torn last line is passed over."""
        for offset, number, line in self._lines():
            yield _own_head(line, offset) or decode_head(line, offset, f"{self.path}:{number}")

    def records(self) -> Iterator[Record]:
        """Every complete record, in the order written."""
        for _, number, line in self._lines():
            yield decode(line, f"{self.path}:{number}")

    def newest(self) -> dict[str, Head]:
        """The head that counts for each key: the last one written."""
        with uncollected():
            return {head.key: head for head in self.heads()}

    def at(self, offset: int) -> Record:
        """The full record whose line starts at byte `offset`, as `Head.offset` says."""
        with self.path.open("rb") as file:
            file.seek(offset)
            return decode(file.readline(), f"{self.path} at byte {offset}")

    def _lines(self) -> Iterator[tuple[int, int, bytes]]:
        try:
            with self.path.open("rb", buffering=1 << 20) as file:
                offset = 0
                for number, line in enumerate(file, 1):
                    if line.endswith(b"\n"):
                        yield offset, number, line
                    offset += len(line)
        except FileNotFoundError:
            return
        except OSError as error:
            raise RecordError(f"{self.path} cannot be read: {error.strerror}") from error

    def append(self, record: Record) -> Head:
        """Write one line and bring it to the disk; its head.

        On failure the file is as before; raises `StorageError`.
        """
        line = encode(record)
        with self._writing, durable.storage(self.path):
            handle = self._open()
            start = os.lseek(handle, 0, os.SEEK_END)
            try:
                written = 0
                while written < len(line):
                    written += os.write(handle, line[written:])
                os.fsync(handle)
            except OSError:
                os.ftruncate(handle, start)
                raise
            return _own_head(line, start) or decode_head(line, start)

    def _open(self) -> int:
        if self._handle is None:
            new = not self.path.exists()
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            self._handle = handle
            os.ftruncate(handle, _complete(handle))
            if new:
                durable.sync_folder(self.path.parent)
        return self._handle

    def close(self) -> None:
        """Close the writer, if it was opened."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def __enter__(self) -> RecordFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _complete(handle: int) -> int:
    """Bytes up to and including the last newline."""
    end = os.lseek(handle, 0, os.SEEK_END)
    while end > 0:
        start = max(0, end - 65536)
        block = os.pread(handle, end - start, start)
        newline = block.rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


@dataclass(frozen=True, slots=True)
class Run:
    """A run folder as tables read it: what was planned, and the newest record of every key.

    Attributes:
        folder: of the run. suite, device, arms, groups: as planned last.
        heads: by key, the head of the newest record; also of units that are no longer planned.
    """

    folder: Path
    suite: Suite
    device: str
    arms: tuple[Arm, ...]
    groups: tuple[Group, ...]
    heads: Mapping[str, Head]


def load_run(folder: Path) -> Run:
    """Read a run folder: its plan and the heads of its records. Raises `RecordError`."""
    path = folder / "plan.json"
    try:
        body = from_json(path.read_bytes())
        if body["schema"] > PLAN_SCHEMA:
            raise RecordError(f"{path}: plan schema {body['schema']} is newer than this harness reads ({PLAN_SCHEMA})")
        arms = tuple(Arm(**{**arm, "card": ModelCard(**arm["card"])}) for arm in body["arms"])
        groups = tuple(Group(**{**group, "keys": tuple(group["keys"])}) for group in body["groups"])
        suite = Suite.model_validate(body["suite"])
    except FileNotFoundError as error:
        raise RecordError(
            f"{folder} is no run folder: it has no plan.json", "name the folder that `harness run` printed"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecordError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    return Run(folder, suite, body["device"], arms, groups, RecordFile(folder / "records.jsonl").newest())
