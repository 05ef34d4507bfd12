"""Name a function as a step of a network's pass. Costs nothing until `videomla_models.probes.stages` asks for steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

ATTRIBUTE = "step"


def step(name: str) -> Callable[[F], F]:
    """Decorator that sets the attribute `step` of a function to `name` and returns the function itself.

    Below `staticmethod`, where a function is one.
    """

    def label(function: F) -> F:
        vars(function)[ATTRIBUTE] = name
        return function

    return label
