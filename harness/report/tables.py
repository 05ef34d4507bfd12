"""Build the tables of a run from its plan and records alone."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from harness.contracts import Value, registry
from harness.errors import Incomplete, RecordError, SuiteError, nearest
from harness.report import probe_tables, published_rows, switching
from harness.report.cells import CARD, NOT_MEASURED, Cells, card_cell, cell_of, heading, over_reference, ranked
from harness.report.drift import tables as drift_tables
from harness.report.leads import Leads
from harness.report.notes import annotate, note_marks
from harness.report.table import INCOMPLETE, RANDOM_WEIGHTS, Heading, Row, Table, stacked
from harness.report.verdicts import Standing
from harness.report.view import AnySection, Place, View, sections
from harness.runs.records import Run
from harness.suite.schema import Column, MeasureSection, TableSpec


def build(runs: Sequence[Run]) -> list[Table]:
    """The tables that the suites of `runs` ask for, with a row for every arm of every run.

    A suite that asks for none gets one with every value. Where it has no model and one probe in several sections, as a
    training has, the rows are its sections. Tables of one name in several runs are joined.
    Raises `Incomplete`, naming sections and counts, and `RecordError` where there is nothing to show.
    """
    if not runs:
        raise RecordError("no run folder was named")
    views = [View(run) for run in runs]
    views_by_section = [view for view in views if _one_probe(view)]
    specs: dict[str, TableSpec] = {}
    for view in views:
        for spec in view.run.suite.tables or ([] if view in views_by_section else [_everything(view)]):
            specs.setdefault(spec.name, spec)
    leads = Leads(views)
    return [
        *(_table(spec, views, leads) for spec in specs.values()),
        *map(_by_section, views_by_section),
        *drift_tables.tables(views),
        *probe_tables.tables(runs),
    ]


def nothing_to_show(run: Run) -> bool:
    """Whether a run of clips alone has no value for any table, so that `build` would refuse it."""
    asks = run.suite.tables or run.suite.measure or any(section.metrics for section in run.suite.generate)
    return not (asks or any(arm.card.cached_scalars is not None for arm in run.arms))


def made(spec: TableSpec, run: Run) -> Table:
    """One table of one run, whether or not its suite asks for it, with nothing ranked."""
    return _table(spec, [View(run)], None)


def _everything(view: View) -> TableSpec:
    """One table with each value of each section, and the cache where the models have one."""
    suite = view.run.suite
    columns = []
    for section in sections(suite):
        for plugin, values in view.given(section).items():
            for value in values if isinstance(section, MeasureSection) else view.asked_for(section, plugin, values):
                label = f"{section.name}: {_label_of(value)}"
                columns.append(Column(value=f"{section.name}:{value.name}", label=label, metric=plugin))
    if any(arm.card.cached_scalars is not None for arm in view.run.arms):
        columns.append(Column(value="card:cached_scalars"))
    if not columns:
        raise RecordError(f"{view.run.folder}: its suite has neither metrics nor probes, so there is nothing to show")
    return TableSpec(name=suite.suite, title=suite.title or suite.suite, columns=columns)


def _one_probe(view: View) -> bool:
    """Whether the run has no model, asks for no table, and one probe in several sections."""
    suite = view.run.suite
    alone = not (view.run.arms or suite.tables or suite.generate)
    return alone and len(suite.measure) > 1 and len({section.probe for section in suite.measure}) == 1


def _by_section(view: View) -> Table:
    """A row for each section, a column for each value."""
    suite = view.run.suite
    rows = {}
    for section in suite.measure:
        (values,) = view.given(section).values()
        columns = [Column(value=f"{section.name}:{value.name}", label=_label_of(value)) for value in values]
        table = _table(TableSpec(name=suite.suite, title=suite.title, columns=columns), [view], None)
        rows[section.name] = annotate(table, view.notes, section.name)
    return stacked(rows)


# ------------------------------------------------------------------------------------------- one table


def _table(spec: TableSpec, views: Sequence[View], leads: Leads | None) -> Table:
    shortfalls: list[str] = []
    remarks: list[str] = []
    columns = [_column(column, views, shortfalls, remarks, leads, spec.models) for column in spec.columns]
    if shortfalls:
        # All of them at once, and not the first alone: each costs a run.
        raise Incomplete(
            f"table {spec.name!r} is refused: " + "; ".join(dict.fromkeys(shortfalls)),
            "run the suite again to fill what is missing, or say `incomplete: mark` in it",
        )
    rows, labels = [], [arm.label for view in views for arm in view.run.arms]
    mark_by_note = note_marks(view.notes for view in views)
    for number, view in enumerate(views):
        device_alone = any((number, "") in cells_of_column for _, cells_of_column in columns)
        for label in _shown_arms(view, spec.models) + ([""] if device_alone else []):
            cells = tuple(cells_of_column.get((number, label), NOT_MEASURED) for _, cells_of_column in columns)
            arm = view.arms.get(label)
            name = label if labels.count(label) < 2 else f"{view.run.folder.name}: {label}"
            rows.append(
                Row(
                    name or "device alone",
                    cells,
                    reference=bool(label) and label == view.run.suite.reference,
                    marks=(
                        *((RANDOM_WEIGHTS,) if arm and arm.card.weights == "random" else ()),
                        *(mark_by_note[note] for note in view.notes.get(label, ())),
                    ),
                )
            )
    headings = tuple(heading for heading, _ in columns)
    others, notes = published_rows.rows(spec)
    rows += others
    if not rows:
        raise RecordError(f"table {spec.name!r} is empty: its run has none of its models", "see `models:` of the table")
    sections = {column.value.partition(":")[0] for column in spec.columns}
    remarks += [sentence for view in views for sentence in switching.remarks(view.run, sections)]
    sentences = tuple(dict.fromkeys(remarks))
    notes = (*((mark, note) for note, mark in mark_by_note.items()), *notes)
    return Table(spec.name, spec.title or spec.name, headings, tuple(rows), remarks=sentences, notes=notes)


def _shown_arms(view: View, models: Sequence[str] | None) -> list[str]:
    return [arm.label for arm in view.run.arms if models is None or arm.label in models]


def _column(
    column: Column,
    views: Sequence[View],
    shortfalls: list[str],
    remarks: list[str],
    leads: Leads | None,
    models: Sequence[str] | None = None,
) -> tuple[Heading, Cells]:
    """The column over the arms `models`, and over the reference where the column is relative to it."""
    source, _, name = column.value.partition(":")
    if source == "card":
        value = CARD.get(name) or Value(name, direction="none")
        cells = {
            (number, arm): card_cell(view.arms[arm], name, column.format)
            for number, view in enumerate(views)
            for arm in _arms_of(view, column, models)
        }
        arms = {(number, arm) for number, view in enumerate(views) for arm in _shown_arms(view, models)}
        card_cells = ranked(cells, value.direction, arms, lambda behind, leader: "ahead") if leads else cells
        return _heading_and_cells(column, value, card_cells, views)
    value, plugin_name = _declared(column, views)
    cells, comparable = {}, set()
    schemas: set[int] = set()
    versions: set[tuple[str, str]] = set()
    measured = False
    for number, view in enumerate(views):
        section = view.section(source)
        plugin = _plugin_of(view, section, name, column.metric) if section else None
        if section is None or plugin is None:
            continue
        measured = isinstance(section, MeasureSection)
        for arm in ("", *_arms_of(view, column, models)):
            group = view.groups.get((source, plugin, arm))
            if group is None:
                continue
            others = [view.groups[key] for other in column.joined if (key := (other, plugin, arm)) in view.groups]
            cell = cell_of(view, section, group, value, column.format, shortfalls, others)
            cells[number, arm] = cell
            schemas |= view.samples(section, group).schemas
            versions |= {(plugin, version) for g in (group, *others) if (version := view.version(section, g))}
            # Random weights have a speed that counts, but no quality.
            random = bool(arm) and view.arms[arm].card.weights == "random"
            in_table = arm in ("", *_shown_arms(view, models))
            if INCOMPLETE not in cell.marks and (measured or not random) and in_table:
                comparable.add((number, arm))
    if measured and not _one_device(source, views, remarks):
        comparable = set()
    if len(schemas) > 1:
        schema_list = " and ".join(map(str, sorted(schemas)))
        remarks.append(f"{source}: not ranked, as its records are of schema versions {schema_list}.")
        comparable = set()
    if not _one_version(source, versions, measured, remarks):
        comparable = set()
    if leads:

        def standing(behind: Place, leader: Place) -> Standing:
            return leads.standing(behind, leader, (source, plugin_name, name))

        return _heading_and_cells(column, value, ranked(cells, value.direction, comparable, standing), views)
    return _heading_and_cells(column, value, cells, views)


def _arms_of(view: View, column: Column, models: Sequence[str] | None) -> list[str]:
    """The arms that a column needs: those shown, and the reference where it is relative to that."""
    labels = _shown_arms(view, models)
    reference = view.run.suite.reference
    return [*labels, reference] if column.relative and reference and reference not in labels else labels


def _heading_and_cells(column: Column, value: Value, cells: Cells, views: Sequence[View]) -> tuple[Heading, Cells]:
    """Heading and cells, as ratios where the column asks for them."""
    label = column.label or _label_of(value)
    if not column.relative:
        return Heading(label, value.unit, value.direction), cells
    references = [view.run.suite.reference for view in views]
    ratios = over_reference(cells, references, column.format, column.relative)
    return heading(label, value, column.relative), ratios


def _declared(column: Column, views: Sequence[View]) -> tuple[Value, str]:
    """The value that `column` names, from the first run that has its section, and its metric or probe."""
    source, _, name = column.value.partition(":")
    for view in views:
        section = view.section(source)
        plugin = _plugin_of(view, section, name, column.metric) if section else None
        if section and plugin:
            return next(value for value in view.given(section)[plugin] if value.name == name), plugin
    section_names = [s.name for view in views for s in sections(view.run.suite)]
    if source not in section_names:
        raise SuiteError(f"table column {column.value!r}: unknown section {source!r}", nearest(source, section_names))
    values = [v.name for view in views if (s := view.section(source)) for vs in view.given(s).values() for v in vs]
    raise SuiteError(f"table column {column.value!r}: unknown value {name!r}", nearest(name, values))


def _plugin_of(view: View, section: AnySection, name: str, metric: str) -> str | None:
    values_by_plugin = view.given(section)
    owners = [plugin for plugin, values in values_by_plugin.items() if any(v.name == name for v in values)]
    owners = [plugin for plugin in owners if metric in ("", plugin)]
    return owners[0] if owners else None


def _label_of(value: Value) -> str:
    return value.label or value.name.replace("_", " ")


def _one_device(section: str, views: Sequence[View], remarks: list[str]) -> bool:
    """Whether every arm of a measured section ran on one device. A remark names the devices either way."""
    devices: dict[str, list[str]] = {}
    for view in views:
        for group in (group for group in view.run.groups if group.section == section):
            for entry in view.run.done(group):
                devices.setdefault(view.device(entry), []).append(group.arm)
    if len(devices) > 1:
        where = "; ".join(f"{', '.join(dict.fromkeys(arms))} on {device}" for device, arms in sorted(devices.items()))
        remarks.append(f"{section}: not ranked, as the devices differ: {where}.")
    elif devices:
        remarks.append(f"{section}: measured on {next(iter(devices))}.")
    return len(devices) < 2


def _one_version(section: str, versions: Collection[tuple[str, str]], measured: bool, remarks: list[str]) -> bool:
    """Whether every arm was scored by one version of the metric or probe. A remark names one that is not today's."""
    for plugin in sorted({plugin for plugin, _ in versions}):
        versions_of_plugin = sorted(version for name, version in versions if name == plugin)
        today = (registry.probes if measured else registry.metrics).get(plugin).version
        if len(versions_of_plugin) > 1:
            remarks.append(
                f"{section}: not ranked, as its records are of versions {' and '.join(versions_of_plugin)} of {plugin}."
            )
        elif versions_of_plugin != [today]:
            remarks.append(f"By version {versions_of_plugin[0]} of {plugin}; today's is {today}.")
    return len(versions) == len({plugin for plugin, _ in versions})
