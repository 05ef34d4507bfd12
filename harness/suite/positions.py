"""Read a suite as plain data with the position of each value, and apply `include:` and `--set`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import SuiteError, nearest
from harness.system import yaml_data
from harness.system.files import read_limited
from harness.system.yaml_data import Budget, Mark, Position, YamlFault

MAX_FILES = 64
"""Files that one suite includes, each counted as often as it is included."""
MAX_SHOWN = 200
"""Characters of a `--set` that an error repeats."""


@dataclass(slots=True)
class Located:
    """Plain data (mappings, lists, scalars), and the marks of their places."""

    data: dict[str, Any]
    file: Path
    mark: Mark
    budget: Budget

    def marked(self, loc: Sequence[str | int]) -> bool:
        """Whether `loc` has a position of its own."""
        return self._nearest(loc)[1] == len(loc)

    def where(self, loc: Sequence[str | int]) -> Position:
        """The position of `loc`, or of the nearest enclosing value."""
        return self._nearest(loc)[0].position

    def _nearest(self, loc: Sequence[str | int]) -> tuple[Mark, int]:
        mark = self.mark
        for depth, part in enumerate(loc):
            if part not in mark.inside:
                return mark, depth
            mark = mark.inside[part]
        return mark, len(loc)


def read(path: Path) -> Located:
    """Read the YAML mapping in `path`, merged over the files under its `include:` key.

    Mappings merge key by key; a list or scalar replaces the included one. Raises `SuiteError`.
    """
    return _read(path, (), [path], Budget())


def _read(path: Path, stack: tuple[Path, ...], files: list[Path], budget: Budget) -> Located:
    if path.resolve() in stack:
        chain = " -> ".join(part.name for part in (*stack, path))
        raise SuiteError(f"{path}:1: include goes round in a circle: {chain}")
    own = _parse(path, budget)
    includes = own.data.pop("include", [])
    if isinstance(includes, str):
        includes = [includes]
    where = own.where(("include",))
    if not isinstance(includes, list) or not all(isinstance(name, str) for name in includes):
        raise SuiteError(f"{where}: include must be a file name or a list of them")
    merged = Located({}, path, Mark(Position(path, 1)), budget)
    for name in includes:
        files.append(target := path.parent / name)
        if len(files) > MAX_FILES + 1:
            raise SuiteError(f"{where}: more than {MAX_FILES} files are included", "put what they share into one file")
        if not os.path.isfile(target):
            raise SuiteError(f"{where}: included file {name[:MAX_SHOWN]} does not exist in {path.parent}")
        included = _read(target, (*stack, path.resolve()), files, budget)
        _merge(merged.data, merged.mark, included.data, included.mark)
    _merge(merged.data, merged.mark, own.data, own.mark)
    return merged


def override(doc: Located, assignment: str) -> None:
    """Apply one `--set key=value`. The key is a dotted path; a list entry goes by its label, name or number."""
    path, equals, text = assignment.partition("=")
    if not equals or not path.strip():
        raise SuiteError(f"--set {assignment}: expected key=value", "for example --set prompts.heldout.limit=4")
    shown = assignment if len(assignment) <= MAX_SHOWN else f"{assignment[:MAX_SHOWN]}…"
    position = Position(doc.file, 0, f"--set {shown}")
    try:
        value, _ = yaml_data.parse(text, position, doc.budget)
    except YamlFault as error:
        raise SuiteError(error.message, "quote the value, or close its brackets") from error
    node: Any = doc.data
    mark = doc.mark
    parts = path.strip().split(".")
    if len(parts) > yaml_data.MAX_DEPTH or yaml_data.FORBIDDEN.search(path):
        raise SuiteError(f"{position}: no key of a suite is called so", "for example --set prompts.heldout.limit=4")
    while True:
        key, length = _step(node, parts, position)
        inside = mark.inside.get(key, Mark(position)).inside
        mark.inside[key] = mark = Mark(position, inside if len(parts) > length else {})
        parts = parts[length:]
        if not parts:
            break
        if isinstance(node, dict) and not isinstance(node.get(str(key)), dict | list):
            node[key] = {}
        node = node[key]
    node[key] = value


def _step(node: Any, parts: Sequence[str], position: Position) -> tuple[str | int, int]:
    """The key of `node` that the longest run of `parts` names, and the length of that run.

    The longest, because labels and names may hold dots.
    """
    names: dict[str, str | int] = {}
    if isinstance(node, list):
        for index, entry in enumerate(node):
            names[str(index)] = index
            for field_name in ("name", "label"):
                if isinstance(entry, dict) and isinstance(entry.get(field_name), str):
                    names[entry[field_name]] = index
    elif isinstance(node, dict):
        names = {str(key): key for key in node}
    for length in range(len(parts), 0, -1):
        name = ".".join(parts[:length])
        if name in names:
            return names[name], length
    if isinstance(node, list):
        entry_names = [name for name in names if not name.isdecimal()]
        raise SuiteError(f"{position}: no entry is called {parts[0]!r}; {nearest(parts[0], entry_names)}")
    return parts[0], 1


def _merge(old: dict[str, Any], old_mark: Mark, new: dict[str, Any], new_mark: Mark) -> None:
    old_mark.position = new_mark.position
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(old.get(key), dict):
            _merge(old[key], old_mark.inside[key], value, new_mark.inside[key])
        else:
            old[key], old_mark.inside[key] = value, new_mark.inside[key]


def _parse(path: Path, budget: Budget) -> Located:
    try:
        text = read_limited(path, yaml_data.MAX_BYTES).decode()
    except FileNotFoundError as error:
        raise SuiteError(f"{path}:1: the file does not exist", _siblings(path)) from error
    except UnicodeDecodeError as error:
        raise SuiteError(f"{path}:1: the file is no text in UTF-8", "save it as UTF-8") from error
    except OSError as error:
        raise SuiteError(f"{path}:1: the file cannot be read: {error.strerror}", "name a suite file") from error
    try:
        data, mark = yaml_data.parse(text, Position(path, 1), budget)
    except YamlFault as error:
        raise SuiteError(error.message) from error
    if not isinstance(data, dict | None):
        raise SuiteError(f"{path}:1: expected a mapping of keys to values")
    return Located(data or {}, path, mark, budget)


def _siblings(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return ""
    return nearest(path.name, [other.name for other in folder.glob("*.yaml")])
