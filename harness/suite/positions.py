"""Read YAML as plain data with the position of each value, and apply `include:` and `--set`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from harness.errors import SuiteError, nearest

Loc = tuple[str | int, ...]
MAX_NODES = 200_000
"""Values that one file may hold, so that nested aliases cannot exhaust memory."""
_PLAIN_TAGS = ("tag:yaml.org,2002:seq", "tag:yaml.org,2002:map")


@dataclass(frozen=True, slots=True)
class Position:
    """Where a value stands: the file as the user named it, and its line from 1 (0 for `--set`)."""

    file: Path
    line: int
    text: str = ""

    def __str__(self) -> str:
        return self.text or f"{self.file}:{self.line}"


@dataclass(slots=True)
class Located:
    """Plain data (mappings, lists, scalars), and the position of every value and key by its path."""

    data: dict[str, Any]
    file: Path
    positions: dict[Loc, Position] = field(default_factory=dict)

    def where(self, loc: Sequence[str | int]) -> Position:
        """The position of `loc`, or of the nearest enclosing value."""
        for end in range(len(loc), -1, -1):
            position = self.positions.get(tuple(loc[:end]))
            if position is not None:
                return position
        return Position(self.file, 1)


def read(path: Path, stack: tuple[Path, ...] = ()) -> Located:
    """Read the YAML mapping in `path`, merged over the files under its `include:` key.

    Mappings merge key by key; a list or scalar replaces the included one. Raises `SuiteError`.
    """
    if path.resolve() in stack:
        chain = " -> ".join(part.name for part in (*stack, path))
        raise SuiteError(f"{path}:1: include goes round in a circle: {chain}")
    own = _parse(path)
    includes = own.data.pop("include", [])
    if isinstance(includes, str):
        includes = [includes]
    if not isinstance(includes, list) or not all(isinstance(name, str) for name in includes):
        raise SuiteError(f"{own.where(('include',))}: include must be a file name or a list of them")
    merged = Located({}, path)
    for name in includes:
        target = path.parent / name
        if not target.is_file():
            raise SuiteError(f"{own.where(('include',))}: included file {name} does not exist in {path.parent}")
        _merge(merged, read(target, (*stack, path.resolve())))
    _merge(merged, own)
    return merged


def override(doc: Located, assignment: str) -> None:
    """Apply one `--set key=value`. The key is a dotted path; a list entry goes by its label, name or number."""
    path, equals, text = assignment.partition("=")
    if not equals or not path.strip():
        raise SuiteError(f"--set {assignment}: expected key=value", "for example --set prompts.heldout.limit=4")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SuiteError(
            f"--set {assignment}: the value is not YAML", f"it reads {text!r}: quote it, or close its brackets"
        ) from error
    position = Position(doc.file, 0, f"--set {assignment}")
    node: Any = doc.data
    loc: Loc = ()
    parts = path.strip().split(".")
    while True:
        key, length = _step(node, parts, position)
        loc = (*loc, key)
        doc.positions[loc] = position
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
        entry_names = [name for name in names if not name.isdigit()]
        raise SuiteError(f"{position}: no entry is called {parts[0]!r}; {nearest(parts[0], entry_names)}")
    return parts[0], 1


def _merge(into: Located, new: Located) -> None:
    _merge_maps(into.data, new.data, (), into, new)


def _merge_maps(old: dict[str, Any], new: dict[str, Any], loc: Loc, into: Located, source: Located) -> None:
    if loc in source.positions:
        into.positions[loc] = source.positions[loc]
    for key, value in new.items():
        child = (*loc, key)
        if isinstance(value, dict) and isinstance(old.get(key), dict):
            _merge_maps(old[key], value, child, into, source)
            continue
        # What it replaces had positions of its own, below the same key.
        for stale in [path for path in into.positions if path[: len(child)] == child]:
            del into.positions[stale]
        into.positions.update({path: at for path, at in source.positions.items() if path[: len(child)] == child})
        old[key] = value


def _parse(path: Path) -> Located:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise SuiteError(f"{path}:1: the file does not exist", _siblings(path)) from error
    except UnicodeDecodeError as error:
        raise SuiteError(f"{path}:1: the file is no text in UTF-8", "save it as UTF-8") from error
    except OSError as error:
        raise SuiteError(f"{path}:1: the file cannot be read: {error.strerror}", "name a suite file") from error
    # The loader in C is absent where PyYAML was built without libyaml.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
    try:
        root = loader.get_single_node()
        doc = Located({}, path)
        doc.data = _Builder(doc, loader).build(root, ()) if root is not None else {}
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise SuiteError(f"{path}:{line}: not YAML: {error.problem}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SuiteError(f"{path}:1: not YAML: {' '.join(str(error).split())}") from error
    finally:
        loader.dispose()
    if not isinstance(doc.data, dict):
        raise SuiteError(f"{path}:1: expected a mapping of keys to values")
    return doc


class _Builder:
    """Turns composed YAML nodes into plain data and records their positions."""

    def __init__(self, doc: Located, loader: Any) -> None:
        self.doc = doc
        self.loader = loader
        self.count = 0
        self.ancestors: set[int] = set()

    def build(self, node: yaml.Node, loc: Loc) -> Any:
        line = node.start_mark.line + 1
        self.doc.positions.setdefault(loc, Position(self.doc.file, line))
        # Counted as built: a file of a few lines can name one node a billion times by aliases of aliases.
        self.count += 1
        if self.count > MAX_NODES or id(node) in self.ancestors:
            what = "an alias contains itself" if id(node) in self.ancestors else f"more than {MAX_NODES} values"
            raise SuiteError(f"{self.doc.file}:{line}: {what}")
        if not isinstance(node, yaml.ScalarNode) and node.tag not in _PLAIN_TAGS:
            raise SuiteError(f"{self.doc.file}:{line}: tag {node.tag!r} is not allowed")
        self.ancestors.add(id(node))
        try:
            if isinstance(node, yaml.SequenceNode):
                return [self.build(child, (*loc, index)) for index, child in enumerate(node.value)]
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, loc)
            return self.loader.construct_object(node, deep=True)
        finally:
            self.ancestors.discard(id(node))

    def _mapping(self, node: yaml.MappingNode, loc: Loc) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise SuiteError(f"{self.doc.file}:{line}: a key must be a word")
            key = key_node.value
            if key in mapping:
                raise SuiteError(f"{self.doc.file}:{line}: key {key!r} is written twice")
            self.doc.positions[(*loc, key)] = Position(self.doc.file, line)
            mapping[key] = self.build(value_node, (*loc, key))
        return mapping


def _siblings(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return ""
    return nearest(path.name, [other.name for other in folder.glob("*.yaml")])
