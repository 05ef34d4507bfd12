"""The parent's side of one worker process: start it, ask it, and survive its death, its silence and its noise."""

from __future__ import annotations

import contextlib
import json
import math
import os
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, NoReturn

from pydantic import Strict, TypeAdapter, ValidationError

from harness.contracts import Clip, Json
from harness.errors import HarnessError, OptionError, shown
from harness.system.platforms import described, here, on_linux

PROGRAM = Path(__file__).with_name("program.py")
PROTOCOL = 1
LOG_LINES = 12
END_S = 5.0
"""Seconds that a worker has for ending when it is asked to."""
LARGEST_LOG = 64 << 20
"""Bytes of printed output after which the log starts anew."""
LONGEST_LINE = 64 << 20
"""Bytes without a line end after which a worker counts as broken."""

NO_NETWORK = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # Packages here fetch files by requests, urllib and wget alike; all three honour a proxy, and none listens there.
    "http_proxy": "http://127.0.0.1:9",
    "https_proxy": "http://127.0.0.1:9",
    "HTTP_PROXY": "http://127.0.0.1:9",
    "HTTPS_PROXY": "http://127.0.0.1:9",
    "no_proxy": "",
    "NO_PROXY": "",
}
"""Weights come by `harness fetch`; whatever a package would download while scoring fails at once instead."""


class WorkerFault(HarnessError):
    """The worker process itself failed: it died, fell silent, took too long, or could not start."""

    exit_code = 1


