"""Shows how a run goes: a bar with rate and time left on a terminal, plain lines when piped. Writes to stderr."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from enum import Enum
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from harness.errors import OptionError, shown
from harness.execute.outcome import Tick
from harness.runs.line import Record

LINE_SECONDS = 10.0
"""Plain lines come no closer than this, except for failures and for what is being loaded."""


def duration(seconds: float) -> str:
    """`seconds` as in `42 s`, `3 min 10 s` or `2 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


FEW = 3
"""Units from which on a rate is told: the first ones wait for models to be loaded."""


def pace(tick: Tick) -> str:
    """Rate and time left, as far as they can be told."""
    if tick.finished < min(FEW, tick.total) or not tick.finished or tick.seconds <= 0:
        return ""
    rate = tick.finished / tick.seconds
    rated = f"{rate:.1f} units/s" if rate >= 1 else f"{1 / rate:.1f} s/unit"
    left = (tick.total - tick.finished) / rate
    return f"{rated}, {duration(left)} left" if tick.finished < tick.total else rated


def failure(record: Record) -> str:
    """One line about a record that is not ok."""
    prompt = f", prompt {str(record.context['prompt'])!r}" if record.context.get("prompt") else ""
    return shown(f"{record.status}: {record.key[:12]} ({_where(record)}{prompt}): {_why(record)}")


def _where(record: Record) -> str:
    parts = (record.kind, *(record.context.get(name) for name in ("section", "arm", "plugin")))
    return " ".join(str(part) for part in parts if part)


def _why(record: Record) -> str:
    error = record.error
    why = f"{error.get('type', '')}: {error.get('message', '')}" if error else str(record.notes.get("reason", ""))
    return why.replace("\n  ", "; ")


def _cause(record: Record) -> tuple[str, str]:
    """What failures of one cause share: the place, and the message without what names a single clip."""
    return _where(record), re.sub(r"[0-9a-f]{12,}|\d+", "#", _why(record))


class Detail(Enum):
    """How much is said while units are done."""

    FAILURES = "failures alone"
    PROGRESS = "progress and failures"
    UNITS = "each unit that ended"

    @classmethod
    def of(cls, quiet: bool, verbose: bool) -> Detail:
        """The detail that two flags ask for. Raises `OptionError` for both."""
        if quiet and verbose:
            raise OptionError("--quiet and --verbose do not go together", "leave one of them out")
        return cls.FAILURES if quiet else cls.UNITS if verbose else cls.PROGRESS


class Meter(AbstractContextManager["Meter"]):
    """Call it with every `Tick` of a run.

    Args:
        console: of stderr; whether it is a terminal decides how progress is shown.
        clock: seconds that never go back. detail: how much is shown.
    """

    def __init__(
        self, console: Console, clock: Callable[[], float] = time.monotonic, detail: Detail = Detail.PROGRESS
    ) -> None:
        self.detail = detail
        self.console = console
        self.clock = clock
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._last = clock() - LINE_SECONDS
        self._skips: set[tuple[str, str]] = set()
        self._failures: Counter[tuple[str, str]] = Counter()
        self._first: dict[tuple[str, str], Record] = {}

    def __enter__(self) -> Meter:
        if self.console.is_terminal and self.detail is not Detail.FAILURES:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[pace]}"),
            )
            self._bar = Progress(*columns, console=self.console, transient=True)
            self._task = self._bar.add_task("starting", total=None, pace="")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        for cause, count in self._failures.items():
            if count > 1:
                first = self._first[cause]
                self._say(shown(f"failed {count:,} times so: {first.key[:12]} ({_where(first)}): {_why(first)}"))

    def __call__(self, tick: Tick) -> None:
        """Show `tick`."""
        if tick.record is not None and tick.record.status != "ok" and self._worth_saying(tick.record):
            self._say(failure(tick.record))
        if self.detail is Detail.FAILURES:
            return
        if self.detail is Detail.UNITS and tick.record is not None and tick.record.status == "ok":
            self._say(shown(f"ok: {tick.record.key[:12]} ({_where(tick.record)})"))
        if self._bar is not None:
            if tick.record is not None:
                doing = f"{tick.record.context.get('arm', '')} {tick.record.context.get('section', '')}".strip()
            else:
                doing = tick.message
            self._bar.update(
                self._task,
                description=escape(shown(doing, 48)),
                completed=tick.finished,
                total=tick.total,
                pace=pace(tick),
            )
        elif tick.message:
            self._say(shown(tick.message))
        elif self.clock() - self._last >= LINE_SECONDS or tick.finished == tick.total:
            self._last = self.clock()
            failed = f", {tick.failed} failed" if tick.failed else ""
            self._say(", ".join(filter(None, (f"{tick.finished} of {tick.total} units{failed}", pace(tick)))))

    def _worth_saying(self, record: Record) -> bool:
        """A reason for skipping is said once for each metric, and a cause of failures at the first, not every time."""
        if record.status == "failed":
            cause = _cause(record)
            self._failures[cause] += 1
            return self._first.setdefault(cause, record) is record
        place = (str(record.context.get("plugin", "")), str(record.notes.get("reason", "")))
        new = place not in self._skips
        self._skips.add(place)
        return new

    def _say(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)
