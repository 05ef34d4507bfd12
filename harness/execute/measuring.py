"""Measurements in a process that makes no clip (rule T1): the run's side, and `python -m harness.execute.measuring`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from harness.contracts import Json, ProbeContext, Subject
from harness.execute import process, units
from harness.execute.printed import Log, mark
from harness.execute.process import Child, ProcessEnded
from harness.probes.timing.telemetry import PARENT_HOLDS_CONTEXT
from harness.runs.line import Record
from harness.runs.plan import Arm, Unit
from harness.system import devices

Task = tuple[Unit, Arm | None, Mapping[str, Json], float]
"""A unit, its arm if it has one, the options of its probe, and the seconds that it may take."""


class Measurer:
    """The run's side. The process starts with the first measurement, and again after it died.

    Args:
        say: gets progress, as in `loading dense`. scratch: as in `ProbeContext`.
        log: takes what models and probes print.
    """

    def __init__(
        self,
        device: str,
        setting: units.Setting,
        say: Callable[[str], None],
        scratch: Path,
        log: Log | None = None,
    ) -> None:
        self.setting = setting
        self._child = Child(__name__, device, setting, say, scratch, _environment, log)
        self.close, self.interrupt = self._child.close, self._child.interrupt

    def measure(self, unit: Unit, arm: Arm | None, options: Mapping[str, Json], seconds: float) -> Record:
        """The unit's record, a failed one where the process dies. Raises `StorageError` as the probe does."""
        start = units.now()
        with self._child.limited(seconds) as over:
            try:
                self._child.ask((unit, arm, options))
                for answer in self._child.answers():
                    if isinstance(answer, Record):
                        return answer
            except BaseException:
                self._child.kill()
                raise
        how, tail = self._child.how_it_ended(), self._child.tail()
        where = "see what it printed, in the traceback" if tail else "see what it printed"
        fault = ProcessEnded(f"the process that measures ended {how}", where)
        if over:
            fault = ProcessEnded(f"the measurement took more than {seconds:g} s and was ended", "raise its `timeout_s`")
        error = units.describe(fault) | ({"traceback": tail} if tail else {})
        return units.record(unit, self.setting, "failed", units.Result(), start, error)

    def do(self, task: Task, give: Callable[[Record], None]) -> None:
        """Measure, for `pool.work_all`."""
        give(self.measure(*task))

    def finish(self, give: Callable[[Record], None]) -> None:
        """No record is missing when no task is left."""
        self.close()


def _environment() -> dict[str, str]:
    return {PARENT_HOLDS_CONTEXT: str(int(devices.holds_context()))}


class Server(process.Server):
    """The process's side: load a unit's model anew, measure, record."""

    def serve(self, *request: Any) -> None:
        """Measure one unit and answer."""
        unit, arm, options = request
        hello = self.hello
        subject = None
        if arm is not None:
            load = partial(self.models.get, arm)
            subject = Subject(arm.name, arm.options, arm.card, hello.device, load, tuple(hello.plugins))

        where = f"{unit.context['section']} {unit.context['arm']}".rstrip()
        mark(f"{where} {unit.key[:12]}")

        def report(line: str) -> None:
            self.say(f"{where}: {line}")

        @contextmanager
        def spans(name: str) -> Iterator[None]:
            report(name)
            yield

        def work() -> units.Result:
            self.models.renew(arm)
            return units.measure(unit, options, subject, ProbeContext(hello.device, hello.folder, report, spans))

        self.keep(units.attempt(unit, hello.setting, work))


if __name__ == "__main__":
    process.main(Server)
