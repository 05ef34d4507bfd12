"""Read a file that tells prompts apart: its columns beside the prompt's own."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.errors import SuiteError, nearest
from harness.suite.prompts import MAX_BYTES, MOST_LETTERS, values_of
from harness.system.files import read_limited

PROMPT = "prompt"
Attributes = Mapping[str, Mapping[str, list[str]]]
"""By prompt and name of the attribute: its values."""


def read_attributes(path: Path, column: str = PROMPT) -> Attributes:
    """Texts, numbers and lists of them by prompt, as the `dimensions` of `harness.metrics.vbench_protocol`'s files.

    The prompt stands in `column`. One that stands in several rows has the values of all. Raises `SuiteError` for a file
    that cannot be read, or has no prompts.
    """
    try:
        text = read_limited(path, MAX_BYTES).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise SuiteError(
            f"{path} cannot be read: {why}", f"name a CSV or JSONL file with a column `{column}`"
        ) from error
    attributes: dict[str, dict[str, list[str]]] = {}
    for number, row in enumerate(_rows(path, text), 1):
        if path.suffix.lower() == ".csv" and row.get(column, "") is None:
            continue  # a line that ends before the prompt's column holds no prompt
        if not isinstance(row, dict) or not isinstance(row.get(column), str):
            names = [str(name) for name in row] if isinstance(row, dict) else []
            raise SuiteError(f"{path}: row {number} has no text {column!r}", nearest(column, names))
        by_name = attributes.setdefault(row[column], {})
        for name, value in row.items():
            texts = values_of(value)
            if name not in (column, None) and texts:
                shown = str(name)[:MOST_LETTERS]
                by_name[shown] = list(dict.fromkeys([*by_name.get(shown, []), *texts]))
    return attributes


def _rows(path: Path, text: str) -> Iterator[Any]:
    if path.suffix.lower() == ".csv":
        try:
            yield from csv.DictReader(io.StringIO(text, newline=""), strict=True)
        except csv.Error as error:
            raise SuiteError(f"{path}: not CSV: {error}") from error
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield json.loads(line)
            except (ValueError, RecursionError) as error:
                raise SuiteError(f"{path}:{number}: not JSON") from error
