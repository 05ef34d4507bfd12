"""YAML that people write, as plain data with the place of every value. Each limit is checked before what it bounds."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from harness.errors import HarnessError

Loc = tuple[str | int, ...]

MAX_BYTES = 4 * 2**20
"""Of one file."""
MAX_VALUES = 200_000
"""Values of one document, whatever aliases and included files name again counted again."""
MAX_DEPTH = 50
"""Mappings and lists inside one another. PyYAML's own reader of a document recurses on the C stack without a bound."""
MAX_KEY = 1000
MAX_NUMBER = 100
"""Characters of a key, and of a number."""

_TAG = "tag:yaml.org,2002:"
_NUMBERS = {"int": yaml.constructor.SafeConstructor.construct_yaml_int,
            "float": yaml.constructor.SafeConstructor.construct_yaml_float}  # fmt: skip
FORBIDDEN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
"""Control characters and halves of surrogate pairs, which stand in no text."""
_resolver: Any = yaml.resolver.Resolver()
_constructor = yaml.constructor.SafeConstructor()


class YamlFault(HarnessError):
    """A text that is no YAML, or more than is read; the message starts with its place."""


@dataclass(frozen=True, slots=True)
class Position:
    """Where a value stands: the file as the user named it, and its line from 1 (0 for `--set`)."""

    file: Path
    line: int
    text: str = ""

    @property
    def folder(self) -> Path:
        """What a relative path here starts from: the file's folder, or with `--set` the current one."""
        return Path() if self.text else self.file.parent

    def __str__(self) -> str:
        return self.text or f"{self.file}:{self.line}"


@dataclass(slots=True)
class Mark:
    """The position of a value, and the marks of those inside it, by key or by number."""

    position: Position
    inside: dict[str | int, Mark] = field(default_factory=dict)


@dataclass(slots=True)
class Budget:
    """How many values may still be read; shared by the files of one document."""

    values: int = MAX_VALUES


class _Built(NamedTuple):
    """A value, its mark, and how many values and how many levels it is."""

    data: Any
    mark: Mark
    values: int
    depth: int


