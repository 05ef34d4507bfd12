"""Prompt files: one prompt a line, or a column of a CSV or JSONL file, checked against a digest."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

from harness.errors import SuiteError, nearest
from harness.system.digests import digest
from harness.system.files import read_limited

MAX_BYTES = 256 * 2**20
MAX_PROMPTS = 200_000
"""Of one set."""
MAX_PROMPT = 100_000
"""Characters of one prompt."""


def read_prompts(
    path: Path, column: str, sha256: str, where: str, prefix_column: str = ""
) -> tuple[list[str], list[str], str]:
    """The prompts in `path`, the files that they continue as `prefix_column` names them, and the SHA-256 of its bytes.

    `.csv` and `.jsonl` are read by `column`; any other file has one prompt a line, blank lines left out. Every line
    is a prompt, also one that starts with `#`. Without `prefix_column` there are no files. Raises `SuiteError` that
    starts with `where`.
    """
    try:
        data = read_limited(path, MAX_BYTES)
        text = data.decode("utf-8-sig")
    except FileNotFoundError as error:
        siblings = [other.name for other in path.parent.glob("*")] if path.parent.is_dir() else []
        hint = f"; {nearest(path.name, siblings)}" if siblings else ""
        fix = "write its path from the suite file's folder on"
        raise SuiteError(f"{where}: prompt file {path} does not exist{hint}", fix) from error
    except UnicodeDecodeError as error:
        raise SuiteError(f"{where}: prompt file {path} is not UTF-8") from error
    except OSError as error:
        raise SuiteError(f"{where}: prompt file {path} cannot be read: {error.strerror}") from error
    own = digest(data)
    if sha256 and own != sha256:
        raise SuiteError(
            f"{where}: prompt file {path} has SHA-256 {own}, not {sha256}",
            "restore the file, or write its new digest if the change is meant",
        )
    readers = {".csv": _from_csv, ".jsonl": _from_jsonl}
    reader = readers.get(path.suffix.lower())
    if prefix_column and reader is None:
        raise SuiteError(f"{where}: {path.name} has no columns, so no `prefix_column`", "write it as CSV or JSONL")
    names = [column, *([prefix_column] if prefix_column else [])]
    rows = reader(text, names, f"{where}: {path.name}") if reader else [[line] for line in text.split("\n")]
    rows = [row for row in rows if row[0].strip()]
    return [row[0].rstrip("\r") for row in rows], [row[1] for row in rows if prefix_column], own


def check_prompts(prompts: list[str], where: str) -> None:
    """Refuse an empty list, an empty prompt, and one that no model could take."""
    if not prompts:
        raise SuiteError(f"{where}: no prompts")
    if len(prompts) > MAX_PROMPTS:
        raise SuiteError(
            f"{where}: {len(prompts)} prompts (at most {MAX_PROMPTS})", "split the set over several suites"
        )
    for prompt in prompts:
        if not prompt.strip():
            raise SuiteError(f"{where}: a prompt is empty")
        if len(prompt) > MAX_PROMPT:
            raise SuiteError(f"{where}: a prompt has {len(prompt)} characters (at most {MAX_PROMPT})")
        # JSON may hold half a surrogate pair, which no encoder of text takes.
        if any("\ud800" <= char <= "\udfff" for char in prompt):
            raise SuiteError(f"{where}: a prompt is no valid text: {prompt[:40]!r}")


def _from_csv(text: str, columns: Sequence[str], where: str) -> list[list[str]]:
    try:
        rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        names = list(rows.fieldnames or [])
        if absent := [column for column in columns if column not in names]:
            raise SuiteError(f"{where}: no column {absent[0]!r}; {nearest(absent[0], names)}")
        return [[row[column] or "" for column in columns] for row in rows]
    except csv.Error as error:
        raise SuiteError(f"{where}: not CSV: {error}") from error


def _from_jsonl(text: str, columns: Sequence[str], where: str) -> list[list[str]]:
    rows: list[list[str]] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise SuiteError(f"{where}:{number}: not JSON") from error
        texts: list[str] = []
        for column in columns:
            value = row.get(column) if isinstance(row, dict) else None
            if not isinstance(value, str):
                keys = [str(name) for name in row] if isinstance(row, dict) else []
                raise SuiteError(f"{where}:{number}: no text {column!r}; {nearest(column, keys)}")
            texts.append(value)
        rows.append(texts)
    return rows
