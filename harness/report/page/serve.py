"""Serve a page to this machine alone, with the ranges of bytes that a browser asks for when it seeks in a video."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO

from harness.errors import HarnessError

LOOPBACK = "127.0.0.1"
TIMEOUT_S = 30
"""After so long without a byte a connection is closed."""
_RANGE = re.compile(r"bytes=(\d{0,15})-(\d{0,15})")


class Handler(SimpleHTTPRequestHandler):
    """Files of one folder, whole or in part; only for requests that name this machine, and no list of a folder."""

    timeout = TIMEOUT_S
    protocol_version = "HTTP/1.1"
    left = 0

    def send_head(self) -> Any:
        """The file that is asked for, at the first byte of its range."""
        # Another site may let its name lead to this address; its pages must not read this one.
        if self.headers.get("Host", "").rpartition(":")[0] not in (LOOPBACK, "localhost"):
            return self.send_error(HTTPStatus.FORBIDDEN)
        path = Path(self.translate_path(self.path))
        path = path / "index.html" if path.is_dir() else path
        if not path.is_file() or not path.resolve().is_relative_to(Path(self.directory).resolve()):
            return self.send_error(HTTPStatus.NOT_FOUND)
        size = path.stat().st_size
        first, last, status = 0, size - 1, HTTPStatus.OK
        asked = _RANGE.fullmatch(self.headers.get("Range", ""))
        if asked and (asked[1] or asked[2]):
            first, last = (int(asked[1]), int(asked[2] or size)) if asked[1] else (size - int(asked[2]), size)
            first, last, status = max(0, first), min(last, size - 1), HTTPStatus.PARTIAL_CONTENT
            if first > last:
                return self.send_error(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
        self.left = last - first + 1
        file = path.open("rb")
        file.seek(first)
        self.send_response(status)
        self.send_header("Content-Type", self.guess_type(path))
        self.send_header("Content-Length", str(self.left))
        self.send_header("Accept-Ranges", "bytes")
        if status == HTTPStatus.PARTIAL_CONTENT:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-cache")
        self.end_headers()
        return file

    def copyfile(self, source: Any, outputfile: Any) -> None:
        """The bytes of the range, as long as the browser wants them."""
        _copy(source, outputfile, self.left)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: what is asked for is no news."""


def _copy(source: BinaryIO, target: BinaryIO, left: int) -> None:
    with suppress(BrokenPipeError, ConnectionResetError, TimeoutError):
        while left > 0 and (block := source.read(min(left, 1 << 18))):
            target.write(block)
            left -= len(block)


@contextmanager
def serving(folder: Path, port: int = 0) -> Iterator[ThreadingHTTPServer]:
    """A server of `folder` on the loopback address; Ctrl+C ends the context in peace.

    Raises `HarnessError` where the port is taken.
    """
    try:
        server = ThreadingHTTPServer((LOOPBACK, port), partial(Handler, directory=str(folder)))
    except OSError as error:
        raise HarnessError(f"port {port} cannot be served: {error.strerror}", "name another with --port") from error
    server.daemon_threads = True
    try:
        yield server
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()
