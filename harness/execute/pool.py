"""Several processes that work side by side for one run."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from queue import SimpleQueue
from threading import Thread
from typing import Protocol, TypeVar

from harness.runs.line import Record

JOIN_S = 0.1
"""Seconds between two attempts at ending a process that may just be starting."""

Event = str | Record | BaseException | None
"""Progress in words, a record, what concerns the run, or the end of one of the threads."""

T = TypeVar("T")
Task_contra = TypeVar("Task_contra", contravariant=True)


class Worker(Protocol[Task_contra]):
    """The run's side of a process that does one task after another."""

    def do(self, task: Task_contra, give: Callable[[Record], None]) -> None:
        """Do it, and give the records that come. Raises what concerns the run."""
        ...

    def finish(self, give: Callable[[Record], None]) -> None:
        """End the process in order; give the records that still come."""
        ...

    def close(self) -> None:
        """End the process whatever it is doing."""
        ...

    def interrupt(self) -> None:
        """Kill the process; `do`, in another thread, then ends. Thread-safe."""
        ...


def work_all(
    tasks: Iterable[T],
    jobs: int,
    start: Callable[[Callable[[str], None]], Worker[T]],
    say: Callable[[str], None],
    meanwhile: Callable[[], bool] = lambda: False,
) -> Generator[Record, None, None]:
    """The records of `tasks` as they come, `jobs` at a time, each process taking one task after another.

    A caller that stops early ends what is still running, and so does an exception of `Worker.do`, which is raised here.

    Args:
        start: makes a worker, given whom it tells what goes on. say: is told that, in the caller's thread.
        meanwhile: does a piece of other work in that thread, while no record waits; false where there is none.
    """
    waiting, events = deque(tasks), SimpleQueue[Event]()
    workers = [start(events.put) for _ in range(min(jobs, len(waiting)))]
    threads = [Thread(target=_serve, args=(worker, waiting, events), daemon=True) for worker in workers]
    for thread in threads:
        thread.start()
    running = len(threads)
    try:
        while running:
            if events.empty() and meanwhile():
                continue
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
        for worker, thread in zip(workers, threads, strict=True):
            while thread.is_alive():
                worker.interrupt()
                thread.join(JOIN_S)


def _serve(worker: Worker[T], waiting: deque[T], events: SimpleQueue[Event]) -> None:
    try:
        while waiting:
            try:
                task = waiting.popleft()
            except IndexError:
                break  # another thread took the last one
            worker.do(task, events.put)
        worker.finish(events.put)
    except BaseException as fault:  # noqa: BLE001 - it is raised where the records are taken
        events.put(fault)
    finally:
        worker.close()
        events.put(None)
