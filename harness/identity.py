"""A unit's key: the SHA-256 of the canonical JSON of everything that could change its result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from harness.contracts import Json
from harness.errors import HarnessError

IDENTITY_VERSION = 1
"""Part of every key; raised whenever the same unit would get another key, so that old records are not mistaken."""

_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode


def canonical(value: Json) -> str:
    """The one JSON text of `value`: keys sorted, ASCII, no blanks, floats as `repr`. Raises for NaN and infinity."""
    try:
        return _encode(value)
    except (ValueError, TypeError) as error:
        raise HarnessError(f"cannot make an identity of a value: {error}", "use finite numbers, texts and lists") from (
            error
        )


def digest(text: str) -> str:
    """SHA-256 of `text` in UTF-8, 64 hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def key(preimage: Mapping[str, Json]) -> str:
    """The key of a unit: digest of its canonical pre-image, which must carry `identity: IDENTITY_VERSION`."""
    return digest(canonical(preimage))


class Template:
    """Keys for many pre-images that share most of their members: the shared ones are encoded once.

    `Template(shared).key({...})` equals `key({**shared, ...})`.
    """

    def __init__(self, shared: Mapping[str, Json]) -> None:
        self.shared = dict(shared)
        self._fixed = {name: f"{_encode(name)}:{canonical(value)}" for name, value in shared.items()}
        self._order: dict[tuple[str, ...], list[str]] = {}

    def key(self, varying: Mapping[str, Json]) -> str:
        """The key of the shared members and `varying` together; the two have no name in common."""
        names = tuple(varying)
        order = self._order.get(names)
        if order is None:
            if clash := self._fixed.keys() & varying.keys():
                raise ValueError(f"named twice: {sorted(clash)}")
            order = self._order[names] = sorted([*self._fixed, *names])
        parts = [self._fixed.get(name) or f"{_encode(name)}:{canonical(varying[name])}" for name in order]
        return digest("{" + ",".join(parts) + "}")
