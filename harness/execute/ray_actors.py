"""What runs in Ray's processes: one keeper a node, and workers that make clips, score them, or measure.

These are plain classes; `ray_engine` makes actors of them. None writes a record or a file of the run: records and clips
go back to the driver.
"""

from __future__ import annotations

import fcntl
import os
import platform
import queue
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from harness.contracts import Json, Product
from harness.errors import StorageError
from harness.execute import units
from harness.execute.generate import Maker
from harness.execute.luggage import Luggage, Unpacked, settle, unpack
from harness.execute.making import THREADS, who
from harness.execute.measuring import Measurer
from harness.execute.models import Models
from harness.execute.printed import MOST_OF_ONE, mark
from harness.execute.scorers import Scorers
from harness.probes.timing.telemetry import Telemetry
from harness.runs.folder import inside
from harness.runs.line import Record
from harness.runs.measured import PRODUCTS
from harness.runs.plan import Arm, Unit
from harness.system import devices
from harness.system.files import storage

FOLDER, LOCK = "videomla-bench-ray-", "lock"
"""How the folders of keepers begin, and the file in each that its keeper holds locked."""


@dataclass(frozen=True, slots=True)
class Desk:
    """Where a worker works: its node's folder and luggage, its device and the threads that it may use.

    Attributes:
        log: file in `folder` for what the worker prints. git: of the driver, for the records.
        threads: None leaves them to the libraries. device: `cpu`, or `cuda` for the one that the worker was given.
    """

    folder: Path
    work: Path
    unpacked: Unpacked
    log: str
    device: str
    threads: int | None
    git: Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class ClipTask:
    """Clips that are made together."""

    arm: Arm
    units: tuple[Unit, ...]


@dataclass(frozen=True, slots=True)
class SentClip:
    """A clip that a worker scores: its unit, the `clip` of its record, its bytes."""

    of: Unit
    info: Mapping[str, Any]
    content: bytes


@dataclass(frozen=True, slots=True)
class ScoreTask:
    """Scores of one clip, and the clip; behind it the one that it is held against, if it is."""

    units: tuple[Unit, ...]
    clips: tuple[SentClip, ...]


@dataclass(frozen=True, slots=True)
class Done:
    """What a worker sends back.

    Attributes:
        records: of units, each with the bytes of the clip that it speaks of, if it does.
        seconds: that the work took. loading: seconds of it until the model was there.
        said: lines of progress. printed: what was printed meanwhile, with its marks.
        refused: message and fix of what this node's disk refused.
    """

    records: Sequence[tuple[Record, bytes]]
    seconds: float
    loading: float = 0.0
    said: Sequence[str] = ()
    printed: bytes = b""
    refused: tuple[str, str] | None = None


def _sweep(folder: Path) -> None:
    """Delete the folders of keepers that were killed; the system has given back their locks."""
    for left in folder.glob(f"{FOLDER}*"):
        with suppress(OSError), (left / LOCK).open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left, ignore_errors=True)


