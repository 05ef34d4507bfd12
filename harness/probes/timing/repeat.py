"""Warm up until nothing compiles, and repeat until the median stands still or the ceiling is reached."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Self, TypeVar

from harness.contracts import Json
from harness.errors import NotAvailable
from harness.probes.timing.clock import SECOND, Clock
from harness.stats import estimates

T = TypeVar("T")
PAUSES_S = (1.0, 2.0, 5.0, 10.0)
"""Pauses after samples thrown away in a row, to let the device cool; a stream repeats the last one (rule T11).
Chosen here."""


class CompileCounter:
    """Counts graphs compiled by torch and kernels compiled by Triton in this process since it was entered (rule T6)."""

    def __init__(self) -> None:
        self._kernels = 0
        self._graphs = 0
        self._previous: Any = None
        self._hooked: Any = None

    def __enter__(self) -> Self:
        self._attach()
        self._graphs = _graphs()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._hooked is not None:
            self._hooked.jit_post_compile_hook = self._previous

    def _attach(self) -> None:
        triton = sys.modules.get("triton")
        runtime = getattr(getattr(triton, "knobs", None), "runtime", None)
        if self._hooked is None and runtime is not None:
            self._previous, self._hooked = runtime.jit_post_compile_hook, runtime
            runtime.jit_post_compile_hook = self._compiled

    def _compiled(self, *args: Any, **kwargs: Any) -> Any:
        self._kernels += 1
        return self._previous(*args, **kwargs) if self._previous is not None else None

    def count(self) -> int:
        """Compilations so far. Triton's are seen from the first call at which it was imported."""
        # Again: a model may import Triton only when it first compiles.
        self._attach()
        return self._kernels + _graphs() - self._graphs


def _graphs() -> int:
    dynamo = sys.modules.get("torch._dynamo.utils")
    return int(dynamo.counters["stats"]["unique_graphs"]) if dynamo is not None else 0


@dataclass(frozen=True, slots=True)
class Warmup:
    """The generations that warmed up.

    Attributes:
        runs: generations thrown away. seconds: of all of them; `first_s` of the first.
        compilations: graphs and kernels compiled meanwhile.
        quiet: whether the last ones compiled nothing.
    """

    runs: int
    seconds: float
    first_s: float
    compilations: int
    quiet: bool


def _nothing() -> int:
    return 0


def warm_up(
    clock: Clock, run: Callable[[int], object], quiet: int, most: int, elsewhere: Callable[[], int] = _nothing
) -> Warmup:
    """Call `run(i)` until `quiet` calls in a row compile nothing, or `most` calls were made (rule T6).

    `elsewhere` counts what a model's own process has compiled.
    """
    start, first, quiet_runs, runs = clock.point(), float("nan"), 0, 0
    with CompileCounter() as counter:
        begun = counted = elsewhere()
        while quiet_runs < quiet and runs < most:
            before = counted
            run(runs)
            counted = counter.count() + elsewhere()
            quiet_runs = quiet_runs + 1 if counted == before else 0
            runs += 1
            if runs == 1:
                first = (clock.point() - start) / SECOND
        return Warmup(runs, (clock.point() - start) / SECOND, first, counted - begun, quiet_runs >= quiet)


@dataclass(frozen=True, slots=True)
class Stop:
    """When to stop (rule T8).

    Attributes:
        least: accepted samples at least. seconds: timed seconds at least.
        half_width: of the 95 % interval of the median, relative to it.
        ceiling_s: seconds after which no further sample is begun.
        clock_ratio: a sample below this share of the default device clock is thrown away (rule T11).
    """

    least: int = 10
    seconds: float = 60.0
    half_width: float = 0.02
    ceiling_s: float = 600.0
    clock_ratio: float = 0.75


