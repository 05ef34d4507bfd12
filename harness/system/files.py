"""Write files that survive a crash: write aside, sync, rename into place, sync the folder."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from harness.errors import StorageError

CACHE_VARIABLE = "VIDEOMLA_CACHE"
WEIGHTS_VARIABLE = "VIDEOMLA_WEIGHTS"
CACHES_VARIABLE = "XDG_CACHE_HOME"

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


def open_regular(path: Path, buffering: int = -1) -> IO[bytes]:
    """A file that someone named, to be read. Raises `OSError` for a pipe or a device, which may never end."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except ValueError as error:
        raise OSError(errno.EINVAL, "its name holds a NUL") from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "it is no regular file")
    return open(handle, "rb", buffering)


def read_limited(path: Path, most: int) -> bytes:
    """The content of a file that someone named. Raises `OSError` for one of more than `most` bytes, or no file."""
    with open_regular(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"it is larger than {most:,} bytes")
    return content


def reason(error: Exception) -> str:
    """Why a file could not be read, in one line, without its name: callers name it."""
    return getattr(error, "strerror", None) or " ".join(str(error).split())


def read_regular(path: Path) -> bytes:
    """The content of a file in a folder that someone named. Raises `OSError` as `open_regular` does."""
    with open_regular(path) as file:
        return file.read()


def expanded(name: str | Path) -> Path:
    """A path whose `~` stands for a home; as it is where there is no such home."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        return Path(name)


def below(root: Path) -> Iterator[Path]:
    """Every file in `root` or below it, however deep. Links to folders are not followed; what cannot be read is not."""
    folders = [str(root)]
    while folders:
        with suppress(OSError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                else:
                    yield Path(entry.path)


def sync(path: Path) -> None:
    """Bring a file's content, or a folder's entries, to the disk, so that they survive the loss of power."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(folder: Path) -> None:
    """Make `folder` and its parents durably; nothing when it is there."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for each in reversed(missing):
        each.mkdir(exist_ok=True)
        sync(each.parent)


@contextmanager
def aside(path: Path) -> Iterator[Path]:
    """A name beside `path` for its new content, which takes its place at the end. Makes the folder.

    On any failure the old content stands and no part is left. Raises `StorageError` for an `OSError`, and for what is
    no regular file: a device would be gone.
    """
    # The process is in the name, as two of them may fill one cache.
    part = path.parent / f".{path.name}.{os.getpid()}{TEMPORARY}"
    with storage(path):
        if not path.name:
            raise OSError(errno.EINVAL, "it names no file")
        make_folder(path.parent)
        if path.exists() and not path.is_file():
            raise OSError(errno.EINVAL, "it is no regular file")
        try:
            yield part
            put(part, path)
        finally:
            part.unlink(missing_ok=True)


def put(part: Path, path: Path) -> None:
    """Let a whole file `part` of the same folder take the place of `path`, and bring both to the disk."""
    # First the content, as the file system may otherwise bring the renaming to the disk ahead of it.
    sync(part)
    os.replace(part, path)
    sync(path.parent)


def write_atomic(path: Path, content: bytes | str | Callable[[IO[bytes]], object]) -> None:
    """Replace the content of `path` as a whole or not at all. Makes the folder.

    Args:
        content: bytes, a text for UTF-8 (a half of a surrogate pair, as a file's name may hold, becomes `?`), or what
            writes to the opened file (`w+b`).

    Raises `StorageError`, or whatever `content` raises besides `OSError`.
    """
    with aside(path) as part, part.open("w+b") as file:
        if callable(content):
            content(file)
        else:
            file.write(content.encode(errors="replace") if isinstance(content, str) else content)


@contextmanager
def folder_kept() -> Iterator[None]:
    """Come back to the present working folder, whatever foreign code inside makes of it."""
    # By a handle, as the folder may be renamed or deleted meanwhile. Linux gives one also where listing is not allowed.
    handle = os.open(".", getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield
    finally:
        os.fchdir(handle)
        os.close(handle)


def fix_folders() -> None:
    """Let variables that name folders by relative paths name the same ones, wherever this process and its own go."""
    for variable in (CACHE_VARIABLE, WEIGHTS_VARIABLE, CACHES_VARIABLE):
        if name := os.environ.get(variable):
            os.environ[variable] = str(expanded(name).absolute())


def cache_folder() -> Path:
    """The folder of what can be made again: `$VIDEOMLA_CACHE`, or `videomla-bench` in the user's cache folder."""
    configured = os.environ.get(CACHE_VARIABLE)
    return expanded(configured).resolve() if configured else _user_cache()


def weights_folder() -> Path:
    """The folder of fetched weights: `$VIDEOMLA_WEIGHTS`, or `videomla-bench/weights` in the user's cache folder."""
    configured = os.environ.get(WEIGHTS_VARIABLE)
    return expanded(configured).resolve() if configured else _user_cache() / "weights"


@contextmanager
def weights_in(folder: Path) -> Iterator[None]:
    """Let `weights_folder()` be `folder` meanwhile, here and in processes that are started."""
    before = os.environ.get(WEIGHTS_VARIABLE)
    os.environ[WEIGHTS_VARIABLE] = str(folder.absolute())
    try:
        yield
    finally:
        if before is None:
            del os.environ[WEIGHTS_VARIABLE]
        else:
            os.environ[WEIGHTS_VARIABLE] = before


def _user_cache() -> Path:
    return Path(os.environ.get(CACHES_VARIABLE) or Path.home() / ".cache") / "videomla-bench"