class Keeper:
    """The one of its node that keeps the folder in which workers lay down clips for a moment."""

    def __init__(self) -> None:
        _sweep(Path(tempfile.gettempdir()))
        self.folder = Path(tempfile.mkdtemp(prefix=FOLDER))
        self.lock = (self.folder / LOCK).open("w")
        fcntl.flock(self.lock, fcntl.LOCK_EX)

    def prepare(self, luggage: Luggage) -> tuple[Path, Unpacked, str]:
        """Lay down the luggage; the folder, what became of the luggage, and what nodes of one machine agree in."""
        return self.folder, unpack(luggage, self.folder), machine()

    def printed(self, log: str) -> bytes:
        """The end of what a worker printed and has not sent, with its marks; it may have ended since."""
        return _last_bytes(self.folder / log)

    def close(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


def machine() -> str:
    """The same text on every node of one running machine, in containers too; the host's name where Linux is not."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return platform.node()


def _last_bytes(path: Path) -> bytes:
    """The last bytes of a file, as many as are kept of one unit; none where it cannot be read."""
    with suppress(OSError), path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - MOST_OF_ONE))
        return file.read(MOST_OF_ONE)
    return b""


class Worker:
    """The common part: the device that it sees, its threads, plug-ins, and a file for what it prints."""

    def __init__(self, desk: Desk) -> None:
        # Before anything imports torch, which reads these once. Ray sets threads by the cores asked for, and hands on
        # the driver's list of GPUs to whoever asks for none.
        for name in THREADS:
            os.environ.pop(name, None)
            if desk.threads is not None:
                os.environ[name] = str(desk.threads)
        if desk.device == "cpu":
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        with (desk.folder / desk.log).open("ab") as log:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        sys.stdout = sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False, errors="backslashreplace")
        settle(desk.work, desk.unpacked.plugins)
        self.desk = desk
        self.setting = units.Setting(devices.describe(desk.device), devices.versions(), desk.git)
        self.said: list[str] = []

    def ready(self) -> int:
        """Once it is there: processes of others on its GPU."""
        return Telemetry(self.desk.device).other_processes() or 0

    def printed_since(self) -> bytes:
        """What was printed since that was asked for, or the end of it."""
        path = self.desk.folder / self.desk.log
        content = _last_bytes(path)
        with suppress(OSError):
            os.truncate(path, 0)
        return content

    def said_since(self) -> list[str]:
        """Lines of progress since they were asked for."""
        said, self.said = self.said, []
        return said


class ClipMaker(Worker):
    """Makes clips with the one model that it has loaded."""

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        self.models = Models(desk.device, self.said.append)
        self.folder = Path(tempfile.mkdtemp(dir=desk.folder))
        self.records: list[Record] = []
        self.maker = Maker(self.models, self.setting, self.folder, self.records.append)

    def do(self, tasks: Sequence[ClipTask]) -> Done:
        """Make the clips of `tasks`, all of one arm."""
        start = time.monotonic()
        arm = self.desk.unpacked.arm(tasks[0].arm)
        mark(who(arm, tasks[0].units))
        with suppress(Exception, SystemExit):  # each unit says it again
            self.models.get(arm)
        loading = time.monotonic() - start
        refused = None
        try:
            for task in tasks:
                mark(who(arm, task.units))
                self.maker.make(arm, [self.desk.unpacked.unit(unit) for unit in task.units])
                self._settle(len(task.units))
            self._settle(0)
        except StorageError as error:
            refused = (error.message, error.fix)
        records, self.records[:] = [(record, self._taken(record)) for record in self.records], []
        return Done(records, time.monotonic() - start, loading, self.said_since(), self.printed_since(), refused)

    def _settle(self, leave: int) -> None:
        while len(self.maker.unfinished) > leave:
            attempt, _ = self.maker.unfinished.popleft()
            attempt.record()

    def _taken(self, record: Record) -> bytes:
        """The bytes of the clip, whose file goes."""
        if record.status != "ok":
            return b""
        path = inside(self.folder, str(record.clip["path"]))
        content = path.read_bytes()
        path.unlink()
        return content


class ClipScorer(Worker):
    """Scores clips under the metrics of one environment."""

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        self.scorers = Scorers(desk.device, self.said.append)

    def do(self, tasks: Sequence[ScoreTask]) -> Done:
        """Score the clips of `tasks`."""
        start = time.monotonic()
        refused = None
        records: list[tuple[Record, bytes]] = []
        try:
            with tempfile.TemporaryDirectory(dir=self.desk.folder) as folder:
                for number, task in enumerate(tasks):
                    paths = [Path(folder) / f"{number}-{place}.mp4" for place in range(len(task.clips))]
                    for path, sent in zip(paths, task.clips, strict=True):
                        with storage(path):
                            path.write_bytes(sent.content)
                    for unit in task.units:
                        mark(f"{unit.context['plugin']} {unit.key[:12]}")
                        work = partial(self._score, unit, task.clips, paths)
                        records.append((units.attempt(unit, self.setting, work), b""))
                    for path in paths:
                        path.unlink()
        except StorageError as error:
            refused = (error.message, error.fix)
        return Done(records, time.monotonic() - start, 0.0, self.said_since(), self.printed_since(), refused)

    def _score(self, unit: Unit, sent: Sequence[SentClip], paths: Sequence[Path]) -> units.Result:
        clips = [
            units.clip_of(clip.of, clip.info, path, int(clip.of.context["index"]))
            for clip, path in zip(sent, paths, strict=True)
        ]
        clip = units.held_against(*clips) if len(clips) > 1 else clips[0]
        return units.score(unit, self.scorers.get(unit), clip)


class MeasuringHost(Worker):
    """Measures, one at a time, in a process that it starts for that."""

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        # Ray's workers yield to all other work of a machine; a measurement does not, where the system lets it.
        with suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, 0, 0)
        self.scratch = desk.folder / "scratch"
        self.events: queue.SimpleQueue[str | Record | BaseException] = queue.SimpleQueue()
        self.measurer = Measurer(desk.device, self.setting, self.events.put, self.scratch)
        # One thread for all of them: the process that measures ends with the thread that started it.
        self.thread = ThreadPoolExecutor(1)

    def measure(
        self, unit: Unit, arm: Arm | None, options: Mapping[str, Json], seconds: float
    ) -> Iterator[str | tuple[Record, Mapping[str, bytes], bytes] | tuple[str, str]]:
        """Lines of progress, then the record with its products' bytes and what was printed.

        Or message and fix of a refusing disk.
        """
        unpacked = self.desk.unpacked
        self.thread.submit(self._measure, unpacked.unit(unit), arm and unpacked.arm(arm), options, seconds)
        while isinstance(event := self.events.get(), str):
            yield event
        if isinstance(event, StorageError):
            yield (event.message, event.fix)
        elif isinstance(event, BaseException):
            raise event
        else:
            yield (event, self._products(event), self.printed_since())

    def _measure(self, *task: Any) -> None:
        try:
            self.events.put(self.measurer.measure(*task))
        except BaseException as fault:  # noqa: BLE001 - it is told where the record is awaited
            self.events.put(fault)

    def _products(self, record: Record) -> dict[str, bytes]:
        """The files that the measurement left, by their names in the scratch folder."""
        entries: Any = record.notes.get(PRODUCTS, ())
        return {entry["file"]: inside(self.scratch, Product(**entry).file).read_bytes() for entry in entries}

    def close(self) -> None:
        """End the process that measures."""
        self.measurer.close()


def planned(record: Record, unit: Unit) -> Record:
    """The record of `unit` with the plan's own words, where the worker had paths of its node."""
    return replace(record, preimage=unit.preimage, context=unit.context)
