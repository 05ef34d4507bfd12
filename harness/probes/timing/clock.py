"""Time with one clock: host time between synchronise points, device events for stages, spans by name."""

from __future__ import annotations

import gc
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from harness.errors import HarnessError, ModelFault

SECOND = 1_000_000_000
"""Nanoseconds in a second."""
L2_FALLBACK_BYTES = 256 << 20
"""Least bytes to flush between cold samples, for devices that do not tell their L2 size. triton.testing.do_bench zeroes
as much."""
GRAPH_BELOW_S = 50e-6
"""Calls under this get a row in a CUDA graph: launch gaps would dominate their time (rule T10)."""

_STAGE = re.compile(r"^(?P<head>[a-z_]+)(?:\[(?P<index>\d+)\])?(?:\.(?P<part>[a-z_]+))?$")


class ClockFault(HarnessError):
    """The host clock went backwards, so no duration taken with it can be believed."""

    exit_code = 1


@dataclass(frozen=True, slots=True)
class Span:
    """One timed stage.

    Attributes:
        name: the model's own, as in `chunk[3].denoise`.
        seconds: its duration, by device events on CUDA and by the host clock elsewhere.
        depth: 0 for a stage inside no other; only those add up to the end-to-end time.
        chunk: how many chunks were out when it ended, which is the number of the chunk at work.
    """

    name: str
    seconds: float
    depth: int = 0
    chunk: int = 0

    @property
    def stage(self) -> str:
        """The name without its index: `chunk.denoise`, `decode`, `text`."""
        head, _, part = _split(self.name)
        return f"{head}.{part}" if part else head

    @property
    def index(self) -> int | None:
        """The chunk that the stage belongs to; None for `text`, `prefix`, `to_host`, `switch`."""
        return _split(self.name)[1]


def _split(name: str) -> tuple[str, int | None, str]:
    match = _STAGE.match(name)
    if match is None:
        return name, None, ""
    index = match["index"]
    return match["head"], int(index) if index is not None else None, match["part"] or ""


class Clock:
    """Host and device time of one device (rule T2).

    `point` is host time between synchronise points, for end-to-end durations. `mark` never synchronises: on CUDA it is
    an event in the current stream, elsewhere the host time. Read pairs of marks with `seconds` after one `synchronise`.

    Args:
        device: `cpu`, `cuda` or `cuda:1`.
        now: monotonic host time in nanoseconds.
    """

    def __init__(self, device: str = "cpu", now: Callable[[], int] = time.perf_counter_ns) -> None:
        self.device = device
        self.on_cuda = device.startswith("cuda")
        self._now = now
        self._last: int | None = None

    def now(self) -> int:
        """Host time in nanoseconds. Raises `ClockFault` when it is earlier than the last reading."""
        # A clock that goes backwards gives durations that are too short, and looks like speed.
        reading = self._now()
        if self._last is not None and reading < self._last:
            raise ClockFault(
                f"the host clock went backwards by {self._last - reading} ns",
                "use a monotonic clock; on a virtual machine check its clock source",
            )
        self._last = reading
        return reading

    def synchronise(self) -> None:
        """Wait until the device has nothing left to do."""
        if self.on_cuda:
            import torch

            torch.cuda.synchronize(self.device)

    def point(self) -> int:
        """Host nanoseconds after a synchronise."""
        self.synchronise()
        return self.now()

    def mark(self) -> Any:
        """A place in the device's stream, or in host time where there is no stream."""
        if not self.on_cuda:
            return self.now()
        import torch

        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self.device))
        return event

    def seconds(self, start: Any, end: Any) -> float:
        """Seconds between two marks; on CUDA only after `synchronise`."""
        if self.on_cuda:
            return float(start.elapsed_time(end)) / 1e3
        return float(end - start) / SECOND


