"""Build the tables of a run from its plan and records alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from harness.contracts import Value, registry
from harness.errors import Incomplete, RecordError, SuiteError, nearest
from harness.report import (
    code_texts,
    cut_prompts,
    elsewhere,
    pareto,
    people_tables,
    probe_tables,
    published_rows,
    switching,
)
from harness.report.cells import (
    CARD,
    NOT_MEASURED,
    REFERENCE,
    Cells,
    card_cell,
    cell_of,
    heading,
    over_reference,
    ranked,
)
from harness.report.drift import tables as drift_tables
from harness.report.leads import Leads
from harness.report.notes import annotate, note_marks
from harness.report.serving import tables as serving_tables
from harness.report.table import (
    APART,
    ELSEWHERE,
    INCOMPLETE,
    RANDOM_WEIGHTS,
    UNLIKE,
    Cell,
    Heading,
    Row,
    Table,
    rehearsed,
    stacked,
)
from harness.report.terms import CLIPS, DEVICE, SCHEMA, VERSION, differences, share_clips, terms, timed_apart
from harness.report.verdicts import Standing
from harness.report.view import AnySection, Place, View, sections
from harness.runs.plan import Group
from harness.runs.records import Run
from harness.suite.schema import STUDY, Column, MeasureSection, TableSpec

NO_CELL = Cell("-")
"""Of a column that has nothing to do with prompts, in a row of some of them."""


def build(runs: Sequence[Run], common: bool = False) -> list[Table]:
    """The tables that the suites of `runs` ask for, with a row for every arm of every run.

    A suite that asks for none gets one with every value. Where it has no model and one probe in several sections, as a
    training has, the rows are its sections. Tables of one name in several runs are joined. With `common`, means are
    over the clips alone, by prompt and seed, that all runs plan which have the section.
    Tables of rehearsals say so in every row. Raises `Incomplete`, naming sections and counts, and `RecordError` where
    there is nothing to show, or a rehearsal stands beside a run.
    """
    if not runs:
        raise RecordError("no run folder was named")
    rehearsals = [run.folder for run in runs if run.suite.rehearsal]
    if rehearsals and len(rehearsals) < len(runs):
        raise RecordError(f"{rehearsals[0]} is a rehearsal, and nothing of it is a result", "leave it out")
    views = [View(run) for run in runs]
    views_by_section = [view for view in views if _one_probe(view)]
    specs: dict[str, TableSpec] = {}
    for view in views:
        for spec in view.run.suite.tables or ([] if view in views_by_section else [_everything(view)]):
            specs.setdefault(spec.name, spec)
    leads = None if rehearsals else Leads(views)
    shared = share_clips(views) if common else []
    tables = [
        *(_table(spec, views, leads, shared) for spec in specs.values()),
        *map(_by_section, views_by_section),
        *_pareto(views),
        *drift_tables.tables(views),
        *serving_tables.tables(views),
        *probe_tables.tables(runs),
        *people_tables.tables(runs),
    ]
    return [rehearsed(table) for table in tables] if rehearsals else tables


def _pareto(views: Sequence[View]) -> Iterator[Table]:
    """The table of each plot of kind `pareto`; of several runs each starts with its folder's name."""
    for view in views:
        prefix = f"{view.run.folder.name}-" if len(views) > 1 else ""
        for plot in view.run.suite.plots:
            if plot.kind == "pareto":
                table = pareto.with_dominators(_table(pareto.spec(plot), [view], None))
                yield replace(table, name=f"{prefix}{plot.name}")


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


@dataclass(frozen=True, slots=True)
class _Making:
    """A table while its columns are made.

    Attributes:
        leads: who leads whom; None where nothing is ranked. models: labels of the arms to show; all where None.
        names: of the rows. shortfalls, remarks: sentences, filled column by column.
    """

    views: Sequence[View]
    leads: Leads | None
    models: Sequence[str] | None
    names: Mapping[Place, str]
    shortfalls: list[str]
    remarks: list[str]

    def only(self, where: Mapping[str, str]) -> _Making:
        """The same for a column of those clips alone whose prompts have these values of their attributes."""
        views = [view.only(where) for view in self.views]
        return replace(self, views=views, leads=Leads(views) if self.leads else None)

    def shown(self, view: View) -> list[str]:
        """Labels of the arms of `view` that have a row."""
        return _shown_arms(view, self.models)


