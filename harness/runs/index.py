"""Index a file of records: read the part of each line that resuming and tables need, and decode no more.

A table may need a million records. So each line is cut at fixed bytes, and a part is decoded when it is asked for.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from types import NoneType
from typing import Any, get_args

from pydantic_core import from_json

from harness.errors import RecordError
from harness.runs.line import (
    AGAIN,
    CLIP,
    CONTEXT,
    KEY,
    LINE_START,
    SPLIT,
    TAGS,
    VALUES,
    Status,
    Tag,
    decode,
    encode,
    numbers,
    untouched,
)
from harness.runs.plan import Kind
from harness.system.files import open_regular

_CLIP_MEMBERS: Mapping[str, Any] = {
    "path": str, "digest": str, "sha256": str, "bytes": int, "encoder": dict,
    "frames": int, "height": int, "width": int, "frame_rate": int | float,
}  # fmt: skip
_LEAST = {"frames": 1, "height": 1, "width": 1, "frame_rate": 0}
"""Of the members of a clip that are counted with; its rate is 0 where its file states none."""
LARGEST_SIZE = 2**31


class IndexEntry:
    """The part of a record that comes first in the line and is read alone.

    Members other than key, kind, status and schema are decoded at every access, which raises `RecordError` where the
    line is damaged.

    Attributes:
        key, kind, status, schema: as in `Record`. offset: byte at which the line starts.
        file: the one that holds it, if it was read from one.
        text: the line up to `SPLIT`.
    """

    __slots__ = ("file", "key", "kind", "offset", "schema", "status", "text")

    def __init__(self, key: str, tag: Tag, offset: int, text: bytes, file: Path | None = None) -> None:
        self.key, self.file = key, file
        self.kind, self.status, self.schema = tag
        self.offset = offset
        self.text = text

    @property
    def values(self) -> Mapping[str, float]:
        """Headline numbers by name; NaN where undefined."""
        try:
            return numbers(self._decoded(VALUES, CLIP))
        except (ArithmeticError, ValueError) as error:
            raise self._damaged(error) from error

    @property
    def clip(self) -> Mapping[str, Any]:
        """Of a generate unit `path` (relative to the run), `bytes`, `sha256`, `digest`, `frames`, …; of a score
        the `digest` that was scored; empty otherwise.
        """
        clip = self._decoded(CLIP, CONTEXT)
        if self.kind == "generate" and self.status == "ok" and not clip.keys() >= _LEAST.keys():
            raise self._damaged(ValueError(f"its clip has no {min(_LEAST.keys() - clip.keys())}"))
        for name, value in clip.items():
            if not _fits(name, value):
                raise self._damaged(ValueError(f"its clip's {name} is {value!r:.60}"))
        return clip

    @property
    def context(self) -> Mapping[str, Any]:
        """Where the unit first stood: suite, arm, section, plugin, prompt, seed, index."""
        return self._decoded(CONTEXT, None)

    def _decoded(self, start_mark: bytes, end_mark: bytes | None) -> dict[str, Any]:
        start = self.text.find(start_mark)
        end = self.text.find(end_mark, start) if end_mark else len(self.text)
        try:
            if min(start, end) < 0:
                raise ValueError(f"it has no {start_mark[2:-3].decode()}")
            member: dict[str, Any] = from_json(self.text[start + len(start_mark) - 1 : end])
        except ValueError as error:
            raise self._damaged(error) from error
        return member

    def _damaged(self, error: Exception) -> RecordError:
        where = f"record {self.key[:12]} at byte {self.offset}"
        if self.file is not None:
            with open_regular(self.file) as file:
                number = file.read(self.offset).count(b"\n") + 1
            where = f"{self.file}:{number}"
        return RecordError(f"{where}: a damaged record: {error}", AGAIN)


def _fits(name: str, value: Any) -> bool:
    """Whether a member of a clip is of its type, and where it is a size, one that a clip can have."""
    if not isinstance(value, _CLIP_MEMBERS.get(name, object)):
        return False
    return name not in _LEAST or (type(value) is not bool and _LEAST[name] <= value < LARGEST_SIZE)


def _are_numbers(values_by_row: Sequence[Any]) -> bool:
    """Whether all are mappings to finite numbers or null."""
    try:
        flat = list(chain.from_iterable(map(dict.values, values_by_row)))
        return set(map(type, flat)) <= {int, float, NoneType} and all(map(math.isfinite, filter(None, flat)))
    except (ArithmeticError, TypeError):
        return False


def own_entry(line: bytes, offset: int) -> IndexEntry | None:
    """The entry of a line that `line.encode` wrote, without decoding the rest of it; None for any other line."""
    index = Index()
    index.fill([line], lambda *_: None, offset)
    return next(iter(index.values()), None)


class Index(Mapping[str, IndexEntry]):
    """The entry that counts for each key: the one added last. Kept in columns; an `IndexEntry` is made on access.

    Attributes:
        tags: of every entry that was added, by its row.
    """

    def __init__(self, file: Path | None = None) -> None:
        self.file = file
        self.tags: list[Tag] = []
        self._keys: list[str] = []
        self._texts: list[bytes] = []
        self._offsets = array("q")
        self._rows: dict[str, int] = {}

    def fill(
        self, lines: Iterable[bytes], fallback: Callable[[bytes, int, int], IndexEntry | None], offset: int = 0
    ) -> None:
        """Add the entries of `lines`, the first of which starts at byte `offset`. A torn last line is left out.

        `fallback(line, number, offset)` reads a line that `line.encode` did not write.
        """
        # Looked up once, as the loop runs for every record.
        start, end, tag_of, rows, keys = KEY.start, KEY.stop, TAGS.get, self._rows, self._keys
        add_key, add_tag, add_text = keys.append, self.tags.append, self._texts.append
        add_offset = self._offsets.append
        for number, line in enumerate(lines, 1):
            values = line.find(b"{", end)
            tag = tag_of(line[end:values])
            split = line.find(SPLIT, values)
            if not line.endswith(b"\n"):
                return
            if tag is not None and split > 0 and line.startswith(LINE_START) and untouched(line):
                key = line[start:end].decode("latin-1")
                rows[key] = len(keys)
                add_key(key)
                add_tag(tag)
                add_text(line[:split])
                add_offset(offset)
            elif (entry := fallback(line, number, offset)) is not None:
                self.add(entry)
            offset += len(line)

    def add(self, entry: IndexEntry) -> None:
        """Let `entry` count for its key from now on."""
        self._rows[entry.key] = len(self._keys)
        self._keys.append(entry.key)
        self.tags.append((entry.kind, entry.status, entry.schema))
        self._texts.append(entry.text)
        self._offsets.append(entry.offset)

    def rows(self, keys: Iterable[str]) -> list[int | None]:
        """The row of the entry of each of `keys`; None where there is none."""
        return list(map(self._rows.get, keys))

    def at(self, row: int) -> IndexEntry:
        """The entry in a row."""
        return IndexEntry(self._keys[row], self.tags[row], self._offsets[row], self._texts[row], self.file)

    def values_at(self, rows: Sequence[int]) -> list[Mapping[str, float]]:
        """`IndexEntry.values` of the entries in `rows`, decoded in one go. Raises `RecordError` as it does."""
        # One call of the decoder for all of them, as their texts are short.
        width = len(VALUES) - 1
        texts = [self._texts[row] for row in rows]
        raw = b",".join([text[text.find(VALUES) + width : text.find(CLIP)] for text in texts])
        try:
            values_by_row: list[Mapping[str, float]] = from_json(b"[%b]" % raw)
        except ValueError:
            values_by_row = []
        # A damaged line fails the whole, or shifts the rest. Decoding one by one finds it and names it.
        if len(values_by_row) != len(rows) or not _are_numbers(values_by_row):
            return [self.at(row).values for row in rows]
        return [numbers(values) for values in values_by_row] if b"null" in raw else values_by_row

    def __getitem__(self, key: str) -> IndexEntry:
        return self.at(self._rows[key])

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


def decode_entry(line: bytes, offset: int = 0, where: str = "record") -> IndexEntry:
    """The entry of the record in one line, whose members may stand in any order."""
    # Encoded anew, so that the entry's text has the order of members that `IndexEntry` cuts by.
    record = decode(line, where)
    if record.kind not in get_args(Kind) or record.status not in get_args(Status):
        raise RecordError(f"{where}: not a record: kind {record.kind!r}, status {record.status!r}")
    encoded = encode(record)
    tag = (record.kind, record.status, record.schema)
    return IndexEntry(record.key, tag, offset, encoded[: encoded.find(SPLIT)])
