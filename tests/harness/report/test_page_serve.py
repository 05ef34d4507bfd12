"""The server of a page: parts of files, and nothing to those who should have nothing."""

from __future__ import annotations

import http.client
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import run_folders
from run_folders import Arm, write_run

from harness.errors import HarnessError
from harness.report.page.serve import serving

BYTES = bytes(range(256)) * 8
Ask = Callable[..., tuple[int, dict[str, str], bytes]]


@pytest.fixture
def ask(tmp_path: Path) -> Iterator[Ask]:
    (tmp_path / "secret.txt").write_text("secret")
    root = tmp_path / "page"
    (root / "clips").mkdir(parents=True)
    (root / "index.html").write_text("<p>page")
    (root / "clips" / "a.mp4").write_bytes(BYTES)
    (root / "clips" / "out.txt").symlink_to(tmp_path / "secret.txt")
    with serving(root) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()

        def request(
            path: str, host: str = "", method: str = "GET", **headers: str
        ) -> tuple[int, dict[str, str], bytes]:
            connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
            try:
                connection.putrequest(method, path, skip_host=True)
                for name, text in {"Host": host or f"localhost:{server.server_port}", **headers}.items():
                    connection.putheader(name, text)
                connection.endheaders()
                answer = connection.getresponse()
                return answer.status, dict(answer.getheaders()), answer.read()
            finally:
                connection.close()

        yield request
        server.shutdown()


def test_whole_files_and_the_page_of_the_folder(ask: Ask) -> None:
    status, headers, body = ask("/")
    assert (status, headers["Content-Type"], body) == (200, "text/html", b"<p>page")
    status, headers, body = ask("/clips/a.mp4")
    assert (status, headers["Accept-Ranges"], body) == (200, "bytes", BYTES)
    assert ask("/clips/a.mp4", method="HEAD")[2] == b""


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [("bytes=0-", 0, 2047), ("bytes=100-199", 100, 199), ("bytes=2000-9999", 2000, 2047), ("bytes=-5", 2043, 2047)],
)
def test_a_range_is_that_range(ask: Ask, asked: str, first: int, last: int) -> None:
    status, headers, body = ask("/clips/a.mp4", Range=asked)
    assert (status, headers["Content-Range"]) == (206, f"bytes {first}-{last}/2048")
    assert body == BYTES[first : last + 1]


def test_ranges_that_are_none(ask: Ask) -> None:
    assert ask("/clips/a.mp4", Range="bytes=2048-")[0] == 416
    assert ask("/clips/a.mp4", Range="bytes=9-3")[0] == 416
    assert ask("/clips/a.mp4", Range="lines=1-2")[::2] == (200, BYTES)
    assert ask("/clips/a.mp4", Range="bytes=-")[::2] == (200, BYTES)


def test_nothing_outside_the_folder_and_no_lists(ask: Ask) -> None:
    for path in ("/../secret.txt", "/%2e%2e/secret.txt", "/clips/out.txt", "/clips/", "/nothing"):
        status, _, body = ask(path)
        assert status == 404, path
        assert b"secret" not in body


def test_only_requests_that_name_this_machine(ask: Ask) -> None:
    assert ask("/", host="example.org:80")[0] == 403
    assert ask("/", method="POST")[0] == 501


def test_a_port_that_is_taken_is_one_line(tmp_path: Path) -> None:
    with (
        serving(tmp_path) as server,
        pytest.raises(HarnessError, match="cannot be served"),
        serving(tmp_path, server.server_port),
    ):
        pass


def test_the_command_serves_its_page_until_it_is_stopped(tmp_path: Path) -> None:
    write_run(tmp_path / "run", [Arm("dense", [0.5] * 4), Arm("latent", [0.6] * 4)])
    plugin = Path(run_folders.__file__)
    command = [sys.executable, "-m", "harness", "page", str(tmp_path / "run"), "--serve", "--plugin", str(plugin)]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        # A shell's background jobs ignore the signal, and so would what they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    try:
        assert "index.html (0 clips, 8 places without one)" in process.stdout.readline()
        address = process.stdout.readline().split()[1]
        with urllib.request.urlopen(address, timeout=30) as answer:
            assert b"<h1>fake</h1>" in answer.read()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
        process.stdout.close()
        process.wait()
