"""A process that streams arrays: the harness's side of `harness_stream`. It survives its death, silence and noise.

Messages go through pipes, each behind its length; pixels through memory without a name, so that none is left behind.
Every wait has a deadline, and whatever breaks the protocol ends the process.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import mmap
import os
import selectors
import signal
import subprocess
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import psutil

from harness.contracts import Frames
from harness.errors import ModelFault
from harness.system.harness_stream import HEADER, LENGTH, MAGIC, PROTOCOL, VARIABLE

MODULE = Path(__file__).with_name("harness_stream.py")
"""What is copied beside the program."""
LONGEST_MESSAGE = 16 << 20
"""Bytes of a message above which the program counts as broken; the stages of a long clip take a hundredth of it."""
LOG_BYTES, LOG_LINES = 16_384, 30
"""What is kept of a program's output, and what errors show of it."""
END_S = 5.0
"""Seconds that a program has for ending when it is asked to."""
NOT_INHERITED = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "CONDA_PREFIX")
"""Variables of this environment that would mislead another one's interpreter."""


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """The variables of a program that runs in an environment of its own: this process's, and `extra`."""
    return {**{name: value for name, value in os.environ.items() if name not in NOT_INHERITED}, **extra}


class RemoteTraceback(Exception):
    """Carries a program's traceback as the cause of a fault, so that it is printed and recorded with it."""

    def __str__(self) -> str:
        return "\n" + str(self.args[0])


@dataclass(slots=True)
class Slot:
    """Room for one chunk in the shared memory: its place there, and what gives the chunk while it is in use."""

    place: int
    memory: mmap.mmap
    chunk: Callable[[], object] = lambda: None

    @property
    def size(self) -> int:
        """Bytes of pixels that it holds."""
        return len(self.memory) - HEADER.size

    def put(self, arrays: Sequence[Frames]) -> None:
        """Lay `arrays` there, one after the other, for the program to read before its first chunk."""
        place = HEADER.size
        for array in arrays:
            self.memory[place : place + array.nbytes] = array.tobytes()
            place += array.nbytes

    def to_json(self) -> list[int]:
        """Place and length, for the program."""
        return [self.place, len(self.memory)]


