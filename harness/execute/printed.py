"""What models and probes print: one file of the run, each line with the section, model and unit that it came from."""

from __future__ import annotations

import os
import threading
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import IO

from harness.system.files import put
from harness.system.text import plain

PRINTED = "printed.log"
LARGEST = 16 << 20
"""Bytes of the file after which it is put aside, in place of the one put aside before, and begun anew."""
MOST_OF_ONE = 1 << 20
"""Bytes of one unit that are kept."""
LONGEST_LINE = 4096
"""Bytes without a line end that are taken for a line."""
TAIL, TAIL_LINES = 4000, 200
"""Last letters of a unit that a failed record shows, and the lines that they may be of."""
JOIN_S = 2.0
"""Seconds in which what a process has printed is read when it has ended."""
MARK = b"\0"
"""First byte of a line that tells who prints from now on."""


def mark(who: str) -> None:
    """Say into standard error that what follows there is of `who`."""
    with suppress(OSError):
        os.write(2, b"\n" + MARK + plain(who).encode(errors="replace") + b"\n")


class Log:
    """The file in `folder`. It is there once something was printed. Thread-safe; a disk that refuses loses lines."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / PRINTED
        self._writing = threading.Lock()

    def add(self, text: str) -> None:
        """Append whole lines."""
        if not text:
            return
        with self._writing, suppress(OSError):
            if self.path.exists() and self.path.stat().st_size > LARGEST:
                put(self.path, self.path.with_suffix(".before.log"))
            with self.path.open("a", encoding="utf-8", errors="replace") as file:
                file.write(text)


class Lines:
    """Takes printed bytes apart: lines for the log, and the tail of the unit that printed last. Thread-safe."""

    def __init__(self) -> None:
        self._who, self._room, self._rest = "", MOST_OF_ONE, b""
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._taking = threading.Lock()

    def take(self, content: bytes, last: bool = False) -> str:
        """The lines for the log of what came next; a line that has not ended waits for its end, unless it is `last`."""
        *lines, self._rest = (self._rest + content).split(b"\n")
        if last or len(self._rest) > LONGEST_LINE:
            lines, self._rest = [*lines, self._rest], b""
        with self._taking:
            return "".join(map(self._line, lines))

    def _line(self, line: bytes) -> str:
        if line.startswith(MARK):
            self._who, self._room = line[1:].decode("utf-8", "replace"), MOST_OF_ONE
            self._tail.clear()
            return ""
        # Of a line that was printed over again and again, the last state.
        text = plain(line.rstrip(b"\r").rpartition(b"\r")[2][:LONGEST_LINE].decode("utf-8", "replace"))
        if not text.strip():
            return ""
        self._tail.append(text)
        if self._room <= 0:
            return ""
        self._room -= len(text)
        return f"{self._who} | {text}\n" + (f"{self._who} | … and more\n" if self._room <= 0 else "")

    def tail(self) -> str:
        """The end of what the unit printed that came last."""
        with self._taking:
            return "\n".join(self._tail)[-TAIL:]


class Printing:
    """Reads what one process prints into `log`, until the process and all that holds the pipe have ended."""

    def __init__(self, pipe: IO[bytes], log: Log) -> None:
        self._pipe, self._log, self._lines = pipe, log, Lines()
        self._reader = threading.Thread(target=self._read, name="printing", daemon=True)
        self._reader.start()

    def tail(self) -> str:
        """The end of what the unit printed that came last; what its process has printed is read first."""
        self._reader.join(JOIN_S)
        return self._lines.tail()

    def _read(self) -> None:
        with self._pipe, suppress(OSError, ValueError):
            while content := os.read(self._pipe.fileno(), 1 << 16):
                self._log.add(self._lines.take(content))
            self._log.add(self._lines.take(b"", last=True))