def _table(spec: TableSpec, views: Sequence[View], leads: Leads | None, shared: Sequence[str] = ()) -> Table:
    spec = _by_attribute(spec, views)
    making = _Making(views, leads, spec.models, _row_names(views), [], list(shared))
    columns = [_column(column, making) for column in spec.columns]
    if making.shortfalls:
        # All of them at once, and not the first alone: each costs a run.
        raise Incomplete(
            f"table {spec.name!r} is refused: " + "; ".join(dict.fromkeys(making.shortfalls)),
            "run the suite again to fill what is missing, or say `incomplete: mark` in it",
        )
    by_value = {value: _of_value(spec, value, making) for value in _values(spec.rows_by, spec.columns, views)}
    rows = []
    sections = {column.value.partition(":")[0] for column in spec.columns}
    foreign = [list(elsewhere.remarks(view.run, sections)) for view in views]
    mark_by_note = note_marks(view.notes for view in views)
    for number, view in enumerate(views):
        device_alone = any((number, "") in cells_of_column for _, cells_of_column in columns)
        for label in making.shown(view) + ([""] if device_alone else []):
            arm = view.arms.get(label)
            marks = (
                *((RANDOM_WEIGHTS,) if arm and arm.card.weights == "random" else ()),
                *((ELSEWHERE,) if any(label == of for of, _ in foreign[number]) else ()),
                *(mark_by_note[note] for note in view.notes.get(label, ())),
            )
            cells = tuple(cells_of_column.get((number, label), NOT_MEASURED) for _, cells_of_column in columns)
            reference = bool(label) and label == view.run.suite.reference
            rows.append(Row(making.names[number, label], cells, reference, marks))
            for value, columns_of_value in by_value.items():
                cells = tuple(each.get((number, label), NO_CELL) for each in columns_of_value)
                rows.append(Row(f"{making.names[number, label]}, {value}", cells, marks=marks))
    headings = tuple(heading for heading, _ in columns)
    others, notes = published_rows.rows(spec)
    rows += others
    if not rows:
        raise RecordError(f"table {spec.name!r} is empty: its run has none of its models", "see `models:` of the table")
    making.remarks.extend(sentence for sentences_of_run in foreign for _, sentence in sentences_of_run)
    making.remarks.extend(sentence for view in views for sentence in switching.remarks(view.run, sections))
    sentences = tuple(dict.fromkeys(making.remarks))
    notes = (*((mark, note) for note, mark in mark_by_note.items()), *notes)
    return Table(spec.name, spec.title or spec.name, headings, tuple(rows), remarks=sentences, notes=notes)


def _by_attribute(spec: TableSpec, views: Sequence[View]) -> TableSpec:
    """`spec` with a column for each value of the attribute that it asks for, after each column of such prompts."""
    if not spec.by:
        return spec
    columns = []
    for column in spec.columns:
        columns.append(column)
        for value in _values(spec.by, [column], views):
            label = column.label or _label_of(_declared(column, views)[0])
            where = {**column.where, spec.by: value}
            columns.append(column.model_copy(update={"label": f"{label}, {value}", "where": where, "published": None}))
    return spec.model_copy(update={"columns": columns})


def _values(attribute: str, columns: Sequence[Column], views: Sequence[View]) -> list[str]:
    """The values of an attribute that the prompts of the sections of `columns` have."""
    sources = {column.value.partition(":")[0] for column in columns}
    sets = (
        view.run.suite.prompts[section.prompts].attributes.get(attribute, [])
        for view in views
        for section in view.run.suite.generate
        if section.name in sources
    )
    return list(dict.fromkeys(each for prompts in sets for several in prompts for each in several))


def _of_value(spec: TableSpec, value: str, making: _Making) -> list[Cells]:
    """The cells of each column over the clips whose prompts have a value of `rows_by`; none where it has no clips."""
    clips = {section.name for view in making.views for section in view.run.suite.generate}
    columns = [
        column.model_copy(update={"where": {**column.where, spec.rows_by: value}})
        if column.value.partition(":")[0] in clips
        else None
        for column in spec.columns
    ]
    return [{} if column is None else _column(column, making)[1] for column in columns]


def _row_names(views: Sequence[View]) -> dict[Place, str]:
    """A name for each arm of each run: its label, and the run's folder before it where several have that label."""
    counts = Counter(label for view in views for label in view.arms)
    folders = Counter(view.run.folder.name for view in views)
    names: dict[Place, str] = {}
    for number, view in enumerate(views):
        folder = view.run.folder
        for label in view.arms:
            beside = folder.name if folders[folder.name] < 2 else str(folder)
            names[number, label] = label if counts[label] < 2 else f"{beside}: {label}"
        names[number, ""] = "device alone"
    return names


def _shown_arms(view: View, models: Sequence[str] | None) -> list[str]:
    labels = None if models is None else set(models)
    return [arm.label for arm in view.run.arms if labels is None or arm.label in labels]