def parse(text: str, start: Position, budget: Budget, texts: bool = False) -> tuple[Any, Mark]:
    """The one document of `text`, None where it is empty: mappings with keys of text, lists, and scalars.

    Scalars are text, finite numbers of up to 64 bits, booleans and null; a date is the text that stands there, and with
    `texts` so is all but null. Raises `YamlFault`, whose message begins with the line, or with `start` where that has
    a text of its own.
    """
    reader = _Reader(text, start, budget, texts)
    try:
        return reader.document()
    except yaml.MarkedYAMLError as error:
        mark: Any = error.problem_mark
        line = mark.line + 1 if mark else 1
        raise YamlFault(f"{reader.at(line)}: not YAML: {error.problem}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise YamlFault(f"{reader.at(1)}: not YAML: {' '.join(str(error).split())[:200]}") from error


class _Reader:
    """Builds a document from the parser's events, which come one at a time whatever the text holds."""

    def __init__(self, text: str, start: Position, budget: Budget, texts: bool) -> None:
        self.start, self.budget, self.texts = start, budget, texts
        # The loader in C is absent where PyYAML was built without libyaml.
        self.events: Iterator[Any] = yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        self.anchors: dict[str, _Built] = {}

    def at(self, line: int) -> Position:
        return self.start if self.start.text else Position(self.start.file, line)

    def mark(self, event: Any) -> Mark:
        return Mark(self.at(event.start_mark.line + 1))

    def fault(self, event: Any, message: str) -> YamlFault:
        return YamlFault(f"{self.mark(event).position}: {message}")

    def document(self) -> tuple[Any, Mark]:
        next(self.events)
        if isinstance(next(self.events), yaml.StreamEndEvent):
            return None, Mark(self.at(1))
        root = self.value(next(self.events), 1)
        next(self.events)
        if not isinstance(after := next(self.events), yaml.StreamEndEvent):
            raise self.fault(after, "not YAML: a second document begins")
        return root.data, root.mark

    def value(self, event: Any, depth: int) -> _Built:
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, depth)
        self._spend(event, 1, depth)
        if isinstance(event, yaml.ScalarEvent):
            built = _Built(self._scalar(event), self.mark(event), 1, 1)
        else:
            kind = "map" if isinstance(event, yaml.MappingStartEvent) else "seq"
            if event.tag not in (None, "!", _TAG + kind):
                raise self.fault(event, f"tag {event.tag!r} is not allowed")
            built = self._mapping(event, depth) if kind == "map" else self._list(event, depth)
        if event.anchor:
            self.anchors[event.anchor] = built
        return built

    def _spend(self, event: Any, values: int, depth: int) -> None:
        self.budget.values -= values
        if self.budget.values < 0:
            raise self.fault(event, f"more than {MAX_VALUES} values")
        if depth > MAX_DEPTH:
            raise self.fault(event, f"more than {MAX_DEPTH} mappings and lists inside one another")

    def _alias(self, event: Any, depth: int) -> _Built:
        # A value is known by its anchor when it is complete, so that none holds itself.
        if event.anchor not in self.anchors:
            raise self.fault(event, f"alias {event.anchor!r} names nothing before it, or what it stands in")
        built = self.anchors[event.anchor]
        self._spend(event, built.values, depth + built.depth - 1)
        return built._replace(data=copy.deepcopy(built.data), mark=copy.deepcopy(built.mark))

    def _list(self, event: Any, depth: int) -> _Built:
        items: list[_Built] = []
        while not isinstance(inner := next(self.events), yaml.SequenceEndEvent):
            items.append(self.value(inner, depth + 1))
        mark = self.mark(event)
        mark.inside.update({number: item.mark for number, item in enumerate(items)})
        return self._whole([item.data for item in items], mark, items)

    def _mapping(self, event: Any, depth: int) -> _Built:
        items: dict[str, _Built] = {}
        mark = self.mark(event)
        while not isinstance(inner := next(self.events), yaml.MappingEndEvent):
            key = self._key(inner)
            if key in items:
                raise self.fault(inner, f"key {key!r} is written twice")
            items[key] = self.value(next(self.events), depth + 1)
            mark.inside[key] = Mark(self.mark(inner).position, items[key].mark.inside)
        return self._whole({key: item.data for key, item in items.items()}, mark, list(items.values()))

    def _whole(self, data: Any, mark: Mark, items: list[_Built]) -> _Built:
        depth = 1 + max((item.depth for item in items), default=0)
        return _Built(data, mark, 1 + sum(item.values for item in items), depth)

    def _key(self, event: Any) -> str:
        if not isinstance(event, yaml.ScalarEvent):
            raise self.fault(event, "a key must be a word")
        if len(event.value) > MAX_KEY:
            raise self.fault(event, f"a key has {len(event.value)} characters (at most {MAX_KEY})")
        return self._text(event)

    def _scalar(self, event: Any) -> Any:
        tag = (
            event.tag
            if event.tag not in (None, "!")
            else _resolver.resolve(yaml.ScalarNode, event.value, event.implicit)
        )
        kind = tag.removeprefix(_TAG)
        if event.tag not in (None, "!") and kind not in ("str", "int", "float", "bool", "null"):
            raise self.fault(event, f"tag {event.tag!r} is not allowed")
        if self.texts and kind != "null":
            return self._text(event)
        node = yaml.ScalarNode(tag, event.value)
        try:
            if kind in _NUMBERS:
                return self._number(
                    event, _NUMBERS[kind](_constructor, node) if len(event.value) <= MAX_NUMBER else None
                )
            if kind == "bool":
                return _constructor.construct_yaml_bool(node)
        except (ValueError, LookupError, OverflowError) as error:
            raise self.fault(event, f"{event.value[:60]!r} is no {kind}") from error
        return None if kind == "null" else self._text(event)

    def _number(self, event: Any, number: Any) -> int | float:
        if number is None or not math.isfinite(number) or (abs(number) >= 2**64 and isinstance(number, int)):
            raise self.fault(event, f"{event.value[:60]!r} is no finite number of up to 64 bits")
        return number  # type: ignore[no-any-return]

    def _text(self, event: Any) -> str:
        text = str(event.value)
        if forbidden := FORBIDDEN.search(text):
            raise self.fault(event, f"a text holds U+{ord(forbidden[0]):04X}, which is no printable character")
        return text
