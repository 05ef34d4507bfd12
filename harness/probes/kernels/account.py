"""Say where the time of a whole chunk goes, apart from its timing: on the host, in launches, and step by step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

from harness.contracts import Json
from harness.contracts.kernels import Case
from harness.probes.timing.clock import SECOND, Clock, Recorder, Span

REST = "rest"
"""Stage of the time outside every step."""
CALLS = 3
"""Calls whose median is the host's time."""


def account(clock: Clock, case: Case) -> dict[str, Json]:
    """The facts of a chunk for its record, besides its times.

    Returns:
        host_s: until the call comes back: the host's time to launch it, and to wait where the queue is full.
            whole_s: until the device is done as well.
        launches, busy_s: kernels, copies and fills on a CUDA device, and the time that it spends in them.
        operators, scalar_reads: calls of PyTorch that compute (views left out), and those that hand a number to the
            host, for which it waits. stages_s: seconds by step, each without the steps inside it. On CUDA they lie
            between marks in the device's stream, so a wait of the device for the host counts into its step.

    The launches are left out where there is no CUDA device, operators and stages where the steps do not stay apart.
    """
    facts: dict[str, Json] = {**_host(clock, case.call), **_launches(clock, case.call)}
    if case.staged is not None:
        calls = count_operators(case.call)
        recorder = Recorder(clock)
        with recorder(REST):
            case.staged(recorder)
        facts |= {
            "operators": calls.operators,
            "scalar_reads": calls.scalar_reads,
            "stages_s": dict(own_seconds(recorder.finish())),
        }
    return facts


def _host(clock: Clock, call: Callable[[], object]) -> dict[str, Json]:
    until: list[tuple[float, float]] = []
    for _ in range(CALLS):
        start = clock.point()
        call()
        back = clock.now()  # without a synchronise: the device may still work
        until.append(((back - start) / SECOND, (clock.point() - start) / SECOND))
    return {"host_s": median(host for host, _ in until), "whole_s": median(whole for _, whole in until)}


def _launches(clock: Clock, call: Callable[[], object]) -> dict[str, Json]:
    if not clock.on_cuda:
        return {}
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        call()
        clock.synchronise()
    device_events = [event for event in profiler.events() or () if event.device_type.name == "CUDA"]
    return {
        "launches": len(device_events),
        "busy_s": sum(event.time_range.elapsed_us() for event in device_events) / 1e6,
    }


@dataclass(slots=True)
class Operators:
    """Calls of PyTorch that computed something, and those that handed a number to the host."""

    operators: int = 0
    scalar_reads: int = 0


def count_operators(call: Callable[[], object]) -> Operators:
    """Count the operators of one call on any device. A kernel that is launched past PyTorch's operators is not seen."""
    from torch.utils._python_dispatch import TorchDispatchMode

    calls = Operators()

    class Counts(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            returned = [value.alias_info for value in func._schema.returns]
            # An alias that is not written to is a view.
            if not any(alias is not None and not alias.is_write for alias in returned):
                calls.operators += 1
            calls.scalar_reads += func._schema.name == "aten::_local_scalar_dense"
            return func(*args, **(kwargs or {}))

    with Counts():  # type: ignore[no-untyped-call]
        call()
    return calls


def own_seconds(spans: list[Span]) -> dict[str, float]:
    """Seconds by stage, each without the stages inside it; `spans` in the order in which they ended."""
    # A span ends after those inside it, so their seconds are known when it comes.
    inside: dict[int, float] = {}
    own: dict[str, float] = {}
    for span in spans:
        own[span.stage] = own.get(span.stage, 0.0) + span.seconds - inside.pop(span.depth + 1, 0.0)
        inside[span.depth] = inside.get(span.depth, 0.0) + span.seconds
    return own
