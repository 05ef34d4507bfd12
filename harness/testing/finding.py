"""What a check found, and how one step of it is tried."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TypeVar

from harness.contracts import VideoModel
from harness.errors import HarnessError
from harness.system.deadline import at_most

T = TypeVar("T")

STEP_S = 3600.0
"""Seconds that one step may take, as a clip of a large model."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was checked: `ok` is None where it could not be tried, and `detail` says why.

    Attributes:
        fix: what to do about a fault; empty where the detail says it.
    """

    name: str
    ok: bool | None
    detail: str = ""
    fix: str = ""


def attempt(findings: list[Finding], name: str, step: Callable[[], T]) -> T | None:
    """Note how `step` ends, within `STEP_S`; its result, or None when it failed."""
    try:
        with at_most(STEP_S):
            result = step()
    except HarnessError as error:
        findings.append(Finding(name, False, error.message, error.fix))
    except Exception as error:  # noqa: BLE001 - a plug-in may raise anything
        findings.append(Finding(name, False, f"{type(error).__name__}: {error}"))
    else:
        findings.append(Finding(name, True))
        return result
    return None


def attempt_all(findings: list[Finding], name: str, step: Callable[[], None]) -> None:
    """Do `step`, which notes its own findings; note how it ends only where it raises."""
    ending: list[Finding] = []
    attempt(ending, name, step)
    findings += [finding for finding in ending if not finding.ok]


@contextmanager
def unloaded_when_interrupted(model: VideoModel) -> Iterator[None]:
    """Have the model let go of what it holds, as processes of its own, where an interrupt ends what is inside."""
    try:
        yield
    except KeyboardInterrupt:
        with suppress(Exception):  # a plug-in may raise anything
            model.unload()
        raise


def left_out(findings: list[Finding], name: str, why: str, fix: str = "") -> None:
    """Note that something was not tried."""
    findings.append(Finding(name, None, why, fix))
