"""A unit's key: the SHA-256 of the canonical JSON of everything that could change its result."""

from __future__ import annotations

from collections.abc import Mapping
from json.encoder import encode_basestring_ascii

from harness.contracts import Json
from harness.system.digests import canonical, digest, encode_json

IDENTITY_VERSION = 1
"""Part of every key; raised whenever the same unit would get another key, so that old records are not mistaken."""


def key(preimage: Mapping[str, Json]) -> str:
    """The key of a unit: digest of its canonical pre-image, which must carry `identity: IDENTITY_VERSION`."""
    return digest(canonical(preimage))


def _text(value: Json) -> str:
    """`canonical`, quickly for the two types that vary from unit to unit."""
    kind = type(value)  # not isinstance: True is an int, and its JSON is `true`
    if kind is str:
        return encode_basestring_ascii(str(value))
    return str(value) if kind is int else canonical(value)


class Template:
    """Keys for many pre-images that share most of their members. The shared members are encoded once.

    `Template(shared).key({...})` equals `key({**shared, ...})`. A plan may have a million units of one model.
    """

    def __init__(self, shared: Mapping[str, Json]) -> None:
        self._fixed = {name: f"{encode_json(name)}:{canonical(value)}" for name, value in shared.items()}
        self._frames: dict[tuple[str, ...], tuple[list[tuple[str, str]], str]] = {}

    def key(self, varying: Mapping[str, Json]) -> str:
        """The key of the shared members and `varying` together; the two have no name in common."""
        names = tuple(varying)
        frame = self._frames.get(names)
        if frame is None:
            frame = self._frames[names] = self._frame(names)
        gaps, end = frame
        parts = []
        for before, name in gaps:
            value = varying[name]
            parts.append(before)
            parts.append(_text(value))
        parts.append(end)
        return digest("".join(parts))

    def _frame(self, names: tuple[str, ...]) -> tuple[list[tuple[str, str]], str]:
        """The text before each of `names` in the sorted order of all members, and the text after the last."""
        if clash := self._fixed.keys() & set(names):
            raise ValueError(f"named twice: {sorted(clash)}")
        gaps: list[tuple[str, str]] = []
        text, comma = "{", ""
        for name in sorted([*self._fixed, *names]):
            if name in self._fixed:
                text += comma + self._fixed[name]
            else:
                gaps.append((f"{text}{comma}{encode_json(name)}:", name))
                text = ""
            comma = ","
        return gaps, text + "}"
