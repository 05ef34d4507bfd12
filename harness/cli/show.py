"""`harness show`: one record in full."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.errors import RecordError

if TYPE_CHECKING:
    from harness.runs.line import Record


def show(
    record: Annotated[str, typer.Argument(metavar="KEY", help="A record's key, or how it begins.")],
    run: Annotated[
        list[Path] | None, typer.Option(metavar="DIR", help="Run folder; all in runs/ unless given.")
    ] = None,
) -> Iterator[str]:
    """Print one record in full, with its traceback if it failed."""
    from harness.report.files import run_folders

    folders = run or (run_folders(Path("runs")) if Path("runs").is_dir() else [])
    folder, newest = _find(record.lower(), folders)
    yield _text(newest)
    yield f"in {folder / 'records.jsonl'}"


def _find(prefix: str, folders: Sequence[Path]) -> tuple[Path, Record]:
    """The newest record whose key starts with `prefix`, in the first of `folders` that has one, and that folder.

    Raises `RecordError` when none or several keys do.
    """
    from harness.runs.records import RecordFile

    for folder in folders:
        file = RecordFile(folder / "records.jsonl")
        entries = {key: entry for key, entry in file.newest().items() if key.startswith(prefix)}
        if len(entries) > 1:
            some = ", ".join(key[: len(prefix) + 6] for key in sorted(entries)[:3])
            raise RecordError(f"{len(entries)} keys in {folder} start with {prefix!r}: {some}, …", "give more digits")
        for entry in entries.values():
            return folder, file.at(entry.offset)
    searched = ", ".join(str(folder) for folder in folders) or "no run folder"
    raise RecordError(f"no record starts with {prefix!r} (searched: {searched})", "name the run with --run DIR")


def _text(record: Record) -> str:
    """The record as indented JSON, and its traceback as it would be printed."""
    from harness.runs.line import encode

    body = json.loads(encode(record))
    traceback = record.error.get("traceback", "") if record.error else ""
    if traceback:
        body["error"] = {**record.error, "traceback": "(below)"}
    text = json.dumps(body, indent=2, ensure_ascii=True)
    return f"{text}\n\n{traceback}" if traceback else text
