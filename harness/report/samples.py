"""What the records of one arm in one section hold, as arrays: the values, and which of them belong together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.errors import RecordError
from harness.plan import Group
from harness.records import Head, Run, uncollected, values_of
from harness.report import layout
from harness.schema import GenerateSection


@dataclass(frozen=True, slots=True)
class Samples:
    """The results of a group.

    Attributes:
        planned: units of the group.
        heads: of those that are done, n of them, in the order planned.
        places: [n] position of each among the planned ones. Equal places of two arms of a section are one pair:
            the same prompt and seed.
        prompts: [n] number of each one's prompt; equal texts have equal numbers.
        values: [n] by name; NaN where a clip does not define it.
        skipped: units that were skipped; the first of them is `skip`.
        failed: units whose newest record is a failure.
    """

    planned: int
    heads: tuple[Head, ...]
    places: NDArray[np.int64]
    prompts: NDArray[np.int64]
    values: dict[str, NDArray[np.float64]]
    skipped: int
    failed: int
    skip: Head | None

    @property
    def scored(self) -> int:
        """Units that are done."""
        return len(self.heads)


def read(run: Run, group: Group, names: tuple[str, ...]) -> Samples:
    """The samples of `group` in `run`, with the values `names`."""
    with uncollected():
        found = [run.heads.get(key) for key in group.keys]
        done = [head for head in found if head is not None and head.status == "ok"]
        places = np.flatnonzero([head is not None and head.status == "ok" for head in found])
        rows = values_of(done)
        nan = float("nan")
        values = {name: np.fromiter((row.get(name, nan) for row in rows), np.float64, len(rows)) for name in names}
    rest = [] if len(done) == len(found) else [head for head in found if head is not None]
    skips = [head for head in rest if head.status == "skipped"]
    failed = sum(1 for head in rest if head.status == "failed")
    return Samples(
        planned=len(found),
        heads=tuple(done),
        places=places,
        prompts=_prompts(run, group)[places],
        values=values,
        skipped=len(skips),
        failed=failed,
        skip=skips[0] if skips else None,
    )


def doubts(values: Mapping[str, ArrayLike]) -> tuple[str, ...]:
    """Marks of a measurement that was disturbed, or that ended before its stop rule was met, in any round."""
    contended = np.nan_to_num(values.get("contended", 0.0)).any()
    ended = (np.asarray(values.get("converged", 1.0)) == 0).any()
    return (layout.CONTENDED,) * bool(contended) + (layout.UNCONVERGED,) * bool(ended)


def _prompts(run: Run, group: Group) -> NDArray[np.int64]:
    """The number of the prompt of every planned unit: keys stand in the order of (prompt, seed)."""
    section = next((section for section in run.suite.generate if section.name == group.section), None)
    if not isinstance(section, GenerateSection):
        return np.arange(len(group.keys))
    texts = run.suite.prompts[section.prompts].texts
    if len(texts) * len(section.seeds) != len(group.keys):
        raise RecordError(
            f"{run.folder}: section {group.section!r} has {len(group.keys)} planned units for {group.arm!r}, "
            f"not one for each of {len(texts)} prompts and {len(section.seeds)} seeds",
            "run the suite again to renew its plan",
        )
    first: dict[str, int] = {}
    numbers = np.array([first.setdefault(text, len(first)) for text in texts], dtype=np.int64)
    return np.repeat(numbers, len(section.seeds))
