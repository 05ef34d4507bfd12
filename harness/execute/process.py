"""A process that works for a run: requests go to it over a pipe, and lines of records and progress come back.

It has a session of its own, so that an interrupt reaches the run alone. The run then ends the process with all that it
has started.
"""

from __future__ import annotations

import faulthandler
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from harness.contracts import registry
from harness.errors import HarnessError, StorageError
from harness.execute import units
from harness.execute.models import Models
from harness.execute.printed import Log, Printing
from harness.runs.line import Record, decode, encode
from harness.system import devices

PROGRESS, RECORD, RUN_FAULT, LOADED, READY = b"s", b"r", b"x", b"l", b"n"
"""First byte of an answer's line: progress in words, a record, a fault that ends the run, that the model is there, or
the wish for more work."""
CLOSING_S = 30.0
"""Seconds that a process has for freeing its model after the last unit."""
END_S = 2.0
"""Seconds that a process has for ending after its answers have."""


class ProcessEnded(HarnessError):
    """A process ended in the middle of a unit."""

    exit_code = 1


@dataclass(frozen=True, slots=True)
class Hello:
    """The first message to a process: the device, the common part of all records, and what to import."""

    parent: int
    device: str
    setting: units.Setting
    path: tuple[str, ...]
    plugins: tuple[Path, ...]
    folder: Path


