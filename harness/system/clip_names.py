"""Clips of a folder by VBench's names, `<prompt>-<i>.<ending>`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from harness.errors import ClipError, NotAvailable
from harness.system.reader import open_clip


def by_name(folder: Path) -> Mapping[tuple[str, int], list[Path]]:
    """The files named `<prompt>-<i>` with whatever ending, by prompt and i, in the order of their names.

    Where several files have one name, those of them that are no clips (a text beside a clip, say) are left out: what a
    file is, its content says. Raises `NotAvailable` for a folder that cannot be read.
    """
    files: dict[tuple[str, int], list[Path]] = {}
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        why = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
        raise NotAvailable(f"folder {folder} {why}", "give the folder of the clips as `path`") from error
    for path in paths:
        prompt, dash, number = path.stem.rpartition("-")
        if (
            dash
            and prompt
            and number.isascii()
            and number.isdigit()
            and not path.name.startswith(".")
            and path.is_file()
        ):
            files.setdefault((prompt, int(number)), []).append(path)
    return {
        key: [path for path in group if is_clip(path)] or group if group[1:] else group for key, group in files.items()
    }


def is_clip(path: Path) -> bool:
    """Whether a file has a picture to decode, by its content."""
    try:
        with open_clip(path):
            return True
    except ClipError:
        return False


def prompts_of(folder: Path) -> list[str]:
    """The prompts that the names of a folder's clips hold, each once. Raises `NotAvailable`."""
    groups = by_name(folder).items()
    return list(dict.fromkeys(prompt for (prompt, _), files in groups if any(is_clip(path) for path in files)))
