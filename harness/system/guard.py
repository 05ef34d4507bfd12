"""Runs one program for a process, and ends it with all that it has started when it ends, or when that process is gone.

Started by `harness.system.guarded` as `python -I -S guard.py LIFE REPORT PROGRAM ...`: nothing is ever written into the
pipe LIFE, whose end means that the other side has let go or died; into REPORT goes why the program cannot be started.
"""

from __future__ import annotations

import ctypes
import os
import resource
import select
import signal
import sys
from contextlib import suppress

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
ROUNDS = 1000
"""Generations of descendants that are killed: each round finds the children of those that the one before killed."""


def _prctl(option: int, value: int) -> None:
    with suppress(OSError, AttributeError):  # Linux alone has it
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _start(argv: list[str], report: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        # A session of its own: a kill of the group reaches its children where there is no prctl.
        os.setsid()
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        os.execvp(argv[0], argv)
    except (OSError, ValueError) as error:
        os.write(report, str(getattr(error, "strerror", "") or error).encode())
    finally:
        os._exit(127)


def _children() -> list[int]:
    """Of this process, orphans of its descendants included. Empty where the system does not list them."""
    with suppress(OSError), open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
        return [int(word) for word in file.read().split()]
    return []


def _end_all(first: int) -> None:
    for _ in range(ROUNDS):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(first, signal.SIGKILL)
        for pid in _children():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _end_as(status: int) -> None:
    """End as the program did, by a signal where it was one."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with suppress(OSError):
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(os.WEXITSTATUS(status))


def main() -> None:
    """Wait for the program's end, or for that of the process that asked for it."""
    life, report = int(sys.argv[1]), int(sys.argv[2])
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    # An interrupt from a terminal is the other side's to handle.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    woken, waking = os.pipe()
    for end in (life, report, woken, waking):
        os.set_inheritable(end, False)
    os.set_blocking(waking, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(waking, warn_on_full_buffer=False)
    pid = _start(sys.argv[3:], report)
    os.close(report)
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            _end_all(pid)
            _end_as(status)
        if life in select.select([life, woken], [], [])[0]:
            _end_all(pid)
            os._exit(0)
        os.read(woken, 4096)


if __name__ == "__main__":
    main()