class Recorder:
    """The harness's `Spans`: times stages without synchronising, and reads all of them at the end (rules T2, T3).

    A synchronise a stage would stop the host from running ahead of the device, and so slow what it times.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._open = 0
        self._chunk = 0
        self._marks: list[tuple[str, int, int, Any, Any]] = []
        self._elsewhere: list[Span] = []

    @property
    def depth(self) -> int:
        """Stages open right now."""
        return self._open

    def __call__(self, name: str) -> AbstractContextManager[None]:
        """A context that lasts as long as the stage `name`."""
        return self._span(name)

    @contextmanager
    def _span(self, name: str) -> Iterator[None]:
        depth, start = self._open, self.clock.mark()
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1
            self._marks.append((name, depth, self._chunk, start, self.clock.mark()))

    def took(self, name: str, seconds: float, depth: int, chunk: int) -> None:
        """A stage of another process."""
        self._elsewhere.append(Span(name, seconds, depth, chunk))

    def next_chunk(self) -> None:
        """Count a chunk that came out.

        Raises `ModelFault` when a stage is open while the consumer holds the chunk: it would time the consumer.
        """
        if self._open:
            raise ModelFault(
                f"{self._open} span(s) still open when a chunk was yielded", "close every span before the yield"
            )
        self._chunk += 1

    def finish(self) -> list[Span]:
        """Synchronise once and read every stage, in the order in which they ended. Empties the recorder."""
        self.clock.synchronise()
        spans = [
            Span(name, self.clock.seconds(start, end), depth, chunk) for name, depth, chunk, start, end in self._marks
        ]
        spans += self._elsewhere
        self._marks.clear()
        self._elsewhere.clear()
        return spans


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Collect young objects now, and none while the context lasts, so that no pause falls into a sample."""
    enabled = gc.isenabled()
    gc.collect(1)  # not all: the objects of a loaded model are old, and looking through them takes long
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def time_calls(
    clock: Clock,
    call: Callable[[], object],
    *,
    warmup_s: float = 0.025,
    measure_s: float = 0.1,
    cold: bool = True,
    least: int = 10,
    most: int = 10_000,
) -> list[float]:
    """Seconds of each of many calls of a small function, inputs made outside of it (rule T10).

    Five estimating calls turn the time budgets of warm-up and measurement into counts. With `cold` a buffer as large as
    the device's L2 is zeroed before each call; without it the caches stay as the last call left them. There is one
    synchronise at the end, not one a call. Compile `call` before: its first run is not timed, and not repeated.

    Args:
        clock: of the device that `call` runs on.
        call: takes nothing; its result is dropped.
        warmup_s, measure_s: budgets in seconds.
        cold: flush the L2 first (CUDA only; a CPU's caches are left alone).
        least, most: bounds on the number of samples.
    """
    flush = _flusher(clock) if cold else _nothing
    call()
    # The estimate holds the flushes too, so that a budget is kept whatever a flush takes.
    start = clock.point()
    for _ in range(5):
        flush()
        call()
    estimate = max((clock.point() - start) / 5 / SECOND, 1e-9)  # never 0, which a coarse clock may measure
    for _ in range(min(most, int(warmup_s / estimate))):
        flush()
        call()
    repeats = max(least, min(most, int(measure_s / estimate)))
    marks = []
    with no_garbage_collection():
        for _ in range(repeats):
            # Outside the marks: the flush is queued before the first of them, and its time falls between two samples.
            flush()
            begin = clock.mark()
            call()
            marks.append((begin, clock.mark()))
    clock.synchronise()
    return [clock.seconds(begin, end) for begin, end in marks]


def time_graph(clock: Clock, call: Callable[[], object], *, repeats: int = 100, inner: int = 10) -> list[float]:
    """Seconds a call inside a CUDA graph of `inner` calls, without launch gaps; for calls under `GRAPH_BELOW_S`.

    `call` must be capturable: static shapes, no host synchronise. Empty on a device without graphs.
    """
    if not clock.on_cuda:
        return []
    import torch

    with torch.cuda.device(clock.device):
        # A graph is captured from a stream other than the default one, after a run there (torch.cuda.graph).
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            call()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(inner):
                call()
        return [t / inner for t in time_calls(clock, graph.replay, cold=False, least=repeats, most=repeats)]


def _nothing() -> None:
    return


def _flusher(clock: Clock) -> Callable[[], object]:
    if not clock.on_cuda:
        return _nothing
    import torch

    size = int(getattr(torch.cuda.get_device_properties(clock.device), "L2_cache_size", 0) or 0)
    buffer = torch.empty(max(size, L2_FALLBACK_BYTES), dtype=torch.int8, device=clock.device)
    return buffer.zero_


def stage_seconds(spans: Sequence[Span]) -> dict[str, float]:
    """Seconds by stage over the spans that lie inside no other."""
    total: dict[str, float] = {}
    for span in spans:
        if span.depth == 0:
            total[span.stage] = total.get(span.stage, 0.0) + span.seconds
    return total
