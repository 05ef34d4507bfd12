"""Clips in processes of their own: the run's side, and `python -m harness.execute.making`.

A model that ends its process, by a crash or for want of memory, loses the run nothing but the clips that it was at. On
a CPU there may be several: a small network keeps one thread busier than several, so each core has a process, and each
process a model.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import IO, Any

from harness.execute import process, units
from harness.execute.generate import Maker
from harness.execute.lost import DEATHS, Deaths, late_record, lost_record
from harness.execute.printed import Log, mark
from harness.execute.process import LOADED, READY, Child, Hello
from harness.runs.line import Record
from harness.runs.plan import Arm, Unit

Batch = tuple[Arm, Sequence[Unit]]
"""Clips of one arm that are made together."""

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


class ClipWorker:
    """The run's side of one process. It starts with the first batch, and again after it died.

    Args:
        say: gets progress, as in `loading dense`. folder: of the run.
        threads: that the model may use; None leaves them as they are. log: takes what the model prints.
        limits: seconds that a request may take, by section; none for one that is not there.
    """

    def __init__(
        self,
        device: str,
        setting: units.Setting,
        say: Callable[[str], None],
        folder: Path,
        threads: int | None = None,
        log: Log | None = None,
        limits: Mapping[str, float] | None = None,
    ) -> None:
        self.setting, self.limits = setting, limits or {}
        environment = {} if threads is None else dict.fromkeys(THREADS, str(threads))
        self._child = Child(__name__, device, setting, say, folder, lambda: environment, log)
        self._asked: dict[str, tuple[Arm, Unit]] = {}
        self._deaths = Deaths()
        self._loading = ""
        self._loading_deaths: Counter[str] = Counter()
        self._how, self._tail = "", ""
        self._interrupted = False
        self.close = self._child.close

    def do(self, task: Batch, give: Callable[[Record], None]) -> None:
        """Have a batch made, until the process asks for more. Some records may come later.

        Where the process dies, each half of the clips without a record is tried again, so that a clip that ends it
        fails alone. An arm whose load ends it again and again is not loaded for every clip.
        """
        arm, batch = task
        start = units.now()
        if self._loading_deaths[arm.label] >= DEATHS:
            self._fail(batch, start, give, f"loading {arm.label}")
            return
        with self._child.limited(self._limit(batch[0])) as over:
            self._ask(arm, batch)
            whole = self._read(give)
        if not whole:
            self._again(start, give, *over)

    def finish(self, give: Callable[[Record], None]) -> None:
        """Read the records that are missing, and end the process."""
        start = units.now()
        self._child.no_more()
        limit = max((self._limit(unit) for _, unit in self._asked.values()), default=threading.TIMEOUT_MAX)
        with self._child.limited(limit) as over:
            while self._asked and self._read(give):
                continue
        if self._asked:
            self._again(start, give, *over)
        self._child.close()

    def interrupt(self) -> None:
        """Kill the process; nothing is tried again. Thread-safe."""
        self._interrupted = True
        self._child.interrupt()

    def _limit(self, unit: Unit) -> float:
        return self.limits.get(str(unit.context["section"]), threading.TIMEOUT_MAX)

    def _ask(self, arm: Arm, batch: Sequence[Unit]) -> None:
        self._asked |= {unit.key: (arm, unit) for unit in batch}
        self._loading = arm.label
        self._child.ask((arm, batch))

    def _read(self, give: Callable[[Record], None]) -> bool:
        """Give records until the process asks for more; false where it ended."""
        for answer in self._child.answers():
            if answer == READY:
                return True
            if answer == LOADED:
                del self._loading_deaths[self._loading]
                self._loading = ""
            elif isinstance(answer, Record):
                self._asked.pop(answer.key, None)
                give(answer)
        return False

    def _again(self, start: str, give: Callable[[Record], None], late: float = 0.0) -> None:
        """What becomes of the clips of a process that ended: each half in a process of its own, or a failed record.

        A clip that takes more than its seconds by itself has failed at once; `late` are those that were over.
        """
        how, self._tail = self._child.how_it_ended(), self._child.tail()
        self._how = f"after more than {late:g} s" if late else how
        lost = list(self._asked.values())
        self._asked.clear()
        if self._interrupted or not lost:
            return
        self._loading_deaths[self._loading] += bool(self._loading)
        deaths = self._deaths.add(unit for _, unit in lost)
        if len(lost) == 1 and late:
            give(late_record(lost[0][1], self.setting, late, self._tail, start))
            return
        if len(lost) == 1 and deaths >= DEATHS:
            self._fail([lost[0][1]], start, give)
            return
        half = (len(lost) + 1) // 2
        for part in filter(None, (lost[:half], lost[half:])):
            for _, of_arm in groupby(part, key=lambda item: item[0].label):
                clips = list(of_arm)
                self.do((clips[0][0], [unit for _, unit in clips]), give)
                self.finish(give)

    def _fail(self, lost: Iterable[Unit], start: str, give: Callable[[Record], None], doing: str = "it") -> None:
        for unit in lost:
            give(lost_record(unit, self.setting, self._how, self._tail, start, doing))


def who(arm: Arm, batch: Sequence[Unit]) -> str:
    """Whose prints those are that come while a batch is made."""
    more = f" and {len(batch) - 1} more" if len(batch) > 1 else ""
    return f"{batch[0].context['section']} {arm.label} {batch[0].key[:12]}{more}"


class Server(process.Server):
    """The process's side: make a batch, and ask for the next while its clips are encoded."""

    def __init__(self, hello: Hello, answer: IO[bytes]) -> None:
        super().__init__(hello, answer)
        self.maker = Maker(self.models, hello.setting, hello.folder, self.keep)

    def serve(self, *request: Any) -> None:
        """Make one batch."""
        arm, batch = request
        mark(who(arm, batch))
        with suppress(Exception, SystemExit):  # each unit says it again
            self.models.get(arm)
        self.tell(LOADED)
        self.maker.make(arm, batch)
        self.tell(READY)
        self._settle(len(batch))

    def finish(self) -> None:
        """Wait for the clips that are being encoded."""
        self._settle(0)

    def _settle(self, leave: int) -> None:
        while len(self.maker.unfinished) > leave:
            attempt, _ = self.maker.unfinished.popleft()
            attempt.record()


if __name__ == "__main__":
    process.main(Server)