def _column(column: Column, making: _Making) -> tuple[Heading, Cells]:
    """The column over the arms to show, and over the reference where the column is relative to it."""
    source, _, name = column.value.partition(":")
    if column.where:
        making = making.only(column.where)
    views, models = making.views, making.models
    if source == "card":
        return _card_column(column, name, making)
    if source == STUDY and all(view.section(STUDY) is None for view in views):
        asked, opinions = people_tables.column(name, [view.run for view in views], column.format)
        shown = {place: cell for place, cell in opinions.items() if place[1] in making.shown(views[place[0]])}
        return _heading_and_cells(column, asked, shown, views)
    value, plugin_name = _declared(column, views)
    cells: dict[Place, Cell] = {}
    groups: dict[Place, tuple[AnySection, list[Group]]] = {}
    comparable = set()
    for number, view in enumerate(views):
        section = view.section(source)
        plugin = _plugin_of(view, section, name, column.metric) if section else None
        if section is None or plugin is None:
            continue
        for arm in ("", *_arms_of(view, column, models)):
            group = view.groups.get((source, plugin, arm))
            if group is None:
                if arm and arm == view.held_against(section, plugin):
                    cells[number, arm] = REFERENCE
                continue
            others = [view.groups[key] for other in column.joined if (key := (other, plugin, arm)) in view.groups]
            cell = cell_of(view, section, group, value, column.format, making.shortfalls, others)
            cells[number, arm], groups[number, arm] = cell, (section, [group, *others])
            # Random weights have a speed that counts, but no quality.
            random = bool(arm) and view.arms[arm].card.weights == "random"
            in_table = arm in ("", *making.shown(view))
            if INCOMPLETE not in cell.marks and (isinstance(section, MeasureSection) or not random) and in_table:
                comparable.add((number, arm))
    cells, comparable = _like(source, cells, groups, comparable, making)
    if (leads := making.leads) is None:
        return _heading_and_cells(column, value, cells, views)

    def standing(behind: Place, leader: Place) -> Standing:
        return leads.standing(behind, leader, (source, plugin_name, name))

    return _heading_and_cells(column, value, ranked(cells, value.direction, comparable, standing), views)


def _card_column(column: Column, name: str, making: _Making) -> tuple[Heading, Cells]:
    value, views = CARD.get(name) or Value(name, direction="none"), making.views
    cells: Cells = {
        (number, arm): card_cell(view.arms[arm], name, column.format)
        for number, view in enumerate(views)
        for arm in _arms_of(view, column, making.models)
    }
    arms = {(number, arm) for number, view in enumerate(views) for arm in making.shown(view)}
    if making.leads:
        cells = ranked(cells, value.direction, arms, lambda behind, leader: "ahead")
    return _heading_and_cells(column, value, cells, views)


def _like(
    source: str,
    cells: dict[Place, Cell],
    groups: Mapping[Place, tuple[AnySection, Sequence[Group]]],
    comparable: set[Place],
    making: _Making,
) -> tuple[dict[Place, Cell], set[Place]]:
    """The cells, marked where they are not like the others of their column, and those that may be ranked: all or none.

    A remark says wherein they differ.

    Args:
        groups: of each cell its section, its own group, and those joined to it.
    """
    views, remarks = making.views, making.remarks
    own = {
        place: (views[place[0]], section, first)
        for place, (section, (first, *_)) in groups.items()
        if views[place[0]].samples(section, first).scored
    }
    measured = any(isinstance(section, MeasureSection) for section, _ in groups.values())
    alike = _one_device(source, views, remarks) if measured else True
    schemas = {schema for view, section, group in own.values() for schema in view.samples(section, group).schemas}
    if len(schemas) > 1:
        schema_list = " and ".join(map(str, sorted(schemas)))
        remarks.append(f"{source}: not ranked, as its records are of schema versions {schema_list}.")
    versions = {
        (group.plugin, version)
        for (number, _), (section, all_groups) in groups.items()
        for group in all_groups
        if (version := views[number].version(section, group)) is not None
    }
    alike = _one_version(source, versions, measured, remarks) and len(schemas) < 2 and alike
    remarks += code_texts.remarks(source, ((view, group) for view, _, group in own.values()))
    remarks += cut_prompts.remarks(source, own.values())
    facts = {place: terms(*own[place]) for place in own if place in comparable}
    stated = {SCHEMA, VERSION, *((DEVICE,) if measured else ())}
    if words := differences([(making.names[place], facts[place]) for place in facts], stated):
        offer = (
            " `harness table --common` takes the clips that all plan." if f"{CLIPS} (" in words and not measured else ""
        )
        remarks.append(f"{source}: not ranked, as they differ in {words}.{offer}")
        cells = {p: replace(c, marks=(*c.marks, *(UNLIKE,) * (p in facts))) for p, c in cells.items()}
        alike = False
    if measured:
        apart = timed_apart({place: view.span(group) for place, (view, _, group) in own.items() if place in comparable})
        cells = {p: replace(c, marks=(*c.marks, *(APART,) * (p in apart))) for p, c in cells.items()}
    return cells, comparable if alike else set()


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
