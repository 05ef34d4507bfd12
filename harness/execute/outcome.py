"""Progress and counts of a run, and the rule by which failures end it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness.runs.line import Record
from harness.suite.schema import ErrorPolicy


@dataclass(frozen=True, slots=True)
class Tick:
    """Progress of a run, after each unit and whenever `message` changes.

    Attributes:
        finished: units that this run has finished, whatever their status. total: those that it had to do.
        failed: of those finished.
        seconds: since the run began its work.
        message: what is going on, as in `loading dense`; empty with a record.
        record: the record just written.
    """

    finished: int
    total: int
    failed: int
    seconds: float
    message: str = ""
    record: Record | None = None


Progress = Callable[[Tick], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended. Counts are of planned units, by the newest record of each.

    Attributes:
        folder: the run folder.
        planned: units of the plan. already_done: of those, before this run. done_now: by it.
        failed, skipped: by the newest record. pending: neither tried nor done.
        stopped: why the run ended early; empty for a complete run.
        remarks: sentences on what the folder holds: units of an earlier plan, results of other code.
    """

    folder: Path
    planned: int
    already_done: int
    done_now: int
    failed: int
    skipped: int
    pending: int
    stopped: str = ""
    remarks: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """0 everything is done, 1 something failed, 3 units are missing or were skipped."""
        if self.failed:
            return 1
        return 3 if self.pending or self.skipped or self.stopped else 0


def stop_reason(policy: ErrorPolicy, failed: int, planned: int) -> str:
    """Why a run with `failed` failures among `planned` units must stop now; empty when it goes on.

    `continue` never stops, `stop` does at the first failure, a count n at the n-th, a fraction f as soon as the
    failures reach f of all planned units.
    """
    if failed < 1 or policy == "continue":
        return ""
    if policy == "stop":
        return "a unit failed, and the suite says errors: stop"
    if isinstance(policy, float) and policy < 1:
        reached = failed >= policy * planned
        return f"{failed} of {planned} units failed, and the suite says errors: {policy}" if reached else ""
    return f"{failed} units failed, and the suite says errors: {policy}" if failed >= float(policy) else ""
