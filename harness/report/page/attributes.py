"""Read what a page's prompts are filtered by: the columns of a CSV or JSONL file, beside the prompt's own."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.errors import SuiteError, nearest
from harness.suite.prompts import MAX_BYTES
from harness.system.files import read_limited

PROMPT = "prompt"
MOST_LETTERS = 80
"""Letters of an attribute that are kept."""

Attributes = Mapping[str, Mapping[str, list[str]]]
"""By prompt and name of the attribute: its values."""


def read_attributes(path: Path) -> Attributes:
    """Texts, numbers and lists of them by prompt, as the `dimensions` of `harness.metrics.vbench_protocol`'s files.

    Raises `SuiteError` for a file that cannot be read, or has no prompts.
    """
    try:
        text = read_limited(path, MAX_BYTES).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise SuiteError(f"{path} cannot be read: {why}", "name a CSV or JSONL file with a column `prompt`") from error
    attributes: dict[str, dict[str, list[str]]] = {}
    for number, row in enumerate(_rows(path, text), 1):
        if not isinstance(row, dict) or not isinstance(row.get(PROMPT), str):
            names = [str(name) for name in row] if isinstance(row, dict) else []
            raise SuiteError(f"{path}: row {number} has no text {PROMPT!r}", nearest(PROMPT, names))
        by_name = attributes.setdefault(row[PROMPT], {})
        for name, value in row.items():
            several = value if isinstance(value, list) else [value]
            texts = [str(item)[:MOST_LETTERS] for item in several if isinstance(item, str | int | float) and item != ""]
            if name != PROMPT and texts:
                by_name[str(name)[:MOST_LETTERS]] = list(dict.fromkeys(texts))
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
