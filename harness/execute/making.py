"""Clips in processes of their own, on a CPU: the run's side, and `python -m harness.execute.making`.

A small network keeps one thread busier than several: so each core has a process, and each process a model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import IO, Any

from harness.execute import process, units
from harness.execute.generate import Maker
from harness.execute.process import READY, Child, Hello, ProcessEnded
from harness.runs.line import Record
from harness.runs.plan import Arm, Unit

Batch = tuple[Arm, Sequence[Unit]]
"""Clips of one arm that are made together."""

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


class ClipWorker:
    """The run's side of one process. It starts with the first batch, and again after it died.

    Args:
        say: gets progress, as in `loading dense`. folder: of the run. threads: that the model may use.
    """

    def __init__(
        self, device: str, setting: units.Setting, say: Callable[[str], None], folder: Path, threads: int
    ) -> None:
        self.setting = setting
        environment = dict.fromkeys(THREADS, str(threads))
        self._child = Child(__name__, device, setting, say, folder, lambda: environment)
        self._asked: dict[str, tuple[Arm, Unit]] = {}
        self._interrupted = False
        self.close = self._child.close

    def do(self, task: Batch, give: Callable[[Record], None]) -> None:
        """Have a batch made, until the process asks for more. Some records may come later.

        Where the process dies, each half of the clips without a record is tried again, so that a clip that ends it
        fails alone.
        """
        start = units.now()
        self._ask(*task)
        if not self._read(give):
            self._again(start, give)

    def finish(self, give: Callable[[Record], None]) -> None:
        """Read the records that are missing, and end the process."""
        start = units.now()
        self._child.no_more()
        while self._asked and self._read(give):
            continue
        if self._asked:
            self._again(start, give)
        self._child.close()

    def interrupt(self) -> None:
        """Kill the process; nothing is tried again. Thread-safe."""
        self._interrupted = True
        self._child.interrupt()

    def _ask(self, arm: Arm, batch: Sequence[Unit]) -> None:
        self._asked |= {unit.key: (arm, unit) for unit in batch}
        self._child.ask((arm, batch))

    def _read(self, give: Callable[[Record], None]) -> bool:
        """Give records until the process asks for more; false where it ended."""
        for record in self._child.answers():
            if record is None:
                return True
            self._asked.pop(record.key, None)
            give(record)
        return False

    def _again(self, start: str, give: Callable[[Record], None]) -> None:
        """What becomes of the clips of a process that ended: each half in a process of its own, or a failed record."""
        how, lost = self._child.how_it_ended(), list(self._asked.values())
        self._asked.clear()
        if self._interrupted:
            return
        if len(lost) == 1:
            fault = ProcessEnded(f"the process that makes clips ended {how}", "see what it printed")
            give(units.record(lost[0][1], self.setting, "failed", units.Result(), start, units.describe(fault)))
            return
        half = (len(lost) + 1) // 2
        for part in (lost[:half], lost[half:]):
            for _, of_arm in groupby(part, key=lambda item: item[0].label):
                clips = list(of_arm)
                self._ask(clips[0][0], [unit for _, unit in clips])
                self.finish(give)


class Server(process.Server):
    """The process's side: make a batch, and ask for the next while its clips are encoded."""

    def __init__(self, hello: Hello, answer: IO[bytes]) -> None:
        super().__init__(hello, answer)
        self.maker = Maker(self.models, hello.setting, hello.folder, self.keep)

    def serve(self, *request: Any) -> None:
        """Make one batch."""
        arm, batch = request
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
