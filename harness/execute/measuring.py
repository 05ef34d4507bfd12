"""Measurements in a process that makes no clip (rule T1): the run's side, and `python -m harness.execute.measuring`.

The process gets one unit after the other over a pipe, and answers with records. It has a session of its own, so that an
interrupt reaches the run alone. The run then ends the process with all that it has started.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from harness.contracts import Json, ProbeContext, Subject, registry
from harness.errors import HarnessError, StorageError
from harness.execute import units
from harness.execute.models import Models
from harness.probes.timing.telemetry import PARENT_HOLDS_CONTEXT
from harness.runs.line import Record, decode, encode
from harness.runs.plan import Arm, Unit
from harness.system import devices

PROGRESS, RECORD, RUN_FAULT = b"s", b"r", b"x"
"""First byte of an answer's line: progress in words, the record, or a fault that ends the run."""
CLOSING_S = 30.0
"""Seconds that the process has for freeing its model after the last unit."""


Task = tuple[Unit, Arm | None, Mapping[str, Json]]
"""A unit, its arm if it has one, and the options of its probe."""


class MeasuringEnded(HarnessError):
    """The process that measures ended in the middle of a unit."""

    exit_code = 1


@dataclass(frozen=True, slots=True)
class Hello:
    """The first message to the process: the device, the common part of all records, and what to import."""

    parent: int
    device: str
    setting: units.Setting
    path: tuple[str, ...]
    plugins: tuple[Path, ...]
    scratch: Path


class Measurer:
    """The run's side. The process starts with the first measurement, and again after it died.

    Args:
        say: gets progress, as in `loading dense`. scratch: as in `ProbeContext`.
    """

    def __init__(self, device: str, setting: units.Setting, say: Callable[[str], None], scratch: Path) -> None:
        self.device, self.setting, self.say, self.scratch = device, setting, say, scratch
        self._process: subprocess.Popen[bytes] | None = None

    def measure(self, unit: Unit, arm: Arm | None, options: Mapping[str, Json]) -> Record:
        """The unit's record, a failed one where the process dies. Raises `StorageError` as the probe does."""
        start = units.now()
        try:
            process = self._process or self._start()
            assert process.stdin is not None
            assert process.stdout is not None
            # A process that has just died still may have said why; its status is read below.
            with suppress(BrokenPipeError):
                pickle.dump((unit, arm, options), process.stdin)
                process.stdin.flush()
            if (record := self._answer(process.stdout)) is not None:
                return record
        except BaseException:
            self._kill()
            raise
        how = _how_it_ended(process.wait())
        self._kill()
        fault = MeasuringEnded(f"the process that measures ended {how}", "see what it printed")
        return units.record(unit, self.setting, "failed", units.Result(), start, units.describe(fault))

    def close(self) -> None:
        """Let the process free its model and end; kill it where it does not, or is in the middle of a unit."""
        process = self._process
        if process is None:
            return
        assert process.stdin is not None
        with suppress(BrokenPipeError):
            process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            process.wait(CLOSING_S)
        self._kill()

    def interrupt(self) -> None:
        """Kill the process, if there is one; `measure`, in another thread, gives a failed record. Thread-safe."""
        if (process := self._process) is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)

    def _start(self) -> subprocess.Popen[bytes]:
        environment = {PARENT_HOLDS_CONTEXT: str(int(devices.holds_context()))}
        self._process = process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | environment,
            start_new_session=True,
        )
        assert process.stdin is not None
        plugins = tuple(registry.plugin_files)
        hello = Hello(os.getpid(), self.device, self.setting, tuple(sys.path), plugins, self.scratch)
        pickle.dump(hello, process.stdin)
        return process

    def _answer(self, lines: IO[bytes]) -> Record | None:
        """The record that comes; None where the process ends before."""
        for line in lines:
            kind, text = line[:1], line[1:]
            if kind == PROGRESS:
                self.say(json.loads(text))
            elif kind == RUN_FAULT:
                raise StorageError(*json.loads(text))
            elif kind == RECORD and text.endswith(b"\n"):
                return decode(text)
        return None

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()


def _how_it_ended(status: int) -> str:
    return f"by signal {signal.Signals(-status).name}" if status < 0 else f"with exit status {status}"


# ------------------------------------------------------------------------------ the process itself


class Server:
    """The process's side: load a unit's model anew, measure, record."""

    def __init__(self, hello: Hello, answer: IO[bytes]) -> None:
        self.hello, self.answer = hello, answer
        self.models = Models(hello.device, self.say)

    def tell(self, kind: bytes, text: bytes) -> None:
        """Write one line."""
        self.answer.write(kind + text.rstrip(b"\n") + b"\n")
        self.answer.flush()

    def say(self, words: str) -> None:
        """Send progress."""
        self.tell(PROGRESS, json.dumps(words).encode())

    def unit(self, unit: Unit, arm: Arm | None, options: Mapping[str, Json]) -> None:
        """Measure and answer."""
        hello = self.hello
        subject = None
        if arm is not None:
            load = partial(self.models.get, arm)
            subject = Subject(arm.name, arm.options, arm.card, hello.device, load, tuple(hello.plugins))

        where = f"{unit.context['section']} {unit.context['arm']}".rstrip()

        def report(line: str) -> None:
            self.say(f"{where}: {line}")

        @contextmanager
        def spans(name: str) -> Iterator[None]:
            report(name)
            yield

        def work() -> units.Result:
            self.models.renew(arm)
            return units.measure(unit, options, subject, ProbeContext(hello.device, hello.scratch, report, spans))

        try:
            self.tell(RECORD, encode(units.attempt(unit, hello.setting, work)))
        except StorageError as refused:
            self.tell(RUN_FAULT, json.dumps([refused.message, refused.fix]).encode())


def main() -> None:
    """Answer until the run closes its pipe. Ends with the run, should that die."""
    requests = os.fdopen(os.dup(0), "rb")
    answer = os.fdopen(os.dup(1), "wb")
    # Models' output goes to standard error, so that it is never taken for an answer. Models cannot read the requests.
    os.dup2(2, 1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    hello: Hello = pickle.load(requests)
    devices.end_with_parent(hello.parent)
    # Plug-ins import from where the run's interpreter found them.
    sys.path[:] = hello.path
    for path in hello.plugins:
        registry.load_plugin(path)
    serving = Server(hello, answer)
    with suppress(EOFError):
        while True:
            serving.unit(*pickle.load(requests))
    serving.models.unload()


if __name__ == "__main__":
    main()
