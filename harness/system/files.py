"""Write files that survive a crash: write aside, sync, rename into place, sync the folder."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from harness.errors import StorageError

CACHE_VARIABLE = "VIDEOMLA_CACHE"
WEIGHTS_VARIABLE = "VIDEOMLA_WEIGHTS"

TEMPORARY = ".part"
"""Ending of a file that is being written; one that a crash left behind may be deleted."""
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def storage(path: Path) -> Iterator[None]:
    """Turn an `OSError` inside into a `StorageError` that names `path`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        mend = "make room" if error.errno in _FULL else "make it writable, or choose another place"
        raise StorageError(
            f"{path} cannot be written: {reason}", f"{mend}, then run again: what is recorded is kept"
        ) from error


def sync_folder(folder: Path) -> None:
    """Bring a folder's entries to the disk, so that a new or renamed file survives the loss of power."""
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(folder: Path) -> None:
    """Make `folder` and its parents durably; nothing when it is there."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def write(path: Path, fill: Callable[[IO[bytes]], None]) -> None:
    """Have `fill` write the new content of `path`. On any failure the old content stands and no part is left.

    Raises `StorageError`, or whatever `fill` raises besides `OSError`.
    """
    part = path.with_name(f".{path.name}{TEMPORARY}")
    with storage(path):
        make_folder(path.parent)
        try:
            with part.open("w+b") as file:
                fill(file)
                file.flush()
                # Before the renaming, which the file system may otherwise bring to the disk ahead of the content.
                os.fsync(file.fileno())
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def write_bytes(path: Path, content: bytes) -> None:
    """Replace the content of `path` as a whole or not at all."""

    def fill(file: IO[bytes]) -> None:
        file.write(content)

    write(path, fill)


def cache_folder() -> Path:
    """The folder of what can be made again: `$VIDEOMLA_CACHE`, or `videomla-bench` in the user's cache folder."""
    configured = os.environ.get(CACHE_VARIABLE)
    return Path(configured).expanduser().resolve() if configured else _user_cache()


def weights_folder() -> Path:
    """The folder of fetched weights: `$VIDEOMLA_WEIGHTS`, or `videomla-bench/weights` in the user's cache folder."""
    configured = os.environ.get(WEIGHTS_VARIABLE)
    return Path(configured).expanduser().resolve() if configured else _user_cache() / "weights"


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "videomla-bench"
