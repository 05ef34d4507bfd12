"""Label parts of a forward pass for profiling; costs nothing when off.

A label costs the host as much as a small launch, so functions carry an attribute alone (`videomla_models.ops.step`),
and are wrapped while somebody asks where the time goes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from types import FunctionType, ModuleType
from typing import Any, ParamSpec, TypeVar

import torch.nn.functional

from harness.contracts import Spans
from videomla_models.ops.step import ATTRIBUTE

P = ParamSpec("P")
T = TypeVar("T")

PACKAGE = "videomla_models."
PROJECTIONS = "projections"
"""Step of `torch.nn.functional.linear`, the one function that is not ours to decorate."""

Place = tuple[Any, str, Callable[..., Any], str]
"""A module or class, the name that it has for a function, the function, and its step."""


def places() -> Iterator[Place]:
    """Every place in the loaded modules of this package by which a function with a step is called."""
    yield torch.nn.functional, "linear", torch.nn.functional.linear, PROJECTIONS
    for name, module in list(sys.modules.items()):
        if name.startswith(PACKAGE):
            yield from _carriers(module)
            for member in vars(module).values():
                if isinstance(member, type) and member.__module__ == name:
                    yield from _carriers(member)


def _carriers(owner: ModuleType | type) -> Iterator[Place]:
    for name, member in vars(owner).items():
        function = member.__func__ if isinstance(member, staticmethod) else member
        if isinstance(function, FunctionType) and ATTRIBUTE in vars(function):
            yield owner, name, function, vars(function)[ATTRIBUTE]


@contextmanager
def named(spans: Spans) -> Iterator[None]:
    """Report every step to `spans` while the context lasts, whichever network makes it in this process.

    Of steps inside each other the inner one counts: keys rotated while they are written are rope, the products that
    rebuild keys and values are the expansion. A step inside one of its own name is not reported again.
    """
    running: list[str] = []
    with ExitStack() as stack:
        for owner, name, function, stage in list(places()):
            original = vars(owner)[name]
            stack.callback(setattr, owner, name, original)
            wrapper = _around(function, stage, spans, running)
            setattr(owner, name, staticmethod(wrapper) if isinstance(original, staticmethod) else wrapper)
        yield


def _around(function: Callable[P, T], stage: str, spans: Spans, running: list[str]) -> Callable[P, T]:
    @wraps(function)
    def call(*arguments: P.args, **named: P.kwargs) -> T:
        if running[-1:] == [stage]:
            return function(*arguments, **named)
        with spans(stage):
            running.append(stage)
            try:
                return function(*arguments, **named)
            finally:
                running.pop()

    return call
