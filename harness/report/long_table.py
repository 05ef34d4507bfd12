"""Runs as one long table: a row for each value of each clip or round, as programs for statistics read them."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence

from harness.errors import shown
from harness.runs.index import IndexEntry
from harness.runs.records import Run
from harness.suite.schema import GenerateSection
from harness.suite.scripts import scripts_of
from harness.system.text import inert, plain

COLUMNS = (
    *("run", "section", "arm", "plugin", "kind", "prompt", "seed", "round"),
    *("status", "value", "number", "key", "reason"),
)


def attributes(runs: Sequence[Run]) -> list[str]:
    """The names of the attributes of the prompts of `runs`, which stand in columns of their own after `COLUMNS`."""
    sets = (prompts for run in runs for prompts in run.suite.prompts.values())
    return [name for name in dict.fromkeys(name for each in sets for name in each.attributes) if name not in COLUMNS]


def rows(run: Run, names: Sequence[str] = ()) -> Iterator[tuple[object, ...]]:
    """What stands under `COLUMNS` for each value of each planned unit; one row for a unit that has none.

    `prompt` is what the clip is known by. It, `seed` and `round` are None where they do not apply, and `number` is NaN
    where it is not defined. After them come the attributes `names` of the prompt, several values of one joined by
    semicolons.
    """
    sections = {section.name: section for section in (*run.suite.generate, *run.suite.measure)}
    scripts = {section.name: scripts_of(run.suite, section) for section in run.suite.generate}
    for group in run.groups:
        section = sections[group.section]
        places = run.index.rows(group.keys)
        values = iter(run.index.values_at([row for row in places if row is not None]))
        for place, (key, row) in enumerate(zip(group.keys, places, strict=True)):
            where: tuple[object, ...] = (None, None, place)
            about: list[str] = [""] * len(names)
            if isinstance(section, GenerateSection):
                number, seed = divmod(place, len(section.seeds))
                script, attributes = scripts[section.name][number], run.suite.prompts[section.prompts].attributes
                where = (script.identity, section.seeds[seed], None)
                about = ["; ".join(attributes[name][script.number]) if name in attributes else "" for name in names]
            status = "pending" if row is None else run.index.tags[row][1]
            reason = "" if row is None or status == "ok" else _reason(run, run.index.at(row))
            numbers = next(values) if row is not None else {}
            for name, value in numbers.items() or [("", math.nan)]:
                head = (run.folder.name, group.section, group.arm, group.plugin, group.kind)
                yield (*head, *where, status, name, value, key, reason, *about)


def _reason(run: Run, entry: IndexEntry) -> str:
    record = run.records.at(entry.offset)
    if record.status == "failed":
        return shown(f"{record.error.get('type', 'unknown')}: {record.error.get('message', '')}")
    return shown(str(record.notes.get("reason", "")))


def comma_separated(runs: Sequence[Run]) -> str:
    """The long table of `runs` as CSV: an empty cell for what is missing, and texts that no spreadsheet obeys."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = attributes(runs)
    writer.writerow([*COLUMNS, *(inert(plain(name)) for name in names)])
    for run in runs:
        for row in rows(run, names):
            writer.writerow([_entry(item) for item in row])
    return out.getvalue()


def _entry(item: object) -> object:
    if isinstance(item, float):
        return f"{item:.9g}" if math.isfinite(item) else ""
    return inert(plain(item)) if isinstance(item, str) else item
