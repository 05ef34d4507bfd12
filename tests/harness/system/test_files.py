"""Files and digests: a write is whole or not at all, a remembered digest is that of the file as it is."""

import hashlib
import os
from pathlib import Path
from typing import IO

import pytest

from harness.errors import StorageError
from harness.system.digests import ALWAYS_HASHED, digest, file_sha256, remembered_sha256
from harness.system.files import cache_folder, write_atomic


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDEOMLA_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    "content", [b"\xc3\xa9", "é", lambda file: file.write(b"\xc3\xa9")], ids=["bytes", "text", "fill"]
)
def test_a_write_makes_its_folder_and_leaves_no_part(tmp_path: Path, content: object) -> None:
    path = tmp_path / "new" / "f"
    write_atomic(path, content)  # type: ignore[arg-type]
    assert [(file.name, file.read_bytes()) for file in path.parent.iterdir()] == [("f", b"\xc3\xa9")]


def test_a_text_that_is_none_is_written_all_the_same(tmp_path: Path) -> None:
    write_atomic(tmp_path / "f", "a \udcff name")
    assert (tmp_path / "f").read_bytes() == b"a ? name"


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f"
    write_atomic(path, b"old")

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["f"]


def test_a_fault_while_writing_keeps_the_old_file_and_its_own_type(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write_atomic(path, "old")

    def fill(file: IO[bytes]) -> None:
        file.write(b"half")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_atomic(path, fill)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("f", "old")]


def test_what_is_no_regular_file_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for name in ("pipe", "link"):
        with pytest.raises(StorageError, match=f"{name} cannot be written: it is no regular file"):
            write_atomic(tmp_path / name, b"new")
    there = {path.name: path.is_fifo() for path in tmp_path.iterdir() if path.name != "cache"}
    assert there == {"pipe": True, "link": True}


def test_a_refusal_of_the_disk_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="file/below cannot be written"):
        write_atomic(tmp_path / "file" / "below", b"")


def test_digests_are_sha_256(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes("é".encode())
    expected = hashlib.sha256(b"\xc3\xa9").hexdigest()
    assert {digest("é"), digest(b"\xc3\xa9"), file_sha256(tmp_path / "f"), remembered_sha256(tmp_path / "f")} == {
        expected
    }


def test_a_small_file_is_hashed_each_time(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    for content in (b"one", b"two"):
        path.write_bytes(content)
        assert remembered_sha256(path) == hashlib.sha256(content).hexdigest()
    assert not cache_folder().exists()


def test_a_large_file_is_hashed_once_and_again_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    path.write_bytes(bytes(ALWAYS_HASHED))
    first = remembered_sha256(path)
    assert first == hashlib.sha256(bytes(ALWAYS_HASHED)).hexdigest()
    memory = cache_folder() / "digests.json"
    memory.write_text(memory.read_text().replace(first, "0" * 64))
    assert remembered_sha256(path) == "0" * 64
    state = path.stat()
    with path.open("r+b") as file:
        file.write(b"x")
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    changed = hashlib.sha256(b"x" + bytes(ALWAYS_HASHED - 1)).hexdigest()
    assert remembered_sha256(path) == changed
    for damaged in ("{broken", "[torn", "[]", f'{{"{path}": 3}}'):
        memory.write_text(damaged)
        assert remembered_sha256(path) == changed


def test_a_cache_that_cannot_be_written_costs_no_digest(tmp_path: Path) -> None:
    cache_folder().touch()
    path = tmp_path / "w.pt"
    path.write_bytes(bytes(ALWAYS_HASHED))
    assert remembered_sha256(path) == file_sha256(path)
