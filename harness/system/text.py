"""Texts that people typed, where a terminal, a page or a spreadsheet would obey part of them."""

from __future__ import annotations

import unicodedata

FORMULAS = ("=", "+", "-", "@", "\t", "\r")
"""What starts a formula in a spreadsheet."""

BIDIRECTIONAL = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Marks and overrides of direction, which show letters in another order than they stand in."""

OBEYED = ("Cc", "Cs", "Zl", "Zp")
"""Categories of Unicode that are no letters: controls, halves of a surrogate pair, separators of lines."""


def plain(text: str) -> str:
    """`text` with a blank for each character that is obeyed and not shown."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(" " if unicodedata.category(c) in OBEYED or c in BIDIRECTIONAL else c for c in text)


def inert(text: str) -> str:
    """`text` with a quote before a character that would start a formula in a spreadsheet."""
    return f"'{text}" if text.startswith(FORMULAS) else text


def without_quote(text: str) -> str:
    """The text that `inert` was given."""
    return text[1:] if text.startswith("'") and text[1:].startswith(FORMULAS) else text
