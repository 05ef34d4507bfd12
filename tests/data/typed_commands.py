"""A suite to run by typed commands, and what those gave; the fixture `harness` of tests/harness/cli types them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from road import FAKES

SUITE = """\
suite: tiny
title: Moving squares
models:
  - {name: fake/moving, label: dense}
  - {name: fake/moving, label: small, options: {chunk: 2}}
prompts:
  demo: ["a red circle", "../../<b>x</b> | 'y'"]
generate:
  - {name: short, prompts: demo, seeds: [0, 1], frames: 5, metrics: [fake/brightness]}
measure:
  - {name: count, probe: fake/count, prompts: demo, frames: 5}
"""


@dataclass
class Result:
    """Exit code and what was printed."""

    code: int
    out: str
    err: str


Harness = Callable[..., Result]


def run(harness: Harness, *more: str) -> Result:
    """`harness run` of the suite."""
    return harness("run", "suite.yaml", "--plugin", str(FAKES), *more)
