"""When failures stop a run: the suite's `errors:` as one pure function."""

from __future__ import annotations

from harness.schema import ErrorPolicy


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
