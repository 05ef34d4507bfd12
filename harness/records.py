"""Records: what happened to each unit, one JSON object a line, appended durably and never rewritten.

Guarantees: a line that `append` returned from survives the loss of power; a crash while appending costs at most that
line, which the next reader skips and the next writer removes. Not guaranteed: two writers on one file (the run
folder's lock sees to that).
"""

from __future__ import annotations

import json
import math
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from pydantic_core import from_json

from harness import durable
from harness.contracts import Json, ModelCard
from harness.errors import RecordError
from harness.heads import RECORD_SCHEMA, SPLIT, Head, Heads, Status, numbers, own_head
from harness.plan import PLAN_SCHEMA, Arm, Group, Kind
from harness.schema import Suite


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


def decode(line: bytes, where: str = "record") -> Record:
    """The record in one line. Raises `RecordError` that starts with `where`."""
    body = _load(line, where)
    try:
        body["samples"] = {n: [math.nan if x is None else x for x in s] for n, s in body["samples"].items()}
        body["values"] = numbers(body["values"])
        return Record(**{name: body[name] for name in (*_HEAD, *_TAIL)})
    except (KeyError, TypeError, AttributeError) as error:
        raise RecordError(f"{where}: not a record: {error!r}") from error


def decode_head(line: bytes, offset: int = 0, where: str = "record") -> Head:
    """The head of the record in one line, whose members may stand in any order."""
    record = decode(line, where)
    if record.kind not in get_args(Kind) or record.status not in get_args(Status):
        raise RecordError(f"{where}: not a record: kind {record.kind!r}, status {record.status!r}")
    written = encode(record)
    mark = (record.kind, record.status, record.schema)
    return Head(record.key, mark, offset, written[: written.find(SPLIT)])


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

    def records(self) -> Iterator[Record]:
        """Every complete record, in the order written."""
        with self._lines() as lines:
            for number, line in enumerate(lines, 1):
                if line.endswith(b"\n"):
                    yield decode(line, f"{self.path}:{number}")

    def newest(self) -> Heads:
        """The head that counts for each key, the last one written. A torn last line is passed over."""
        heads = Heads()
        with self._lines() as lines:
            heads.fill(lines, lambda line, number, offset: decode_head(line, offset, f"{self.path}:{number}"))
        return heads

    def at(self, offset: int) -> Record:
        """The full record whose line starts at byte `offset`, as `Head.offset` says."""
        with self.path.open("rb") as file:
            file.seek(offset)
            return decode(file.readline(), f"{self.path} at byte {offset}")

    @contextmanager
    def _lines(self) -> Iterator[Iterable[bytes]]:
        try:
            with self.path.open("rb", buffering=1 << 20) as file:
                yield file
        except FileNotFoundError:
            yield ()
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
            return own_head(line, start) or decode_head(line, start)

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
    heads: Heads


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
