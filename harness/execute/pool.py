"""Several measuring processes side by side, for probes that no other work disturbs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from queue import SimpleQueue
from threading import Thread

from harness.execute.measuring import Measurer, Task
from harness.runs.line import Record

JOIN_S = 0.1
"""Seconds between two attempts at ending a process that may just be starting."""

Event = str | Record | BaseException | None
"""Progress in words, a record, what concerns the run, or the end of one of the threads."""


def measure_all(
    tasks: Iterable[Task], jobs: int, start: Callable[[Callable[[str], None]], Measurer], say: Callable[[str], None]
) -> Generator[Record, None, None]:
    """The records of `tasks` as they come, `jobs` at a time, each process taking one task after another.

    A caller that stops early ends what is still running, and so does an exception of `Measurer.measure`, which is
    raised here.

    Args:
        start: makes a measurer, given whom it tells what goes on. say: is told that, in the caller's thread.
    """
    waiting, events = deque(tasks), SimpleQueue[Event]()
    measurers = [start(events.put) for _ in range(min(jobs, len(waiting)))]
    threads = [Thread(target=_serve, args=(measurer, waiting, events), daemon=True) for measurer in measurers]
    for thread in threads:
        thread.start()
    running = len(threads)
    try:
        while running:
            event = events.get()
            if isinstance(event, BaseException):
                raise event
            if isinstance(event, str):
                say(event)
            elif event is None:
                running -= 1
            else:
                yield event
    finally:
        waiting.clear()
        for measurer, thread in zip(measurers, threads, strict=True):
            while thread.is_alive():
                measurer.interrupt()
                thread.join(JOIN_S)


def _serve(measurer: Measurer, waiting: deque[Task], events: SimpleQueue[Event]) -> None:
    try:
        while waiting:
            events.put(measurer.measure(*waiting.popleft()))
    except IndexError:
        pass  # another thread took the last one
    except BaseException as fault:  # noqa: BLE001 - it is raised where the records are taken
        events.put(fault)
    finally:
        measurer.close()
        events.put(None)
