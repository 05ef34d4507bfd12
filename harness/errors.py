"""Errors that a user can mend: one line that says what is wrong, one that says what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HarnessError(Exception):
    """Something that the user can mend; shown as one line and the fix, without a traceback.

    Args:
        message: what is wrong, one line, naming the file, option or value.
        fix: what to type or change, one line; empty where the message says it.
    """

    exit_code = 2

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.message}\n  {self.fix}" if self.fix else self.message


class SuiteError(HarnessError):
    """A suite, prompt or recipe file is malformed; the message starts with `file:line:`."""


class OptionError(HarnessError):
    """An option of a model, metric or probe is unknown or out of its range."""


class RegistryError(HarnessError):
    """A name is unknown, or registered twice."""


class RecordError(HarnessError):
    """A record file cannot be read, written or compared."""


class StorageError(HarnessError):
    """The disk is full or refuses a write; nothing that was recorded is lost."""

    exit_code = 1


class WeightsError(HarnessError):
    """A checkpoint is missing, truncated, unsafe, or does not fit its model."""


class ModelFault(HarnessError):
    """A model broke its contract: wrong shape, dtype, frame count, or NaN. Becomes a failed record."""

    exit_code = 1


class PluginFault(HarnessError):
    """A metric or probe broke its contract: a value missing, unknown or infinite. Becomes a failed record."""

    exit_code = 1


class ClipError(HarnessError):
    """A clip cannot be read or does not agree with its record. Becomes a failed record."""

    exit_code = 1


class NotAvailable(HarnessError):
    """A metric, device or weight file is not here; `fix` is the command that brings it."""

    exit_code = 1


class Incomplete(HarnessError):
    """Fewer units are done than were planned."""

    exit_code = 3


def nearest(name: str, choices: Iterable[str]) -> str:
    """The sentence that answers a misspelt `name`: the nearest of `known`, or all of them when they are few."""
    names = sorted(choices)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(close)}?"
    if not names:
        return "none is registered"
    return "known: " + ", ".join(names[:12]) + (", …" if len(names) > 12 else "")


def shown(text: str, width: int = 400) -> str:
    """`text` on one line, without the control characters that a terminal would obey, at most `width` letters."""
    plain = "".join(letter if letter.isprintable() else " " for letter in text)
    plain = " ".join(plain.split())
    return plain if len(plain) <= width else plain[: width - 1] + "…"


def complaint(error: HarnessError) -> str:
    """What is wrong, and on a second line what to do about it."""
    return "\n  ".join(shown(part, 2000) for part in (f"error: {error.message}", error.fix) if part)
