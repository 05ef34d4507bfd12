"""Clips of a folder by VBench's names, `<prompt>-<i>.<ending>`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from harness.errors import ClipError, NotAvailable
from harness.system.reader import open_clip


def by_name(folder: Path) -> Mapping[tuple[str, int], list[Path]]:
    """The files named `<prompt>-<i>` with whatever ending, by prompt and i, in the order of their names.

    What a file is, its content says: where several have one name, those of them that are no clips are left out.
    Raises `NotAvailable` for a folder that cannot be read.
    """
    files: dict[tuple[str, int], list[Path]] = {}
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        why = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
        raise NotAvailable(f"folder {folder} {why}", "give the folder of the clips as `path`") from error
    for path in paths:
        prompt, dash, number = path.stem.rpartition("-")
        named = dash and prompt and number.isascii() and number.isdigit() and not path.name.startswith(".")
        if named and path.is_file():
            files.setdefault((prompt, int(number)), []).append(path)
    for key, group in files.items():
        if len(group) > 1:
            files[key] = [path for path in group if _is_clip(path)] or group
    return files


def _is_clip(path: Path) -> bool:
    try:
        with open_clip(path):
            return True
    except ClipError:
        return False


def is_text(path: Path) -> bool:
    """Whether a file begins as a text does, as one about a clip."""
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError:
        return False
    return len(start) > 0 and not start.startswith(b"YUV4MPEG2") and not any(byte < 9 or byte == 127 for byte in start)


def prompts_of(folder: Path) -> list[str]:
    """The prompts that the names of a folder's clips hold, each once. Raises `NotAvailable`."""
    groups = by_name(folder).items()
    return list(dict.fromkeys(prompt for (prompt, _), files in groups if not is_text(files[0])))