class StreamProcess:
    """One process that runs `harness_stream.serve`.

    Args:
        argv: program and arguments. folder: its working directory; empty for this one's. variables: to add.

    Attributes:
        base_bytes: resident bytes when its imports were done.
    """

    def __init__(self, argv: Sequence[str], folder: str, variables: Mapping[str, str]) -> None:
        self.base_bytes = 0
        self._memory = _memory()
        self._room = 0
        self._slots: list[Slot] = []
        requests, self._down = os.pipe()
        self._up, answers = os.pipe()
        # Nothing is ever written into it: the program reads its end when this process is gone.
        life, self._life = os.pipe()
        log, printed = os.pipe()
        inherited = (requests, answers, life, self._memory)
        numbers = ",".join(str(number) for number in inherited)
        try:
            self._popen = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=printed,
                pass_fds=inherited,
                cwd=folder or None,
                env=environment({**variables, VARIABLE: numbers, "PYTHONUNBUFFERED": "1"}),
                # A group of its own, so that its end is the end of what it has started too.
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            _close(self._memory, self._down, self._up, self._life, log)
            raise ModelFault(f"the program cannot be started: {error}") from error
        finally:
            # With this process's copy open, the pipe would never end when the program dies.
            _close(requests, answers, life, printed)
        for descriptor in (self._down, self._up):
            os.set_blocking(descriptor, False)
        self._log = _Log(log)
        self._buffer = b""
        self._end = weakref.finalize(self, _end, self._popen, self._memory, self._down, self._up, self._life)

    @property
    def pid(self) -> int:
        """Its number."""
        return self._popen.pid

    @property
    def alive(self) -> bool:
        """Whether it runs and may be asked."""
        return self._end.alive and self._popen.poll() is None

    # ---------------------------------------------------------------------------------------- messages

    def greet(self, seconds: float) -> None:
        """Wait until its imports are done. Raises `ModelFault`."""
        hello = self.receive(seconds, "starting", "hello")
        if hello.get("protocol") != PROTOCOL:
            self.fail(
                f"its harness_stream.py speaks protocol {hello.get('protocol')!r}, not {PROTOCOL}",
                "copy it anew: harness new process NAME writes it",
            )
        with contextlib.suppress(psutil.Error):
            self.base_bytes = int(psutil.Process(self.pid).memory_info().rss)

    def send(self, seconds: float, **message: Any) -> None:
        """Hand over one message. Raises `ModelFault` where it is not taken within `seconds`."""
        data = json.dumps(message).encode()
        data, deadline = LENGTH.pack(len(data)) + data, time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self._down, selectors.EVENT_WRITE)
            while data:
                if not selector.select(max(0.0, deadline - time.monotonic())) and time.monotonic() >= deadline:
                    self.fail(f"the program read nothing for {seconds:g} s and was ended")
                try:
                    data = data[os.write(self._down, data) :]
                except BlockingIOError:
                    continue
                except OSError:
                    self._died("asked")

    def receive(self, seconds: float, doing: str, *expected: str) -> dict[str, Any]:
        """The next message, one of the kinds `expected`. Raises `ModelFault`, also for an exception of the program.

        After an exception the program lives on; after anything else it is gone.
        """
        deadline = time.monotonic() + seconds
        (length,) = LENGTH.unpack(self._read(LENGTH.size, deadline, seconds, doing))
        if length > LONGEST_MESSAGE:
            self.fail(f"{doing}: the program sent a message of {length} bytes, more than {LONGEST_MESSAGE}")
        text = self._read(length, deadline, seconds, doing)
        try:
            message: dict[str, Any] = dict(json.loads(text))
        except (ValueError, TypeError, RecursionError):
            self.fail(f"{doing}: the program sent no message of harness_stream")
        if message.get("op") == "error":
            says = f"{message.get('type')}: {message.get('message')}"
            fault = ModelFault(f"{doing}: {says}{self._log.tail()}")
            raise fault from RemoteTraceback(message.get("traceback"))
        if message.get("op") not in expected:
            self.fail(f"{doing}: the program sent {message.get('op')!r} where {' or '.join(expected)} was due")
        return message

    def _read(self, count: int, deadline: float, seconds: float, doing: str) -> bytes:
        with selectors.DefaultSelector() as selector:
            selector.register(self._up, selectors.EVENT_READ)
            while len(self._buffer) < count:
                now = time.monotonic()
                if now >= deadline:
                    self.fail(f"{doing}: the program gave nothing for {seconds:g} s and was ended")
                # In steps, as something that it has started before it opened its pipes might hold one.
                if not selector.select(min(1.0, deadline - now)):
                    if self._popen.poll() is not None:
                        self._died(doing)
                    continue
                data = os.read(self._up, max(65_536, count - len(self._buffer)))
                if not data:
                    self._died(doing)
                self._buffer += data
        data, self._buffer = self._buffer[:count], self._buffer[count:]
        return data

    # ------------------------------------------------------------------------------------------ pixels

    def slot(self, size: int) -> Slot:
        """Room for a chunk of up to `size` bytes where none lies that is in use. Unwritten pages take no memory."""
        for slot in self._slots:
            if slot.size >= size and slot.chunk() is None:
                return slot
        self._slots = [slot for slot in self._slots if slot.size >= size]
        length = -(-(HEADER.size + size) // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
        os.ftruncate(self._memory, self._room + length)
        slot = Slot(self._room, mmap.mmap(self._memory, length, offset=self._room))
        self._room += length
        self._slots.append(slot)
        return slot

    @property
    def shared_bytes(self) -> int:
        """Bytes of the shared memory that were written to."""
        return os.fstat(self._memory).st_blocks * 512

    def chunk(self, slot: Slot, number: int) -> Frames:
        """Chunk `number`, as it lies in `slot`: no other is put there while somebody holds it.

        Raises `ModelFault` where its header does not say what lies there.
        """
        magic, place, size, *shape = HEADER.unpack_from(slot.memory)
        # Python's integers do not overflow, whatever the header says.
        if magic != MAGIC or place != number or size != math.prod(shape) or not 0 < size <= slot.size:
            self.fail(f"chunk {number}: its header says chunk {place}, {size} bytes, shape {shape}")
        pixels = np.frombuffer(slot.memory, np.uint8, size, HEADER.size)
        slot.chunk = weakref.ref(pixels)
        return pixels.reshape(shape)

    # --------------------------------------------------------------------------------------------- end

    def _died(self, doing: str) -> NoReturn:
        try:
            status = self._popen.wait(END_S)
        except subprocess.TimeoutExpired:
            self.fail(f"{doing}: the program closed its pipe")
        how = f"was killed by {_name_of(-status)}" if status < 0 else f"ended with exit status {status}"
        self.fail(f"{doing}: the program {how}")

    def fail(self, why: str, fix: str = "") -> NoReturn:
        """End the process, and raise `ModelFault` with the last of what it printed."""
        self.kill()
        raise ModelFault(why + self._log.tail(), fix)

    def stop(self) -> None:
        """Ask the process to end, and kill it if it does not."""
        if self.alive:
            with contextlib.suppress(ModelFault, subprocess.TimeoutExpired):
                self.send(END_S, op="stop")
                self._popen.wait(END_S)
        self.kill()

    def kill(self) -> None:
        """End the process at once, with whatever it has started."""
        self._end()


class _Log:
    """Reads what a program prints, and keeps the end: a program that prints without end fills no disk."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._kept = b""
        self._thread = threading.Thread(target=self._drain, name="log", daemon=True)
        self._thread.start()

    def _drain(self) -> None:
        while data := os.read(self._descriptor, 65_536):
            self._kept = (self._kept + data)[-LOG_BYTES:]
        os.close(self._descriptor)

    def tail(self) -> str:
        """The last lines, after a line of their own."""
        self._thread.join(0.2)  # of a program that has just ended, the last lines may be on their way
        lines = [line.rstrip() for line in self._kept.decode(errors="replace").splitlines() if line.strip()]
        return "; its last output:\n" + "\n".join(lines[-LOG_LINES:]) if lines else "; it printed nothing"


def _memory() -> int:
    """Memory without a name, which ends with the last process that holds it."""
    if not hasattr(os, "memfd_create"):
        with tempfile.TemporaryFile(prefix="videomla-bench-") as file:
            return os.dup(file.fileno())
    memory = os.memfd_create("videomla-bench", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    # A program that made it shorter would end this process, which looks at it.
    fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
    return memory


def _name_of(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _end(popen: subprocess.Popen[bytes], *descriptors: int) -> None:
    """Kill a program and all that it has started, and close the descriptors."""
    started: list[psutil.Process] = []
    # Before the end: afterwards nobody knows whose children they were.
    with contextlib.suppress(psutil.Error):
        started = psutil.Process(popen.pid).children(recursive=True)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(popen.pid, signal.SIGKILL)
    for process in started:
        with contextlib.suppress(psutil.Error):
            process.kill()
    _close(*descriptors)
    with contextlib.suppress(subprocess.TimeoutExpired):
        popen.wait(END_S)


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
