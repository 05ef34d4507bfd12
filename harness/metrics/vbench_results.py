"""Read the result files that VBench itself writes (`*_eval_results.json`): the overall value of each dimension."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from harness.errors import HarnessError, nearest
from harness.metrics.vbench_totals import DIMENSIONS
from harness.system.files import read_limited

MAX_BYTES = 512 * 2**20
"""Of one file; that of all dimensions of 6,230 clips has a hundredth of it."""
MOST_FILES = 1000
FULL_INFO = "_full_info.json"
"""How the names of VBench's other files end, which list clips and hold no score."""


def read_results(paths: Sequence[Path], *, percent: bool = False) -> dict[str, float]:
    """The overall raw values by dimension, from 0 to 1, in VBench's order.

    A file holds `{dimension: [overall, per video]}`, or the overall value alone; a folder stands for its JSON files.
    With `percent` all values are divided by 100.

    Raises `HarnessError` for what is no such file, a dimension that VBench does not have, one with two values, and
    values that are not of the scale, which would give a wrong total without a word.
    """
    values: dict[str, float] = {}
    sources: dict[str, Path] = {}
    for path in _files(paths):
        for name, value in _overall(path):
            if name in values and values[name] != value:
                raise HarnessError(f"{path}: {name} is {value:g}, and {values[name]:g} in {sources[name]}", "name one")
            values[name], sources[name] = value, path
    if not values:
        raise HarnessError(f"no result of VBench in {', '.join(map(str, paths))}", "name its *_eval_results.json")
    for name, value in values.items():
        _check_scale(name, value, sources[name], percent)
    return {name: values[name] / (100 if percent else 1) for name in DIMENSIONS if name in values}


def _files(paths: Sequence[Path]) -> list[Path]:
    files = []
    for path in paths:
        below = sorted(path.glob("*.json")) if path.is_dir() else [path]
        files += [each for each in below if not (path.is_dir() and each.name.endswith(FULL_INFO))]
    if len(files) > MOST_FILES:
        raise HarnessError(f"{len(files)} files (at most {MOST_FILES})", "name the results of one model")
    return files


def _overall(path: Path) -> Iterator[tuple[str, float]]:
    """Dimension and overall value of each member of a file."""
    try:
        body: Any = json.loads(read_limited(path, MAX_BYTES))
    except OSError as error:
        raise HarnessError(f"{path} cannot be read: {error.strerror}", "name VBench's *_eval_results.json") from error
    except (ValueError, RecursionError) as error:
        raise HarnessError(f"{path} is not JSON", "name VBench's *_eval_results.json") from error
    if not isinstance(body, dict):
        raise HarnessError(f"{path} holds no results: it is a list", "name the file that ends in _eval_results.json")
    for key, member in body.items():
        name = key.strip().lower().replace(" ", "_")
        if name not in DIMENSIONS:
            raise HarnessError(f"{path}: VBench has no dimension {key[:80]!r}", nearest(name, DIMENSIONS))
        value = member[0] if isinstance(member, list) and member else member
        # Compared, as `math.isfinite` takes no whole number of hundreds of digits.
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
            raise HarnessError(f"{path}: {name} has no number first", "let VBench score that dimension again")
        yield name, float(value)


def _check_scale(name: str, value: float, path: Path, percent: bool) -> None:
    """Refuse a value that cannot be of the scale that all are said to be of."""
    shown = f"{path}: {name} is {value:g}"
    if percent and 0 < value <= 1:
        raise HarnessError(f"{shown}, which is hardly a percentage", "leave --percent out, or bring all to one scale")
    if not 0 <= value <= (100 if percent else 1):
        fix = "bring all to one scale" if percent else "say --percent if all values are from 0 to 100"
        raise HarnessError(f"{shown}, not from 0 to {100 if percent else 1}", fix)
