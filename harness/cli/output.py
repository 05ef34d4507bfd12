"""Standard output and error, whose readers may leave, or whose disk may be full."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from harness.errors import StorageError


class Output:
    """A text stream that says nothing more once its reader has left, as `head` and `grep -q` do.

    So a command works on to its end, and its exit code tells how it went. Raises `StorageError` for any other fault,
    where the text is `needed`.
    """

    def __init__(self, stream: IO[str], needed: bool = True) -> None:
        self._stream, self._needed = stream, needed
        self._fault: StorageError | None = None

    def write(self, text: str) -> int:
        """As of any text stream."""
        with self._minded():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """As of any text stream."""
        with self._minded():
            self._stream.flush()

    @contextmanager
    def _minded(self) -> Iterator[None]:
        # Again and again, as whoever tries whether the stream takes texts swallows the first.
        if self._fault:
            raise self._fault
        try:
            yield
        except OSError as error:
            # What is in the buffer would fail again when the interpreter ends.
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)
            if self._needed and not isinstance(error, BrokenPipeError):
                self._fault = StorageError(f"standard output cannot be written: {error.strerror}")
                raise self._fault from error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
