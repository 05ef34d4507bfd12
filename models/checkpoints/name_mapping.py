"""Names of tensors that do not fit: which of ours is nearest to each, and a user's file that maps theirs to ours.

Imports no torch.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import WeightsError, nearest
from harness.system.deadline import at_most
from harness.system.files import read_limited
from harness.system.yaml_data import Budget, Position, YamlFault, parse

MOST_BYTES = 1 << 20
"""Of a mapping; that of a full-size network, a line a tensor, has a tenth of it."""
LONGEST = 300
"""Characters of a name or a pattern."""
RENAMING_S = 60.0
"""Seconds for all names of a checkpoint. Those of a full-size network by a pattern each take about one; a pattern may
take longer than anybody waits, as it tries every way to divide a name among its repeats."""
SHOWN = 60
"""Kinds of names that an error lists; a network of this family has fewer."""

Shapes = Mapping[str, Sequence[int]]
Kind = tuple[str, tuple[int, ...]]
"""A name with its first number as `*`, and a shape; tensors of one kind in all blocks are listed as one."""


def unmatched(missing: Shapes, unexpected: Shapes) -> tuple[str, str]:
    """What a checkpoint lacks, and what it has instead, each with the nearest of what it lacks; empty where nothing.

    Args:
        missing: shapes by our names. unexpected: shapes by the checkpoint's.
    """
    ours, theirs = _kinds(missing), _kinds(unexpected)
    lacks = [f"{_shown(kind)}{_times(count)}" for kind, count in ours.items()]
    has = [
        f"{_shown(kind)}{_times(count)}" + (f" (nearest of ours: {_shown(_nearest(kind, ours))})" if ours else "")
        for kind, count in list(theirs.items())[:SHOWN]
    ]
    return _joined(lacks, len(ours)), _joined(has, len(theirs))


def _kinds(shapes: Shapes) -> dict[Kind, int]:
    grouped: dict[Kind, list[str]] = {}
    for name, shape in shapes.items():
        grouped.setdefault((re.sub(r"(?<![^.])\d+(?![^.])", "*", name, count=1), tuple(shape)), []).append(name)
    return {(pattern if len(names) > 1 else names[0], shape): len(names) for (pattern, shape), names in grouped.items()}


def _nearest(kind: Kind, ours: Collection[Kind]) -> Kind:
    """Of `ours` the one of the same shape, where there is one, whose name is most alike."""
    name, shape = kind
    return max(ours, key=lambda one: (one[1] == shape, difflib.SequenceMatcher(None, name[:LONGEST], one[0]).ratio()))


def _shown(kind: Kind) -> str:
    return f"{kind[0][:LONGEST]} [{'x'.join(map(str, kind[1]))}]"


def _times(count: int) -> str:
    return f" in {count} places" if count > 1 else ""


def _joined(said: Sequence[str], count: int) -> str:
    return ", ".join(said[:SHOWN]) + (f", … {count - SHOWN} more kinds" if count > SHOWN else "")


@dataclass(frozen=True, slots=True)
class NameMap:
    """A checkpoint's names to ours, from a file of `theirs: ours` (see `read_name_map`).

    Attributes:
        file: where it was read.
        entries: ours by theirs, in the file's order; None drops the tensor.
        patterns: those of the keys that are regular expressions.
    """

    file: Path
    entries: Mapping[str, str | None]
    patterns: Mapping[str, re.Pattern[str]]

    def apply(self, source: str, names: Collection[str]) -> dict[str, str | None]:
        """Our name of each of `names` that an entry takes in: exactly, else the first pattern that matches it whole.

        Raises `WeightsError` for an entry that takes in nothing, or names a group that its pattern has not, and where
        it takes longer than `RENAMING_S`.
        """
        try:
            with at_most(RENAMING_S):
                return self._renamed(source, names)
        except TimeoutError as error:
            raise WeightsError(
                f"{self.file}: to match the names of {source} takes more than {RENAMING_S:g} s",
                r"put no repeat inside or beside another one, as in layers\.(\d+)\.attn\.([a-z_]+)",
            ) from error

    def _renamed(self, source: str, names: Collection[str]) -> dict[str, str | None]:
        renamed: dict[str, str | None] = {name: self.entries[name] for name in names if name in self.entries}
        used = set(renamed)
        for name in names:
            if name in renamed:
                continue
            for key, pattern in self.patterns.items():
                if match := pattern.fullmatch(name):
                    renamed[name] = self._expand(match, key)
                    used.add(key)
                    break
        for key in self.entries:
            if key not in used:
                raise WeightsError(
                    f"{self.file}: {key!r} takes in no tensor of {source}",
                    f"{nearest(key, names)} (an earlier pattern may have taken it in)",
                )
        return renamed

    def _expand(self, match: re.Match[str], key: str) -> str | None:
        template = self.entries[key]
        try:
            return None if template is None else match.expand(template)
        except (re.error, IndexError) as error:
            raise WeightsError(
                f"{self.file}: {template!r} does not fit {key!r}: {error}", r"name its groups as \1 or \g<name>"
            ) from error


def read_name_map(path: Path) -> NameMap:
    r"""The mapping in a YAML or JSON file: `theirs: ours`, a line a name or a pattern.

    A key is a tensor's name as an error lists it (without a training wrapper's prefixes), or a regular expression that
    matches such names whole, as in `layers\.(\d+)\.attn\.kv_a\.weight: blocks.\1.self_attn.kv_down.weight`. The value
    is our name, with groups as `\1` or `\g<name>`, or null for a tensor that is left out. Names that no key takes in
    stay.

    Raises:
        WeightsError: no such file, no mapping of texts, a key given twice, or a value that could be no name.
    """
    try:
        text = read_limited(path, MOST_BYTES).decode()
        names, mark = parse(text, Position(path, 1), Budget(), texts=True)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}", "give a YAML or JSON file") from error
    except (YamlFault, UnicodeDecodeError) as error:
        raise WeightsError(f"{path} is no YAML: {' '.join(str(error).split())[:200]}", "see `theirs: ours`") from error
    if not isinstance(names, dict) or not names:
        raise WeightsError(f"{path} holds no mapping", "write a line `theirs: ours` for each name or pattern")
    for theirs, ours in names.items():
        for name in (theirs, ours):
            if name is not None and not _is_name(name):
                fix = f"a name is a text of 1 to {LONGEST} characters without white space"
                raise WeightsError(f"{mark.inside[theirs].position}: {str(name)[:40]!r} is no name", fix)
    entries: dict[str, str | None] = names
    return NameMap(path, entries, _patterns(entries))


def _is_name(name: object) -> bool:
    return isinstance(name, str) and 0 < len(name) <= LONGEST and not re.search(r"\s", name)


def _patterns(entries: Collection[str]) -> dict[str, re.Pattern[str]]:
    """The keys that are regular expressions; one that is none can still be a tensor's name."""
    patterns = {}
    for key in entries:
        try:
            patterns[key] = re.compile(key)
        except (re.error, OverflowError, RecursionError):
            continue
    return patterns
