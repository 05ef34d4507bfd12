"""What the commands do, as functions for notebooks and scripts. `import harness` brings every name, when it is used."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.contracts import Json
from harness.errors import RecordError, SuiteError
from harness.report import comparison as comparisons
from harness.report import comparison_table, long_table
from harness.report.files import run_folders
from harness.report.render import column_name, markdown
from harness.report.table import Table
from harness.report.tables import build
from harness.report.verdicts import PERCENT, Finding, Floors
from harness.runs.plan import Plan, make
from harness.runs.records import Run, load_run
from harness.runs.united import united
from harness.suite import load as loader
from harness.suite import plugins as plugin_files
from harness.suite.schema import Suite

if TYPE_CHECKING:
    from pandas import DataFrame

    from harness.execute.outcome import Outcome, Progress

File = str | Path
Overrides = Mapping[str, Json] | Sequence[str]
"""Values by dotted path, as in `{"generate.short.seeds": [0]}`, or texts as `--set` takes them."""


def load_suite(suite: File, overrides: Overrides = (), plugins: Sequence[File] = ()) -> Suite:
    """The checked suite of a file, the Python files `plugins` imported first. Raises `HarnessError`."""
    plugin_files.load(map(Path, plugins))
    if isinstance(overrides, Mapping):
        overrides = [f"{name}={json.dumps(value)}" for name, value in overrides.items()]
    return loader.load_suite(Path(suite), overrides)


def plan(suite: File | Suite, overrides: Overrides = (), plugins: Sequence[File] = ()) -> Plan:
    """The units that a suite asks for. Imports no torch. Raises `HarnessError`."""
    if not isinstance(suite, Suite):
        return make(load_suite(suite, overrides, plugins))
    if overrides or plugins:
        raise SuiteError("a loaded suite takes neither overrides nor plug-ins", "give them to harness.load_suite")
    return make(suite)


def run(
    suite: File | Suite | Plan,
    out: File | None = None,
    overrides: Overrides = (),
    plugins: Sequence[File] = (),
    *,
    limit: int | None = None,
    progress: Progress | None = None,
    verify: bool = False,
    jobs: int = 1,
    replace_plan: bool = False,
    only: Sequence[str] = (),
    shard: str = "",
) -> Outcome:
    """Do the units of a suite that `out` (`runs/<suite>` unless given) holds no record of; how it ended.

    Args:
        limit: units to do at most.
        progress: called after each unit and for every message.
        verify: compare the digest of every clip file first.
        jobs: measurements at the same time, of probes that allow it.
        replace_plan: let the plan of `out` go, though this one has no unit of it.
        only: models and sections to do. shard: `3/16` for the third of sixteen shares, in `out/shards/3-of-16`;
            `harness merge` unites them.

    A failing unit costs its record alone. Raises `HarnessError` where the run cannot start or the disk refuses.
    """
    from harness.execute.merging import adopt
    from harness.execute.run import run_plan
    from harness.execute.shares import Shard, part_of

    whole = suite if isinstance(suite, Plan) else plan(suite, overrides, plugins)
    beside = Path(suite).parent if isinstance(suite, File) else None
    base = Path("runs") / whole.suite.suite if out is None else Path(out)
    work, folder = part_of(whole, base, only, Shard.parse(shard) if shard else None)
    if shard:
        adopt(work, base, folder)
    return run_plan(
        work, folder, limit, progress, verify=verify, suite_folder=beside, jobs=jobs, replace_plan=replace_plan
    )


@dataclass(frozen=True, slots=True)
class Runs:
    """Run folders as they were read: what was planned, and the newest record of every unit."""

    runs: tuple[Run, ...]

    def to_frame(self) -> DataFrame:
        """A row for each value of each planned unit; one without a value for a clip, and for what has no result.

        Columns: `run` (name of the folder), `section`, `arm` (label of the model), `plugin` (metric or probe), `kind`
        (`generate`, `score` or `measure`), `prompt`, `seed` and `round` (missing where they do not apply), `status`
        (`ok`, `failed`, `skipped` or `pending`), `value` (its name), `number` (in the unit that the metric or probe
        states; NaN where it is not defined), `key`, `reason` (why a unit failed or was skipped), and the
        attributes of the prompts, where there are any.
        """
        import pandas as pd

        names = long_table.attributes(self.runs)
        rows = [row for run in self.runs for row in long_table.rows(run, names)]
        frame = pd.DataFrame(rows, columns=[*long_table.COLUMNS, *names])
        return frame.astype({"seed": "Int64", "round": "Int64", "number": "float64"})


def read_runs(*folders: File) -> Runs:
    """The runs in `folders` or below them. Raises `RecordError` where there is none or one cannot be read."""
    return Runs(tuple(load_run(path) for folder in folders for path in run_folders(Path(folder))))


@dataclass(frozen=True, slots=True)
class Drawn:
    """A table. A notebook shows it as it is, and `str` gives its Markdown.

    Attributes:
        table: the cells with their intervals, counts and marks.
    """

    table: Table

    def __str__(self) -> str:
        return markdown(self.table)

    def _repr_markdown_(self) -> str:
        return str(self)

    def to_frame(self) -> DataFrame:
        """The numbers behind the cells, a row a model and a column a value; NaN where a cell has none."""
        import pandas as pd

        numbers = [[math.nan if c.value is None else c.value for c in row.cells] for row in self.table.rows]
        names = [column_name(column, arrow=False) for column in self.table.columns]
        return pd.DataFrame(numbers, index=[row.label for row in self.table.rows], columns=names)


@dataclass(frozen=True, slots=True)
class Comparison(Drawn):
    """The table of a comparison, and what it found value by value."""

    findings: tuple[Finding, ...]

    def to_frame(self) -> DataFrame:
        """A row a value: both sides, the change with its interval, p (adjusted), floor, verdict, evidence, reason.

        A change is a ratio where `ratio` is true, else a difference in the value's unit; NaN where there is none.
        """
        import pandas as pd

        names = "value arm first second ratio change low high p floor verdict evidence reason"
        frame = pd.DataFrame(comparison_table.plain_rows(self.findings), columns=names.split())
        return frame.astype(dict.fromkeys(["first", "second", "change", "low", "high", "p", "floor"], "float64"))


def tables(runs: Runs | File, *, common: bool = False) -> list[Drawn]:
    """The tables that the suites of `runs` ask for. Raises `Incomplete` and `RecordError`.

    Runs of one plan, whose units were done here and there, have a row for each arm together.

    Args:
        common: take means over the clips alone, by prompt and seed, that all runs plan.
    """
    return [Drawn(table) for table in build(united(_read(runs).runs), common)]


def compare(
    runs: Runs | File,
    first: str | None = None,
    second: str | None = None,
    values: Sequence[str] = (),
    *,
    percent: float = PERCENT,
    absolute: Mapping[str, float] | None = None,
    across_devices: bool = False,
) -> Comparison:
    """Of one run the model `second` against `first`; of two, the second run against the first.

    Args:
        first, second: labels of models. Of two runs they may be left out: models of one label are compared.
        values: `section:value`; those of the suites' tables unless given.
        percent, absolute: changes within so many percent, or within this by `section:value`, do not matter.
        across_devices: compare records of different devices or schema versions.

    Raises `RecordError`, `Incomplete` and `SuiteError`.
    """
    sides = _read(runs).runs
    if first and second and len(sides) in (1, 2):
        pairs = [(comparisons.side_of(sides[0], first), comparisons.side_of(sides[-1], second))]
    elif len(sides) == 2:
        pairs = comparisons.paired(sides[0], sides[1], first or second)
    else:
        raise RecordError(f"{len(sides)} runs to compare", "give one run and two of its models, or two runs")
    floors = Floors(percent, absolute or {})
    findings = comparisons.compare(pairs, values, floors, across_devices)
    return Comparison(comparison_table.table(findings, pairs[0], across_devices), tuple(findings))


def _read(runs: Runs | File) -> Runs:
    return runs if isinstance(runs, Runs) else read_runs(runs)
