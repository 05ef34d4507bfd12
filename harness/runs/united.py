"""Read runs of one plan, whose units were done on several machines, as one run: a row for each arm in its tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from harness.runs.index import Index, IndexEntry
from harness.runs.records import RecordFiles, Run


def united(runs: Sequence[Run]) -> list[Run]:
    """`runs`, those of one plan made one, unless a unit has a result in both: then both are to be seen."""
    result: list[Run] = []
    for run in runs:
        for place, earlier in enumerate(result):
            if _same_plan(earlier, run) and not _both_did_a_unit(earlier, run):
                result[place] = _one(earlier, run)
                break
        else:
            result.append(run)
    return result


def _same_plan(first: Run, second: Run) -> bool:
    """Whether units and tables are the same. Where files lie, as in the suites, may differ between machines."""
    if first.groups != second.groups:
        return False
    shown = [(run.suite.tables, run.suite.plots, run.suite.reference, run.suite.incomplete) for run in (first, second)]
    return shown[0] == shown[1]


def _both_did_a_unit(first: Run, second: Run) -> bool:
    """Whether both did any planned unit themselves, and not merely one of them, whose record the other was brought."""
    for key in {key for group in first.groups for key in group.keys}:
        entries = first.index.get(key), second.index.get(key)
        if all(entry is not None and entry.status == "ok" for entry in entries):
            records = [run.records.at(run.index[key].offset) for run in (first, second)]
            if len({(record.started, record.ended) for record in records}) > 1:
                return True
    return False


def _one(first: Run, second: Run) -> Run:
    index = Index()
    for entry in first.index.values():
        index.add(entry)
    start = (1 + len(first.others)) * RecordFiles.STRIDE
    for entry in second.index.values():
        earlier = first.index.get(entry.key)
        if earlier is None or (entry.status == "ok" and earlier.status != "ok"):
            tag = (entry.kind, entry.status, entry.schema)
            index.add(IndexEntry(entry.key, tag, start + entry.offset, entry.text))
    return replace(first, index=index, others=(*first.others, second.folder, *second.others))
