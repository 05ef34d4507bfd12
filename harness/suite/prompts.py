"""Prompt files: one prompt a line, or a column of a CSV or JSONL file, checked against a digest."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.errors import SuiteError, nearest
from harness.system.digests import digest
from harness.system.files import read_limited

MAX_BYTES = 256 * 2**20
MAX_PROMPTS = 200_000
"""Of one set."""
MAX_PROMPT = 100_000
"""Characters of one prompt."""
MAX_SCRIPT = 1000
"""Prompts of one script."""
COMMENT = "#"
"""How a line of a text file begins that is no prompt."""
MOST_LETTERS = 80
"""Letters of an attribute that are kept."""


@dataclass(frozen=True, slots=True)
class Row:
    """One prompt, or one script, of a set as it is written.

    Attributes:
        line: of the file, from 1; of texts in a suite their number.
        texts: the prompt, and of a script those that follow it; an empty one says "no new prompt".
        identity: what clips of it are known by; the prompt itself unless a column says it.
        prefix: the file that it continues; empty without.
        about: by name of its other columns, their values.
    """

    line: int
    texts: tuple[str, ...]
    identity: str = ""
    prefix: str = ""
    about: Mapping[str, list[str]] = field(default_factory=dict)

    @property
    def known_as(self) -> tuple[str, str]:
        """What tells it from other prompts of its set."""
        return self.texts[0], self.identity or self.texts[0]


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns of a CSV or JSONL file hold the prompt, its identity and its prefix; empty for none."""

    prompt: str
    identity: str = ""
    prefix: str = ""


def read_prompts(
    path: Path, columns: Columns, sha256: str, where: str, *, comments: bool = False
) -> tuple[list[Row], list[int], str]:
    """The rows of `path`, the numbers of the lines that are comments, and the SHA-256 of its bytes.

    `.csv` and `.jsonl` are read by `columns`; any other file has one prompt a line. A blank line is a row with an empty
    text, except in JSONL. A line that begins with `#` is no row, unless `comments` are prompts. Raises `SuiteError`
    that starts with `where`.
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
    if reader is not None:
        return list(reader(text, columns, f"{where}: {path.name}")), [], own
    for key, column in (("prefix_column", columns.prefix), ("identity", columns.identity)):
        if column:
            raise SuiteError(f"{where}: {path.name} has no columns, so no `{key}`", "write it as CSV or JSONL")
    # Not str.splitlines, which also splits at characters that a prompt may hold.
    lines = [line.rstrip("\r") for line in text.removesuffix("\n").split("\n")]
    dropped = [] if comments else [number for number, line in enumerate(lines, 1) if line.startswith(COMMENT)]
    skipped = set(dropped)
    return [Row(number, (line,)) for number, line in enumerate(lines, 1) if number not in skipped], dropped, own


def check_prompts(rows: Sequence[Row], where: str, *, gaps: bool) -> None:
    """Refuse a set without a prompt, one that no model could take, and, without `gaps`, an empty one."""
    if not any(row.texts[0].strip() for row in rows) and (gaps or not rows):
        raise SuiteError(f"{where}: no prompts")
    if len(rows) > MAX_PROMPTS:
        raise SuiteError(f"{where}: {len(rows)} prompts (at most {MAX_PROMPTS})", "split the set over several suites")
    for row in rows:
        if len(row.texts) > MAX_SCRIPT:
            raise SuiteError(f"{where}: a script has {len(row.texts)} prompts (at most {MAX_SCRIPT})")
        if not (gaps or row.texts[0].strip()):
            raise SuiteError(f"{where}: a prompt is empty")
        for prompt in row.texts:
            if len(prompt) > MAX_PROMPT:
                raise SuiteError(f"{where}: a prompt has {len(prompt)} characters (at most {MAX_PROMPT})")
            # JSON may hold half a surrogate pair, which no encoder of text takes.
            if any("\ud800" <= char <= "\udfff" for char in prompt):
                raise SuiteError(f"{where}: a prompt is no valid text: {prompt[:40]!r}")


def _from_csv(text: str, columns: Columns, where: str) -> Iterator[Row]:
    try:
        lines = csv.reader(io.StringIO(text, newline=""), strict=True)
        names = next(lines, [])
        for name in (columns.prompt, columns.identity, columns.prefix):
            if name and name not in names:
                raise SuiteError(f"{where}: no column {name!r}; {nearest(name, names)}")
        for cells in lines:
            entries: dict[str, Any] = dict(zip(names, [*cells, *[""] * len(names)], strict=False))
            yield _row(lines.line_num, (entries[columns.prompt],), entries, columns)
    except csv.Error as error:
        raise SuiteError(f"{where}: not CSV: {error}") from error


def _from_jsonl(text: str, columns: Columns, where: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            entries = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise SuiteError(f"{where}:{number}: not JSON") from error
        keys = [str(name) for name in entries] if isinstance(entries, dict) else []
        for place, name in enumerate((columns.prompt, columns.identity, columns.prefix)):
            value = entries.get(name) if isinstance(entries, dict) else None
            if place and not name:
                continue
            if isinstance(value, list) and place == 0:
                if value and all(isinstance(each, str | None) for each in value):
                    continue
                raise SuiteError(f"{where}:{number}: {name!r} is no list of texts")
            if not isinstance(value, str):
                hint = "" if name in keys else f"; {nearest(name, keys)}"
                raise SuiteError(f"{where}:{number}: no text {name!r}{hint}")
        prompt = entries[columns.prompt]
        script = tuple(each or "" for each in prompt) if isinstance(prompt, list) else (prompt,)
        yield _row(number, script, entries, columns)


def _row(number: int, texts: tuple[str, ...], entries: Mapping[str, Any], columns: Columns) -> Row:
    used = {columns.prompt, columns.identity, columns.prefix}
    about = {str(name)[:MOST_LETTERS]: values_of(value) for name, value in entries.items() if name not in used}
    identity, prefix = (str(entries[name]) if name else "" for name in (columns.identity, columns.prefix))
    return Row(number, texts, identity, prefix, {name: values for name, values in about.items() if values})


def values_of(value: Any) -> list[str]:
    """The texts of an attribute: of a text or a number itself, of a list each; what is neither is left out."""
    several = value if isinstance(value, list) else [value]
    return [str(item)[:MOST_LETTERS] for item in several if isinstance(item, str | int | float) and item != ""]