@dataclass(frozen=True, slots=True)
class Repeated(Generic[T]):
    """Accepted samples and how the repetition ended.

    Attributes:
        samples: accepted ones, in order.
        converged: whether every demand of the stop rule was met; `reason` says which was not.
        half_width: the reached one; NaN under 6 samples. rejected: samples thrown away.
        clock_ratios, rejected_ratios: device clock over its default right after each accepted and each rejected
            sample; NaN where the device does not tell.
    """

    samples: list[T]
    converged: bool
    reason: str
    half_width: float
    seconds: float
    rejected: int
    clock_ratios: list[float]
    rejected_ratios: list[float]

    def to_json(self) -> dict[str, Json]:
        """For a record's notes."""
        return {"converged": self.converged, "reason": self.reason, "timed_seconds": self.seconds}


def repeat(
    clock: Clock,
    sample: Callable[[int], T],
    seconds_of: Callable[[T], float],
    stop: Stop,
    *,
    clock_ratio: Callable[[], float | None] = lambda: None,
    sleep: Callable[[float], None] = time.sleep,
) -> Repeated[T]:
    """Call `sample(i)` until the stop rule is met or the ceiling is reached.

    Args:
        seconds_of: the duration whose median must converge.
        clock_ratio: device clock over its default right after a sample; None keeps every sample.
        sleep: how to pause after a sample was thrown away.

    Raises `NotAvailable` when every sample up to the ceiling was thrown away.
    """
    samples: list[T] = []
    durations: list[float] = []
    ratios: list[float] = []
    rejected: list[float] = []
    in_a_row = 0
    start = clock.point()
    while True:
        outcome = sample(len(samples) + len(rejected))
        reading = clock_ratio()
        ratio = float("nan") if reading is None else reading
        slow = ratio < stop.clock_ratio  # never for NaN, of a device that does not tell its clock
        if slow:
            rejected.append(ratio)
        else:
            samples.append(outcome)
            ratios.append(ratio)
            durations.append(seconds_of(outcome))
        lacking = _lacking(durations, stop)
        ceiling = (clock.point() - start) / SECOND >= stop.ceiling_s
        if ceiling and not samples:
            raise _too_slow(len(rejected), stop.clock_ratio)
        if not lacking or ceiling:
            width = estimates.median_half_width(durations)
            reason = f"ceiling of {stop.ceiling_s:g} s reached: {lacking}" if lacking else "stop rule met"
            return Repeated(samples, not lacking, reason, width, sum(durations), len(rejected), ratios, rejected)
        if slow:
            sleep(PAUSES_S[min(in_a_row, len(PAUSES_S) - 1)])
        in_a_row = in_a_row + 1 if slow else 0


class FullClock:
    """Takes a sample anew while the device's clock right after it is low, and counts those thrown away (rule T11).

    Args:
        ratio: device clock over its default, asked for after each sample; None keeps every sample.
        least: ratio below which a sample is thrown away. sleep: how to pause before the next one.
    """

    def __init__(
        self, ratio: Callable[[], float | None], least: float, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self.ratio, self.least, self.sleep = ratio, least, sleep
        self.rejected = 0

    def take(self, sample: Callable[[], T]) -> T:
        """`sample()`, taken anew after each of `PAUSES_S` while the clock is low.

        Raises `NotAvailable` when every one of those was thrown away.
        """
        for pause in (0.0, *PAUSES_S):
            if pause:
                self.sleep(pause)
            result, reading = sample(), self.ratio()
            if reading is None or not reading < self.least:
                return result
            self.rejected += 1
        raise _too_slow(1 + len(PAUSES_S), self.least)


def _too_slow(samples: int, least: float) -> NotAvailable:
    return NotAvailable(
        f"all {samples} samples were taken below {least:.0%} of the device's default clock",
        "wait until the device is cool and free, or lower min_clock_ratio",
    )


def _lacking(durations: list[float], stop: Stop) -> str:
    """The unmet demand of the stop rule; empty when it is met."""
    if len(durations) < stop.least:
        return f"{len(durations)} of {stop.least} samples"
    if sum(durations) < stop.seconds:
        return f"{sum(durations):.3g} of {stop.seconds:g} s timed"
    width = estimates.median_half_width(durations)
    if not width <= stop.half_width:
        return f"half-width {width:.2%} above {stop.half_width:.2%}" if width == width else "fewer than 6 samples"
    return ""
