"""Units whose worker ended: how often each did that, and the failed record of one that has done it too often."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from harness.errors import HarnessError
from harness.execute import units
from harness.execute.process import ProcessEnded
from harness.runs.line import Record
from harness.runs.plan import Unit

DEATHS = 3
"""Workers that a unit may end before it has failed."""


class WorkerLost(HarnessError):
    """A unit ended the workers that did it."""

    exit_code = 1


class Deaths:
    """How many workers ended while they did a unit; some of them may have been killed from outside."""

    def __init__(self) -> None:
        self._by_key: Counter[str] = Counter()

    def add(self, lost: Iterable[Unit]) -> int:
        """Count one more worker for each of the units `lost`; the most that one of them has."""
        keys = [unit.key for unit in lost]
        self._by_key.update(keys)
        return max(self._by_key[key] for key in keys)


def lost_record(
    unit: Unit, setting: units.Setting, how: str, tail: str, started: str = "", doing: str = "it"
) -> Record:
    """The record of a unit that has ended too many workers.

    Args:
        how: the last one ended, as in `by signal SIGSEGV`. tail: the end of what that printed. doing: what ended it.
    """
    fault = WorkerLost(f"{doing} ended {DEATHS} workers, the last {how}", "see what that printed, in the traceback")
    error = {**units.describe(fault), "traceback": tail}
    return units.record(unit, setting, "failed", units.Result(), started, error)


def late_record(unit: Unit, setting: units.Setting, seconds: float, tail: str, started: str = "") -> Record:
    """The record of a unit that was ended after the `seconds` that its section lets it take; `tail` as above."""
    what = "clip" if unit.kind == "generate" else "score"
    fault = ProcessEnded(f"the {what} was ended after more than {seconds:g} s", "raise `timeout_s` of its section")
    error = {**units.describe(fault), "traceback": tail}
    return units.record(unit, setting, "failed", units.Result(), started, error)
