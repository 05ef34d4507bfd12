"""What the records of one arm in one section hold, as arrays: the values, and which of them belong together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.errors import RecordError
from harness.heads import Head, Heads
from harness.plan import Group
from harness.probes.audit import LEFT_OUT, PASSED
from harness.records import RecordFile, Run
from harness.report import layout
from harness.schema import GenerateSection

BLOCK = 4096
"""Records whose values are decoded together."""


@dataclass(frozen=True, slots=True)
class Samples:
    """The results of a group.

    Attributes:
        planned: units of the group.
        last: the head of the last of those that are done, n of them, in the order planned; None without any.
        schemas: of the records of those.
        places: [n] position of each among the planned ones. Equal places of two arms of a section are one pair:
            the same prompt and seed.
        prompts: [n] number of each one's prompt; equal texts have equal numbers.
        values: [n] by name; NaN where a clip does not define it.
        audits: verdicts of the caching audit that the records of a measurement give (`harness.probes.audit`).
        skipped: units that were skipped; the first of them is `skip`.
        failed: units whose newest record is a failure.
    """

    planned: int
    last: Head | None
    schemas: frozenset[int]
    places: NDArray[np.int64]
    prompts: NDArray[np.int64]
    values: dict[str, NDArray[np.float64]]
    audits: tuple[str, ...]
    skipped: int
    failed: int
    skip: Head | None

    @property
    def scored(self) -> int:
        """Units that are done."""
        return len(self.places)


def read(run: Run, group: Group, names: tuple[str, ...]) -> Samples:
    """The samples of `group` in `run`, with the values `names`."""
    heads, marks = run.heads, run.heads.marks
    found = heads.rows(group.keys)
    statuses = ["" if row is None else marks[row][1] for row in found]
    places = np.flatnonzero([status == "ok" for status in statuses])
    done = [row for row, status in zip(found, statuses, strict=True) if status == "ok" and row is not None]
    skip = found[statuses.index("skipped")] if "skipped" in statuses else None
    return Samples(
        planned=len(found),
        last=heads.at(done[-1]) if done else None,
        schemas=frozenset({marks[row][2] for row in done}),
        places=places,
        prompts=_prompts(run, group)[places],
        values=_values(heads, done, names),
        audits=_audits(run, [heads.at(row) for row in done]) if group.kind == "measure" else (),
        skipped=statuses.count("skipped"),
        failed=statuses.count("failed"),
        skip=None if skip is None else heads.at(skip),
    )


def _values(heads: Heads, rows: list[int], names: tuple[str, ...]) -> dict[str, NDArray[np.float64]]:
    """The values `names` of the heads in `rows`, a column each; decoded by the block, so that few are held at once."""
    found = {name: np.full(len(rows), math.nan) for name in names}
    for start in range(0, len(rows), BLOCK):
        block = heads.values_at(rows[start : start + BLOCK])
        for name, column in found.items():
            column[start : start + BLOCK] = [values.get(name, math.nan) for values in block]
    return found


def _audits(run: Run, heads: Sequence[Head]) -> tuple[str, ...]:
    file = RecordFile(run.folder / "records.jsonl")
    notes = [file.at(head.offset).notes.get("audit") for head in heads]
    return tuple(str(audit.get("verdict")) for audit in notes if isinstance(audit, dict))


def uncleared(here: Sequence[str], elsewhere: Sequence[str]) -> tuple[str, ...]:
    """The mark of a measurement whose model no caching audit has cleared (rule T13).

    Args:
        here: verdicts of the audits of its own rounds. Where all were left out, those of `elsewhere` speak for it.
        elsewhere: verdicts of the same model in other sections of the run.
    """
    taken = [verdict for verdict in here if verdict != LEFT_OUT]
    taken = taken or [verdict for verdict in elsewhere if verdict != LEFT_OUT]
    return (layout.UNCLEARED,) if here and set(taken) != {PASSED} else ()


def doubts(values: Mapping[str, ArrayLike]) -> tuple[str, ...]:
    """Marks of a measurement: in any round disturbed, ended before its stop rule was met, or without agreement.

    A probe that holds models against their reference gives `agreement_error`, NaN where there is none (rule T14).
    """
    contended = np.nan_to_num(values.get("contended", 0.0)).any()
    ended = (np.asarray(values.get("converged", 1.0)) == 0).any()
    unheld = np.isnan(np.asarray(values.get("agreement_error", 0.0), dtype=np.float64)).any()
    marks = ((layout.CONTENDED, contended), (layout.UNCONVERGED, ended), (layout.UNHELD, unheld))
    return tuple(mark for mark, there in marks if there)


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