class JobFault(HarnessError):
    """A job raised an exception. `kind` is its type's name, `remote` its traceback inside the environment."""

    exit_code = 1

    def __init__(self, message: str, kind: str, remote: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.remote = remote


class RemoteTraceback(Exception):
    """Carries a worker's traceback as the cause of a `JobFault`, so that it is printed and recorded with it."""

    def __str__(self) -> str:
        return "\n" + str(self.args[0])


@dataclass(frozen=True, slots=True)
class Answer:
    """One clip's scores: `values` by name, the `samples` behind them, seconds of work, and the worker's peak bytes."""

    values: dict[str, float]
    samples: dict[str, list[float]]
    seconds: float
    peak_bytes: int


_ANSWER = ("values", "samples", "seconds")
_Number = Annotated[float, Strict()]
_CHECKED_ANSWER = TypeAdapter(tuple[dict[str, _Number], dict[str, list[_Number]], _Number])


@dataclass(frozen=True, slots=True)
class Limits:
    """What a worker may take.

    Attributes:
        start: seconds until its hello.
        setup: seconds for one job's setup, score: for one clip.
        silence: seconds without a heartbeat after which it counts as hung, long enough for a suspended machine or a
            package that loads for minutes without letting another thread run; beat: seconds between heartbeats.
        memory: bytes of address space, 0 for no limit.
        threads: numeric threads, 0 for the packages' own choice.
    """

    start: float = 300.0
    setup: float = 1800.0
    score: float = 3600.0
    silence: float = 600.0
    beat: float = 2.0
    memory: int = 0
    threads: int = 0

    def with_user_settings(self) -> Limits:
        """These limits, replaced by `$VIDEOMLA_WORKER_MEMORY` (GB), `_SECONDS` (a clip) and `_THREADS` where set.

        CUDA reserves far more address space than it uses, so a limit on memory suits the CPU alone. Raises
        `OptionError` for what is no positive number, and for a limit on memory that the system would not enforce.
        """
        memory, seconds, threads = (_setting(name) for name in ("MEMORY", "SECONDS", "THREADS"))
        if memory and not on_linux():
            raise OptionError(
                f"VIDEOMLA_WORKER_MEMORY needs Linux (RLIMIT_AS); {described(here())} does not enforce it",
                "unset VIDEOMLA_WORKER_MEMORY",
            )
        return replace(
            self,
            memory=int(memory * 1e9) if memory else self.memory,
            score=seconds or self.score,
            threads=int(threads) if threads else self.threads,
        )


def _setting(name: str) -> float:
    variable = f"VIDEOMLA_WORKER_{name}"
    text = os.environ.get(variable, "")
    try:
        number = float(text or 0)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise OptionError(f"{variable} is {text!r}, not a number", f"give it a positive number, or unset {variable}")
    return number


class Worker:
    """One worker process. It starts when it is first needed, and again after it died.

    Args:
        python: the interpreter of the environment.
        name: shown in errors, as in `quality`.
        settings: environment variables on top of this process's own.
        limits: times and memory.
        online: leave the network open, which nothing but a download needs.
    """

    def __init__(
        self,
        python: Path,
        name: str,
        settings: Mapping[str, str] | None = None,
        limits: Limits | None = None,
        online: bool = False,
    ) -> None:
        self.python = python
        self.name = name
        self.limits = limits or Limits()
        self.hello: dict[str, Any] = {}
        self._settings = {**({} if online else NO_NETWORK), **(settings or {})}
        self._process: _Process | None = None
        self._ready: set[str] = set()
        self._next = 0

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.popen.poll() is None

    def start(self) -> None:
        """Start the process unless it runs, and wait for its hello. Raises `WorkerFault`."""
        if self.alive:
            return
        self.stop()
        self._process = _Process(self.python, self.name, self._settings, self.limits)
        hello = self._wait(None, self.limits.start, "starting")
        if hello.get("protocol") != PROTOCOL:
            self.kill()
            raise WorkerFault(f"worker {self.name}: speaks protocol {hello.get('protocol')}, not {PROTOCOL}")
        self.hello = hello

    def setup(self, job: str, file: Path, options: Mapping[str, Json], weights: Path, device: str) -> None:
        """Have the worker import `file` and call its `setup`, unless this process has done so. Raises as `score`."""
        self.start()
        if job not in self._ready:
            message = {"op": "setup", "job": job, "file": str(file.resolve()), "options": dict(options)}
            self._ask({**message, "weights": str(weights), "device": device}, self.limits.setup, f"setting up {job}")
            self._ready.add(job)

    def score(self, job: str, clip: Clip) -> Answer:
        """Score one clip by a job that is set up.

        Raises:
            JobFault: the job raised; the worker lives on.
            WorkerFault: the worker died, fell silent or took too long, and is gone; the next call starts another.
        """
        message = {"op": "score", "job": job, "clip": clip_fields(clip)}
        answer = self._ask(message, self.limits.score, f"scoring {clip.path.name} by {job}")
        peak = self._process.peak_bytes if self._process else 0
        try:
            return Answer(*_CHECKED_ANSWER.validate_python([answer.get(name) for name in _ANSWER]), peak)
        except ValidationError:
            said = shown(json.dumps(answer), 300)
            self._broken(f"scoring {clip.path.name} by {job}: it gave {said}, which is no score,")

    def stop(self) -> None:
        """Ask the process to end, and kill it if it does not."""
        self._end(gently=True)

    def kill(self) -> None:
        """End the process at once, with whatever it started."""
        self._end(gently=False)

    def _end(self, gently: bool) -> None:
        process, self._process = self._process, None
        self._ready.clear()
        if process is not None:
            process.end(gently)

    def _ask(self, message: Mapping[str, Any], seconds: float, doing: str) -> dict[str, Any]:
        assert self._process is not None
        self._next += 1
        process = self._process
        process.mark_log()
        try:
            taken = process.send({**message, "id": self._next}, self.limits.silence)
        except OSError:
            self._died(doing)
        if not taken:
            self._broken(f"{doing}: it read nothing for {self.limits.silence:g} s")
        answer = self._wait(self._next, seconds, doing)
        if answer["op"] == "error":
            kind, says, remote = (str(answer.get(name)) for name in ("type", "message", "traceback"))
            raise JobFault(f"{kind}: {says}{process.log_tail()}", kind, remote) from RemoteTraceback(remote)
        return answer

    def _wait(self, number: int | None, seconds: float, doing: str) -> dict[str, Any]:
        """The answer to message `number` (None: the hello). Any other line is ignored."""
        assert self._process is not None
        process = self._process
        now = time.monotonic()
        deadline, heard = now + seconds, now
        # Heartbeats begin after the hello.
        silence = self.limits.silence if number is not None else seconds
        while True:
            now = time.monotonic()
            until = min(deadline, heard + silence)
            if now >= until:
                over = "took more than" if now >= deadline else "gave no sign of life for"
                length = seconds if now >= deadline else silence
                self._broken(f"{doing} {over} {length:g} s")
            lines = process.read(until - now)
            if lines is None:
                self._died(doing)
            for line in lines or ():
                message = _parse(line)
                if message is not None:
                    heard = time.monotonic()
                    if isinstance(peak := message.get("peak"), int):
                        process.peak_bytes = max(process.peak_bytes, peak)
                    if message["op"] == "hello" if number is None else message.get("id") == number:
                        return message

    def _broken(self, why: str) -> NoReturn:
        """End a process that does not keep to the protocol."""
        tail = self._process.log_tail() if self._process else ""
        self.kill()
        raise WorkerFault(f"worker {self.name}: {why} and was ended{tail}")

    def _died(self, doing: str) -> NoReturn:
        assert self._process is not None
        process = self._process
        cause = process.cause_of_death()
        tail = process.log_tail()
        self.kill()
        raise WorkerFault(f"worker {self.name}: {doing}: {cause}{tail}")


@dataclass
class _Process:
    """The operating system's side of a worker: pipes, log file, and how it ended."""

    python: Path
    name: str
    settings: Mapping[str, str]
    limits: Limits
    peak_bytes: int = 0
    popen: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        descriptor, path = tempfile.mkstemp(prefix="worker-", suffix=".log")
        self._log = os.fdopen(descriptor, "rb+", buffering=0)
        # The worker appends through a descriptor of its own: reading here must not move where it writes.
        appended = os.open(path, os.O_WRONLY | os.O_APPEND)
        # The file lives as long as it is open, so a crash leaves none behind.
        os.unlink(path)
        self._marked = 0
        self._buffer = b""
        down_read, self._down = os.pipe()
        self._up, up_write = os.pipe()
        os.set_blocking(self._up, False)
        os.set_blocking(self._down, False)
        arguments = [str(down_read), str(up_write), str(self.limits.beat), str(self.limits.memory)]
        try:
            self.popen = subprocess.Popen(
                [str(self.python), "-I", "-u", str(PROGRAM), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=appended,
                stderr=appended,
                pass_fds=(down_read, up_write),
                env=self._environment(),
                # A group of its own, so that `end` also kills what packages start.
                start_new_session=True,
            )
        except OSError as error:
            self._close()
            raise WorkerFault(f"worker {self.name}: cannot start {self.python}: {error}") from error
        finally:
            # With this process's copy of `up_write` open, the pipe would never end when the worker dies.
            for inherited in (down_read, up_write, appended):
                os.close(inherited)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._up, selectors.EVENT_READ)

    def _environment(self) -> dict[str, str]:
        dropped = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
        settings = {key: value for key, value in os.environ.items() if key not in dropped} | dict(self.settings)
        # Numeric libraries read these when they are imported.
        if self.limits.threads:
            settings |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(self.limits.threads))
        return settings

    def send(self, message: Mapping[str, Any], seconds: float) -> bool:
        """Hand over one message; whether it was taken within `seconds`. Raises `OSError` where nobody can take it."""
        # A worker reads between jobs alone. It is asked only after it has answered, so this waits for no job.
        data, deadline = json.dumps(message).encode() + b"\n", time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self._down, selectors.EVENT_WRITE)
            while data:
                if not selector.select(max(0.0, deadline - time.monotonic())) and time.monotonic() >= deadline:
                    return False
                with contextlib.suppress(BlockingIOError):
                    data = data[os.write(self._down, data) :]
        return True

    def read(self, seconds: float) -> list[bytes] | None:
        """Whole lines that came within `seconds`, perhaps none; None when the pipe is closed, or a line has no end."""
        # The file has no name, so nothing else could rotate it, and a package may print without end.
        if os.fstat(self._log.fileno()).st_size > LARGEST_LOG:
            self._log.truncate(0)
            self._marked = 0
        if not self._selector.select(max(0.0, seconds)):
            return []
        data = os.read(self._up, 1 << 20)
        if not data:
            return None
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        if len(self._buffer) > LONGEST_LINE:
            return None
        return lines

    def mark_log(self) -> None:
        """Let `log_tail` begin here."""
        self._marked = self._log.seek(0, os.SEEK_END)

    def log_tail(self) -> str:
        """The last lines that the worker printed since the mark, indented for an error; empty when it was quiet."""
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(self._marked, size - 16_384))
        lines = (self._log.read(16_384) or b"").decode("utf-8", "replace").splitlines()[-LOG_LINES:]
        printed = [line.rstrip() for line in lines if line.strip()]
        return "\n  its log ends:\n    " + "\n    ".join(printed) if printed else ""

    def cause_of_death(self) -> str:
        try:
            code = self.popen.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return "it closed its pipe"
        if code == -signal.SIGKILL:
            return "it was killed by SIGKILL, as by the system when memory runs out"
        if code < 0:
            return f"it was killed by {signal.Signals(-code).name}"
        return f"it ended with exit status {code}"

    def end(self, gently: bool) -> None:
        if gently:
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                self.send({"op": "stop"}, END_S)
                self.popen.wait(timeout=END_S)
        # Also after a gentle end: what the worker started may outlive it.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait()
        self._selector.close()
        self._close()

    def _close(self) -> None:
        os.close(self._down)
        os.close(self._up)
        self._log.close()


def clip_fields(clip: Clip) -> dict[str, Any]:
    """A clip as the worker gets it: every field but the decoder."""
    fields: dict[str, Any] = {
        "path": str(clip.path.resolve()),
        "prompt": clip.prompt,
        "seed": clip.seed,
        "index": clip.index,
        "frames": clip.frames,
        "height": clip.height,
        "width": clip.width,
        "frame_rate": clip.frame_rate,
        "digest": clip.digest,
        "switches": [[frame, text] for frame, text in clip.switches],
    }
    return {**fields, "reference": clip_fields(clip.reference)} if clip.reference else fields


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) and isinstance(message.get("op"), str) else None
