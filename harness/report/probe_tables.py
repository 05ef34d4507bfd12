"""Tables that measurements bring with them (`harness.contracts.ProbeTable`); the newest record counts. No torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from harness.contracts import ProbeTable, registry
from harness.errors import RecordError
from harness.report.table import Cell, Heading, Row, Table
from harness.runs.by_prompt import safe_name
from harness.runs.measured import TABLE
from harness.runs.records import Run
from harness.suite.schema import MeasureSection

_SCHEMA = TypeAdapter(ProbeTable)


def tables(runs: Sequence[Run]) -> list[Table]:
    """Every table in the notes of the measurements of `runs`. Raises `RecordError` for one that is malformed."""
    probe_tables = []
    for run in runs:
        sections = {section.name: section for section in run.suite.measure}
        for group in run.groups:
            if group.kind != "measure" or not registry.probes.get(group.plugin).has_table:
                continue
            if not (entries := run.done(group)):
                continue
            record = run.records.at(entries[-1].offset)
            if TABLE in record.notes:
                # A label may hold what no name of a file does.
                name = group.section + (f"-{safe_name(group.arm)}" if group.arm else "")
                probe_tables.append(_table(name, record.notes[TABLE], sections[group.section], record.device))
    return probe_tables


def _table(name: str, body: Any, section: MeasureSection, device: Any) -> Table:
    try:
        inset = _SCHEMA.validate_python(body)
    except ValidationError as error:
        raise RecordError(
            f"the table of measurement {section.name!r} is malformed: {error.errors()[0]['msg']}"
        ) from error
    if any(len(numbers) != len(inset.columns) for _, numbers in inset.rows):
        raise RecordError(f"the table of measurement {section.name!r} has rows that do not fit its columns")
    columns = tuple(Heading(label, unit, direction) for label, unit, direction in inset.columns)
    rows = tuple(Row(label, tuple(map(_cell, numbers))) for label, numbers in inset.rows)
    # Not all of it need be measured: some probes also count.
    origin = f"{section.name}: run on {device.get('name', 'unknown')}."
    return Table(name, inset.title, columns, rows, corner=inset.corner, remarks=(*inset.remarks, origin))


def _cell(number: float | None) -> Cell:
    if number is None or not math.isfinite(number):
        return Cell("not measured")
    exact = number.is_integer() and abs(number) < 1e7
    return Cell(f"{number:.0f}" if exact else f"{number:.4g}", number)
