"""Append records to a file, one JSON line for each unit, and read a run for its tables."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate, chain
from pathlib import Path

from harness.errors import RecordError
from harness.runs.index import Index, IndexEntry, decode_entry, own_entry
from harness.runs.line import Record, decode, encode
from harness.runs.plan import Arm, Group
from harness.runs.plan_file import read_plan
from harness.suite import plugins
from harness.suite.schema import Suite
from harness.system import files

PLAN, RECORDS, SHARDS = "plan.json", "records.jsonl", "shards"
"""Names in a run folder: its two files, and the folder of its shards, which are run folders themselves."""


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
                if not line.endswith(b"\n"):
                    return  # a writer may end it while it is read: the next line would be its second half
                yield decode(line, f"{self.path}:{number}")

    def newest(self) -> Index:
        """The newest entry of each key, which is the one that counts. A torn last line is left out."""
        index = Index(self.path)
        with self._lines() as lines:
            index.fill(lines, lambda line, number, offset: decode_entry(line, offset, f"{self.path}:{number}"))
        return index

    def at(self, offset: int) -> Record:
        """The full record whose line starts at byte `offset`, as `IndexEntry.offset` says."""
        with files.open_regular(self.path) as file:
            file.seek(offset)
            return decode(file.readline(), f"{self.path} at byte {offset}")

    @contextmanager
    def _lines(self) -> Iterator[Iterable[bytes]]:
        try:
            with files.open_regular(self.path, 1 << 20) as file:
                yield file
        except FileNotFoundError:
            yield ()
        except OSError as error:
            raise RecordError(f"{self.path} cannot be read: {error.strerror}") from error

    def append(self, record: Record) -> IndexEntry:
        """Write one line, bring it to the disk, and return its index entry.

        Raises `StorageError`; the file is then as before.
        """
        return self.append_all([record])[0]

    def append_all(self, records: Iterable[Record]) -> list[IndexEntry]:
        """As `append`, for lines that are brought to the disk together: all of them, or none."""
        lines = [encode(record) for record in records]
        offsets = accumulate(map(len, lines), initial=self._append([b"".join(lines)]) if lines else 0)
        return [own_entry(line, at) or decode_entry(line, at) for line, at in zip(lines, offsets, strict=False)]

    def extend(self, lines: Iterable[bytes]) -> None:
        """Write whole lines of other files of records, and bring them to the disk.

        Raises `StorageError`; the file is then as before.
        """
        self._append(lines)

    def _append(self, lines: Iterable[bytes]) -> int:
        """The byte at which the first of `lines` starts."""
        with self._writing, files.storage(self.path):
            handle = self._open()
            start = os.lseek(handle, 0, os.SEEK_END)
            try:
                for line in lines:
                    position = 0
                    while position < len(line):
                        position += os.write(handle, line[position:])
                # Before the unit counts as done: a run that goes on after a loss of power must not miss its record.
                os.fsync(handle)
            except OSError:
                # The next record must not be glued to half of this one.
                os.ftruncate(handle, start)
                raise
            return start

    def _open(self) -> int:
        if self._handle is None:
            new = not self.path.exists()
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            self._handle = handle
            # A crash may have left a torn last line.
            os.ftruncate(handle, _length_of_whole_lines(handle))
            if new:
                files.sync(self.path.parent)
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


class RecordFiles(RecordFile):
    """Several files of records, read as one. An entry of the file `paths[i]` has its place there plus i * `STRIDE`."""

    STRIDE = 1 << 48

    def __init__(self, paths: Sequence[Path]) -> None:
        super().__init__(paths[0])
        self.paths = paths

    def records(self) -> Iterator[Record]:
        """Every complete record, file by file."""
        return chain.from_iterable(RecordFile(path).records() for path in self.paths)

    def at(self, offset: int) -> Record:
        """The full record of an entry."""
        number, place = divmod(offset, self.STRIDE)
        return RecordFile(self.paths[number]).at(place)


def _length_of_whole_lines(handle: int) -> int:
    """Bytes up to and including the last newline, looked for from the end."""
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
    """A run folder as tables read it: its plan, and the newest record of every key.

    Attributes:
        folder: of the run. suite, device, arms, groups: of the latest plan.
        index: by key, the entry of the newest record; also of units that are no longer planned.
        others: folders of further runs of the same plan, where `harness.runs.united` has made one run of them.
    """

    folder: Path
    suite: Suite
    device: str
    arms: tuple[Arm, ...]
    groups: tuple[Group, ...]
    index: Index
    others: tuple[Path, ...] = ()

    @property
    def records(self) -> RecordFile:
        """The run's records."""
        return RecordFiles([folder / RECORDS for folder in (self.folder, *self.others)])

    def with_gaps_marked(self) -> Run:
        """The same run, whose means over fewer results than planned are marked, whatever its suite says of them."""
        return replace(self, suite=self.suite.model_copy(update={"incomplete": "mark"}))

    def done(self, group: Group) -> list[IndexEntry]:
        """The entries of those units of `group` that are done, in the order planned."""
        entries = map(self.index.get, group.keys)
        return [entry for entry in entries if entry is not None and entry.status == "ok"]


def load_run(folder: Path, rehearsal: bool = False) -> Run:
    """Read a run folder: its plan and the index of its records.

    Raises `RecordError`, also for a rehearsal, whose numbers are no results, unless the caller takes one.
    """
    try:
        plan = read_plan(folder / PLAN)
    except FileNotFoundError as error:
        raise RecordError(
            f"{folder} is no run folder: it has no plan.json", "name the folder that `harness run` printed"
        ) from error
    if plan.suite.rehearsal and not rehearsal:
        raise RecordError(f"{folder} is a rehearsal, and nothing of it is a result", "run its suite with `harness run`")
    plugins.offer(plan.suite.plugins)
    return Run(folder, plan.suite, plan.device, plan.arms, plan.groups, RecordFile(folder / RECORDS).newest())