class Child:
    """The run's side. The process starts with the first request, and again after it died.

    Args:
        module: what it runs, as `python -m` names it. say: gets progress, as in `loading dense`.
        folder: where it works; its requests say what for. environment: variables to add.
        log: takes what it prints; without one that goes where this process prints.
    """

    def __init__(
        self,
        module: str,
        device: str,
        setting: units.Setting,
        say: Callable[[str], None],
        folder: Path,
        environment: Callable[[], Mapping[str, str]],
        log: Log | None = None,
    ) -> None:
        self.module, self.device, self.setting, self.say, self.folder = module, device, setting, say, folder
        self.environment, self.log = environment, log
        self._printing: Printing | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, request: object) -> None:
        """Hand over one request."""
        process = self._process or self._start()
        assert process.stdin is not None
        # A process that has just died still may have said why; its status is read with its answers.
        with suppress(BrokenPipeError):
            pickle.dump(request, process.stdin)
            process.stdin.flush()

    def answers(self) -> Iterator[Record | bytes]:
        """Records as they come, and `LOADED` and `READY`; ends with the process. Raises `StorageError`."""
        if self._process is None:
            return
        assert self._process.stdout is not None
        for line in self._process.stdout:
            kind, text = line[:1], line[1:]
            if kind == PROGRESS:
                self.say(json.loads(text))
            elif kind == RUN_FAULT:
                raise StorageError(*json.loads(text))
            elif kind == RECORD and text.endswith(b"\n"):
                yield decode(text)
            elif kind in (LOADED, READY):
                yield kind

    @contextmanager
    def limited(self, seconds: float) -> Iterator[list[float]]:
        """End the process where what is inside takes longer; the list holds `seconds` from then on."""
        over: list[float] = []

        def end() -> None:
            over.append(seconds)
            self.interrupt()

        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()
        try:
            yield over
        finally:
            timer.cancel()

    def no_more(self) -> None:
        """Say that no request follows, so that the process frees its model and ends."""
        if self._process is not None and self._process.stdin is not None:
            with suppress(BrokenPipeError):
                self._process.stdin.close()

    def how_it_ended(self) -> str:
        """Wait for the end of a process whose answers have ended; its exit status in words."""
        status: int | None = 0
        if self._process is not None:
            try:
                status = self._process.wait(END_S)
            except subprocess.TimeoutExpired:
                status = None
        self.kill()
        return _in_words(status)

    def tail(self) -> str:
        """The end of what the process printed about its last request; empty where nobody reads that."""
        return "" if self._printing is None else self._printing.tail()

    def close(self) -> None:
        """Let the process free its model and end; kill it where it does not, or is in the middle of a unit."""
        self.no_more()
        if self._process is not None:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(CLOSING_S)
        self.kill()

    def interrupt(self) -> None:
        """Kill the process, if there is one; its answers end in the thread that reads them. Thread-safe."""
        if (process := self._process) is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)

    def kill(self) -> None:
        """End the process, if there is one, with all that it started."""
        self.interrupt()
        process, self._process = self._process, None
        if process is None:
            return
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()

    def _start(self) -> subprocess.Popen[bytes]:
        self._process = process = subprocess.Popen(
            [sys.executable, "-m", self.module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if self.log is None else subprocess.PIPE,
            env={**os.environ, **self.environment()},
            start_new_session=True,
        )
        threading.Thread(target=_end_group, args=(process,), daemon=True).start()
        if self.log is not None and process.stderr is not None:
            self._printing = Printing(process.stderr, self.log)
        assert process.stdin is not None
        plugins = tuple(registry.plugin_files)
        # An empty entry is the working folder, which a model may leave; what is no path is an import hook's own.
        path = tuple(os.path.abspath(entry) if os.path.exists(entry or ".") else entry for entry in sys.path)
        hello = Hello(os.getpid(), self.device, self.setting, path, plugins, self.folder)
        pickle.dump(hello, process.stdin)
        return process


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Wait for the end of `process`, and end what it has forked, which would keep its answers open."""
    process.wait()
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _in_words(status: int | None) -> str:
    """How a process ended; None for one that was ended, as it gave no more answers."""
    if status is None:
        return "by closing its pipe"
    if status >= 0:
        return f"with exit status {status}"
    why = ", as by the system when memory runs out" if status == -signal.SIGKILL else ""
    names = {member.value: member.name for member in signal.Signals}
    return f"by signal {names.get(-status, -status)}{why}"


# ------------------------------------------------------------------------------ the process itself


class Server(ABC):
    """The process's side: one request after the other."""

    def __init__(self, hello: Hello, answer: IO[bytes]) -> None:
        self.hello, self.answer = hello, answer
        self.models = Models(hello.device, self.say)
        self._answering = threading.Lock()

    @abstractmethod
    def serve(self, *request: Any) -> None:
        """Do what a request asks for, and answer. Raises `StorageError`, which ends the run."""

    def finish(self) -> None:
        """What is left to do when no request follows. Raises `StorageError`."""
        return

    def tell(self, kind: bytes, text: bytes = b"") -> None:
        """Write one line; threads may do so in turn."""
        with self._answering:
            self.answer.write(kind + text.rstrip(b"\n") + b"\n")
            self.answer.flush()

    def say(self, words: str) -> None:
        """Send progress."""
        self.tell(PROGRESS, json.dumps(words).encode())

    def keep(self, record: Record) -> None:
        """Send a record, for the run to write."""
        self.tell(RECORD, encode(record))


def main(server: Callable[[Hello, IO[bytes]], Server]) -> None:
    """Answer until the run closes its pipe. Ends with the run, should that die."""
    requests = os.fdopen(os.dup(0), "rb")
    answer = os.fdopen(os.dup(1), "wb")
    # Models' output goes to standard error, so that it is never taken for an answer. Models cannot read the requests.
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    faulthandler.enable()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    hello: Hello = pickle.load(requests)
    devices.end_with_parent(hello.parent)
    # Plug-ins import from where the run's interpreter found them.
    sys.path[:] = hello.path
    for path in hello.plugins:
        registry.load_plugin(path)
    serving = server(hello, answer)
    try:
        with suppress(EOFError):
            while True:
                serving.serve(*pickle.load(requests))
        serving.finish()
    except StorageError as refused:
        serving.tell(RUN_FAULT, json.dumps([refused.message, refused.fix]).encode())
    serving.models.unload()
