"""Words of captions as numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

PAD, UNKNOWN = 0, 1
"""Ids of the padding and of every word that no caption uses."""

TEXT_LENGTH = 8
"""Ids that `Words.tokens` gives for a text."""


@dataclass(frozen=True, slots=True)
class Words:
    """The words that a world's captions choose among.

    Attributes:
        names: in the order of their ids, `PAD` and `UNKNOWN` first.
        silent: words that carry nothing, since every caption that could have them does; they have no id.
    """

    names: tuple[str, ...]
    silent: frozenset[str]

    @classmethod
    def of(cls, phrases: Iterable[str], silent: frozenset[str]) -> Words:
        """The words of `phrases` but the silent ones, each once, in the order in which they come."""
        words = (word for phrase in phrases for word in phrase.split() if word not in silent)
        return cls(("<pad>", "<unknown>", *dict.fromkeys(words)), silent)

    def tokens(self, text: str) -> NDArray[np.int64]:
        """Ids of the words of any text, int64 [8]: padded with `PAD`, cut after 8, `UNKNOWN` for a foreign word."""
        # `\w+` keeps the angle brackets out, so that a text that says "<pad>" finds no id.
        said = [word for word in re.findall(r"\w+", text.lower()) if word not in self.silent][:TEXT_LENGTH]
        ids = [_ids(self).get(word, UNKNOWN) for word in said]
        return np.array(ids + [PAD] * (TEXT_LENGTH - len(ids)), dtype=np.int64)


@cache
def _ids(words: Words) -> dict[str, int]:
    return {word: index for index, word in enumerate(words.names)}
