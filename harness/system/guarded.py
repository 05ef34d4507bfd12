"""Start someone else's program so that nothing of it outlives this process, however that ends."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any

GUARD = Path(__file__).with_name("guard.py")
END_S = 10.0
"""Seconds that the guard has for ending all that the program has started."""


class Guarded:
    """One run of a program. When it ends, or this process does, so does all that it has started.

    On Linux also what has left its group and session; elsewhere its group. A context manager, which ends it.

    Args:
        argv: program and arguments. folder: its working directory; empty for this one's. variables: all of them.
        stdin, stdout, stderr: as of `subprocess.Popen`.

    Raises `OSError` where the program cannot be started.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        folder: str = "",
        variables: Mapping[str, str] | None = None,
        stdin: int | IO[Any] = subprocess.DEVNULL,
        stdout: int | IO[Any] = subprocess.DEVNULL,
        stderr: int | IO[Any] = subprocess.DEVNULL,
    ) -> None:
        life, self._life = os.pipe()
        said, report = os.pipe()
        try:
            self.popen = subprocess.Popen(
                [sys.executable, "-I", "-S", str(GUARD), str(life), str(report), *argv],
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                pass_fds=(life, report),
                cwd=folder or None,
                env=variables,
                start_new_session=True,
            )
        except (OSError, ValueError):
            os.close(self._life)
            os.close(said)
            raise
        finally:
            # With this process's copies open, neither pipe would end.
            os.close(life)
            os.close(report)
        with os.fdopen(said, "rb") as pipe:
            why = pipe.read(1000).decode(errors="replace")
        if why:
            self.end()
            for end in (self.popen.stdin, self.popen.stdout, self.popen.stderr):
                if end is not None:
                    end.close()
            raise OSError(0, why)

    def wait(self, seconds: float) -> int:
        """The program's exit status, negative for a signal. Raises `subprocess.TimeoutExpired`."""
        return self.popen.wait(seconds)

    def end(self) -> None:
        """End the program with all that it has started; nothing where it has ended."""
        if self._life < 0:
            return
        os.close(self._life)
        self._life = -1
        with suppress(subprocess.TimeoutExpired):
            self.popen.wait(END_S)
        self.popen.kill()
        self.popen.wait()

    def __enter__(self) -> Guarded:
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, at: TracebackType | None) -> None:
        self.end()
