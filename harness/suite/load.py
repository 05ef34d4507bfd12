"""Read a suite file and resolve it: includes, overrides, grids, prompt files, and every name it mentions."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.contracts import Metric, ModelCard, Options, Probe, VideoModel, registry
from harness.contracts.base import path_options
from harness.errors import HarnessError, OptionError, SuiteError
from harness.suite import paths, plugins, positions, prompt_sets, published
from harness.suite.check_against import check_against
from harness.suite.check_pareto import check_pareto
from harness.suite.check_sampled import check_names, check_sampled, require
from harness.suite.part import LABEL
from harness.suite.positions import Located
from harness.suite.schema import (
    STUDY,
    Column,
    GenerateSection,
    MeasureSection,
    MetricUse,
    ModelEntry,
    Suite,
    TableSpec,
)
from harness.suite.scripts import scripts_of
from harness.suite.validate import validate
from harness.system.yaml_data import Loc

MAX_ARMS = 1000
LABEL_FIX = "a label has up to 120 characters; a grid adds its options and their values to it"
MAX_UNITS = 500_000
"""Clips, scores and measurements of one suite; a plan holds them all in memory, some 2 kB each."""


def load_suite(path: Path, overrides: Sequence[str] = ()) -> Suite:
    """Read, check and resolve the suite in `path`; `overrides` are `key=value` as given to `--set`.

    Names of models, metrics and probes and all their options are checked and defaults filled in; grids are expanded;
    prompt files are read and their digests compared. Raises `SuiteError` with one line `file:line: …`.
    """
    doc = positions.read(path)
    for assignment in overrides:
        positions.override(doc, assignment)
    unresolved = validate(doc, Suite)
    plugin_files = [_plugin_file(doc, index, file) for index, file in enumerate(unresolved.plugins)]
    origins, arms = _arms(doc, unresolved)
    sets = {name: prompt_sets.fill(doc, name, entry) for name, entry in unresolved.prompts.items()}
    generate = [_generate(doc, index, section) for index, section in enumerate(unresolved.generate)]
    measure = [_measure(doc, index, section) for index, section in enumerate(unresolved.measure)]
    suite = unresolved.model_copy(
        update={
            "plugins": plugin_files,
            "models": arms,
            "prompts": {name: written.filled for name, written in sets.items()},
            "generate": generate,
            "measure": measure,
            "reference": unresolved.reference or next((arm.label for arm in arms), ""),
        }
    )
    _check_references(doc, suite, origins)
    suite = _paired(doc, suite, sets)
    _check_size(doc, suite, origins)
    _check_columns(doc, suite)
    check_sampled(doc, suite)
    check_names(doc, suite)
    for kind in ("tables", "plots", "drift", "serving"):
        for index, item in enumerate(getattr(suite, kind)):
            for label in item.models or []:
                require(doc, (kind, index, "models"), "model label", label, origins)
    for index, table in enumerate(suite.tables):
        _check_published(doc, index, table)
        _check_attributes(doc, index, suite)
    _check_rows(doc, suite)

    def with_arms(item: Any) -> Any:
        """`item` with every label before its grid replaced by those of its arms."""
        labels = [arm for label in item.models or [] for arm in origins[label]]
        return item if item.models is None else item.model_copy(update={"models": list(dict.fromkeys(labels))})

    kinds = ("generate", "measure", "tables", "plots", "drift", "serving")
    suite = suite.model_copy(update={kind: list(map(with_arms, getattr(suite, kind))) for kind in kinds})
    check_against(doc, suite)
    check_pareto(doc, suite)
    return suite


def _plugin_file(doc: Located, index: int, file: str) -> str:
    """Load a plug-in file of the suite; its name as a plan keeps it."""
    position = doc.where(("plugins", index))
    path = position.file.parent / file
    try:
        plugins.load([path])
    except HarnessError as error:
        raise _at(doc, ("plugins", index), error) from error
    return plugins.place(path)


# --------------------------------------------------------------------------------------------- the arms


def _arms(doc: Located, suite: Suite) -> tuple[dict[str, list[str]], list[ModelEntry]]:
    """The arms after their grids, and by each label of the file the labels it stands for."""
    arms: list[ModelEntry] = []
    origins: dict[str, list[str]] = {}
    for index, entry in enumerate(suite.models):
        loc: Loc = ("models", index)
        for name, options, suffix in _combinations(doc, loc, entry):
            if not name:
                raise SuiteError(f"{doc.where(loc)}: key 'name' is missing")
            checked = _plugin(doc, loc, registry.models, name, options)
            label = f"{entry.label or name}{suffix}"
            if not re.fullmatch(LABEL, label):
                raise SuiteError(
                    f"{doc.where(loc)}: the label {label[:200]!r} is too long, or holds a colon", LABEL_FIX
                )
            if any(label == other.label for other in arms):
                raise SuiteError(f"{doc.where(loc)}: two models are labelled {label!r}; give one another `label`")
            arms.append(ModelEntry(name=name, label=label, options=checked))
            for origin in {label, entry.label or name}:
                origins.setdefault(origin, []).append(label)
    if len(arms) > MAX_ARMS:
        raise SuiteError(f"{doc.where(('models',))}: {len(arms)} models after grids (at most {MAX_ARMS})")
    return origins, arms


def _combinations(doc: Located, loc: Loc, entry: ModelEntry) -> list[tuple[str, dict[str, Any], str]]:
    """(model name, options, label suffix) for every combination of the grid."""
    # Multiplied before any is made: a few long lists are more combinations than memory holds.
    size = 1
    for key, values in entry.grid.items():
        size *= len(values)
        if not values:
            raise SuiteError(f"{doc.where((*loc, 'grid', key))}: grid {key!r} has no values")
        if key in entry.options:
            raise SuiteError(f"{doc.where((*loc, 'grid', key))}: {key!r} stands both in `options` and in `grid`")
        if key == "name" and (entry.name or not all(isinstance(value, str) for value in values)):
            raise SuiteError(f"{doc.where((*loc, 'grid', key))}: `grid: {{name: [...]}}` replaces `name`, with texts")
    if size > MAX_ARMS:
        raise SuiteError(f"{doc.where((*loc, 'grid'))}: the grid has {size} combinations (at most {MAX_ARMS})")
    combinations = []
    for point in itertools.product(*entry.grid.values()):
        settings = dict(zip(entry.grid, point, strict=True))
        name = settings.pop("name", entry.name)
        suffix = ", ".join(f"{key}={value}" for key, value in settings.items())
        combinations.append((name, {**entry.options, **settings}, f" [{suffix}]" if suffix else ""))
    return combinations


def _plugin(
    doc: Located,
    loc: Loc,
    kind: registry.Registry[VideoModel] | registry.Registry[Metric] | registry.Registry[Probe],
    name: str,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """Check that `name` is registered and takes `options`. Returns the options with every default filled in."""
    try:
        schema: type[Options] = kind.get(name).schema
        checked = registry.check_options(f"{kind.kind} {name}", schema, options)
    except OptionError as error:
        # The message quotes the option, and only so does it say which: pydantic's fault is not at hand here.
        keys = [key for key in options if f"{key!r}" in error.message]
        places: list[Loc] = [(*loc, part, key) for key in keys for part in ("options", "grid")]
        place = next((place for place in places if doc.marked(place)), (*loc, "options"))
        raise _at(doc, place, error) from error
    except HarnessError as error:
        raise _at(doc, (*loc, "name") if kind.kind != "probe" else (*loc, "probe"), error) from error
    resolved: dict[str, Any] = checked.model_dump(mode="json")
    for option, rule in path_options(schema).items():
        if (value := resolved.get(option)) and not (rule.inside and resolved[rule.inside]):
            in_grid: Loc = (*loc, "grid", option)
            where = doc.where(in_grid if doc.marked(in_grid) else (*loc, "options", option))
            several = [paths.placed(where, rule, path) for path in ([value] if isinstance(value, str) else value)]
            resolved[option] = several[0] if isinstance(value, str) else several
    return resolved


def _at(doc: Located, loc: Loc, error: HarnessError) -> SuiteError:
    hint = f"; {error.fix}" if error.fix else ""
    return SuiteError(f"{doc.where(loc)}: {error.message}{hint}")


# ------------------------------------------------------------------------------------------- sections


def _paired(doc: Located, suite: Suite, sets: Mapping[str, prompt_sets.Written]) -> Suite:
    """The suite with the scripts of its sections, where they do not go by the numbers of prompts."""
    update = {}
    for kind in ("generate", "measure"):
        sections: Sequence[GenerateSection | MeasureSection] = getattr(suite, kind)
        update[kind] = [
            section.model_copy(update=prompt_sets.pair(doc, kind, index, section, sets))
            for index, section in enumerate(sections)
        ]
    return suite.model_copy(update=update)


def _generate(doc: Located, index: int, section: GenerateSection) -> GenerateSection:
    metrics: list[MetricUse] = []
    for number, use in enumerate(section.metrics):
        loc: Loc = ("generate", index, "metrics", number)
        checked = _plugin(doc, loc, registry.metrics, use.name, use.options)
        if any(use.name == other.name for other in metrics):
            raise SuiteError(f"{doc.where(loc)}: metric {use.name!r} stands twice in section {section.name!r}")
        metrics.append(use.model_copy(update={"options": checked}))
    return section.model_copy(update={"metrics": metrics})


def _measure(doc: Located, index: int, section: MeasureSection) -> MeasureSection:
    loc: Loc = ("measure", index)
    checked = _plugin(doc, loc, registry.probes, section.probe, section.options)
    needs_model = registry.probes.get(section.probe).needs_model
    if needs_model and not section.prompts:
        raise SuiteError(f"{doc.where(loc)}: probe {section.probe!r} needs `prompts`")
    return section.model_copy(update={"options": checked})


def _check_prefix(doc: Located, suite: Suite, index: int, section: MeasureSection) -> None:
    probe = registry.probes.get(section.probe)
    if section.prompts and suite.prompts[section.prompts].prefixes and not probe.takes_prefix:
        where = doc.where(("measure", index, "prompts"))
        raise SuiteError(f"{where}: probe {section.probe!r} gives a model no prefix; name a prompt set without any")


def _check_references(doc: Located, suite: Suite, origins: Mapping[str, list[str]]) -> None:
    arms = [arm.label for arm in suite.models]
    if arms or suite.reference:
        require(doc, ("reference",), "model label", suite.reference, arms)
    else:
        needing = [section.name for section in suite.generate]
        needing += [section.name for section in suite.measure if registry.probes.get(section.probe).needs_model]
        if needing:
            raise SuiteError(f"{doc.file}:1: section {needing[0]!r} needs `models`, at least one")
    names: set[str] = set()
    for kind in ("generate", "measure"):
        sections: Sequence[GenerateSection | MeasureSection] = getattr(suite, kind)
        for index, section in enumerate(sections):
            loc: Loc = (kind, index)
            if section.name in names:
                raise SuiteError(f"{doc.where((*loc, 'name'))}: two sections are called {section.name!r}")
            names.add(section.name)
            for label in section.models or []:
                require(doc, (*loc, "models"), "model label", label, origins)
            if section.prompts or isinstance(section, GenerateSection):
                require(doc, (*loc, "prompts"), "prompt set", section.prompts, suite.prompts)
            if isinstance(section, MeasureSection):
                _check_prefix(doc, suite, index, section)
            if len(set(section.seeds)) != len(section.seeds):
                raise SuiteError(f"{doc.where((*loc, 'seeds'))}: a seed stands twice")
            for number, switch in enumerate(section.switches):
                switch_loc: Loc = (*loc, "switches", number)
                if not switch.prompts:
                    continue
                require(doc, (*switch_loc, "prompts"), "prompt set", switch.prompts, suite.prompts)
                if suite.prompts[switch.prompts].prefixes:
                    raise SuiteError(
                        f"{doc.where(switch_loc)}: prompt set {switch.prompts!r} has prefixes; a switch takes none"
                    )
    if not names:
        raise SuiteError(f"{doc.file}:1: nothing to do: neither `generate` nor `measure` has a section")


def _check_size(doc: Located, suite: Suite, origins: Mapping[str, list[str]]) -> None:
    """Refuse more units than a plan holds, before one is made."""
    units = 0
    for kind in ("generate", "measure"):
        for index, section in enumerate(getattr(suite, kind)):
            arms = len(suite.models) if section.models is None else sum(len(origins[name]) for name in section.models)
            if isinstance(section, GenerateSection):
                clips = len(scripts_of(suite, section)) * len(section.seeds)
                units += arms * clips * (1 + len(section.metrics))
            else:
                units += max(arms, 1) * section.rounds
            if units > MAX_UNITS:
                where = doc.where((kind, index))
                raise SuiteError(f"{where}: {units} clips, scores and measurements (at most {MAX_UNITS})", "split it")


# ---------------------------------------------------------------------------------------------- columns


def _check_columns(doc: Located, suite: Suite) -> None:
    """Check that every column names a section (or `card`), a value of it, and a metric of it."""
    scores_by_section = {section.name: _scores(section) for section in suite.generate}
    values_by_section = {**scores_by_section, "card": {"": list(ModelCard.__slots__)}}
    for section in suite.measure:
        probe = registry.probes.get(section.probe)
        values_by_section[section.name] = {section.probe: [value.name for value in probe.values]}
    for index, table in enumerate(suite.tables):
        for number, column in enumerate(table.columns):
            # Which questions people were asked is known when they have answered.
            if column.value.startswith(f"{STUDY}:") and STUDY not in values_by_section:
                continue
            _check_column(doc, ("tables", index, "columns", number), column, values_by_section)
    for index, plot in enumerate(suite.plots):
        loc: Loc = ("plots", index)
        for value in plot.values:
            source = values_by_section if plot.kind == "quality_by_option" else scores_by_section
            _check_column(doc, loc, Column(value=value, metric=plot.metric), source)
        for cost in plot.costs:
            _check_column(doc, loc, Column(value=cost), values_by_section)
        if plot.option:
            options = {name for model in suite.models for name in registry.models.get(model.name).schema.model_fields}
            require(doc, (*loc, "option"), "option of the models", plot.option, options)
        if plot.section:
            require(doc, (*loc, "section"), "section of measurements", plot.section, {s.name for s in suite.measure})
            probe_of_section = next(section.probe for section in suite.measure if section.name == plot.section)
            if plot.kind not in (plots := registry.probes.get(probe_of_section).plots):
                raise SuiteError(
                    f"{doc.where((*loc, 'section'))}: section {plot.section!r} is of {probe_of_section!r}, which "
                    f"cannot be drawn as {plot.kind}; its class declares plots = {plots!r}"
                )


MOST_VALUES = 50
"""Values of an attribute that a table has columns, or rows of each arm, for."""


def _check_attributes(doc: Located, index: int, suite: Suite) -> None:
    """Check that `by`, `rows_by` and `where` of a table name attributes, and values, of prompts of its columns."""
    sets = {section.name: suite.prompts[section.prompts].attributes for section in suite.generate}
    table, loc = suite.tables[index], ("tables", index)
    sources = [column.value.partition(":")[0] for column in table.columns]
    for key in ("by", "rows_by"):
        if not (attribute := getattr(table, key)):
            continue
        shown = [sets[source] for source in sources if source in sets]
        require(doc, (*loc, key), "attribute of the prompts", attribute, {name for each in shown for name in each})
        values = {value for each in shown for several in each.get(attribute, []) for value in several}
        if len(values) > MOST_VALUES:
            where = doc.where((*loc, key))
            raise SuiteError(f"{where}: attribute {attribute!r} has {len(values)} values (at most {MOST_VALUES})")
    for number, (column, source) in enumerate(zip(table.columns, sources, strict=True)):
        place: Loc = (*loc, "columns", number, "where")
        for name, value in column.where.items():
            attributes = sets.get(source, {})
            require(doc, place, "attribute of the prompts", name, attributes)
            require(doc, place, f"value of {name!r}", value, {each for several in attributes[name] for each in several})


def _check_column(
    doc: Located, loc: Loc, column: Column, values_by_section: Mapping[str, Mapping[str, list[str]]]
) -> None:
    source, _, value = column.value.partition(":")
    require(doc, (*loc, "value"), "section", source, values_by_section)
    plugins = values_by_section[source]
    if column.metric:
        require(doc, (*loc, "metric"), "metric", column.metric, plugins)
    owners = [name for name in plugins if value in plugins[name] and column.metric in ("", name)]
    if not owners:
        every = [name for values in plugins.values() for name in values]
        require(doc, (*loc, "value"), "value", value, every)
        raise SuiteError(f"{doc.where(loc)}: metric {column.metric!r} gives no value {value!r}")
    for place, name in enumerate(column.joined):
        where: Loc = (*loc, "joined", place)
        require(doc, where, "section", name, values_by_section)
        if owners[0] not in values_by_section[name]:
            raise SuiteError(f"{doc.where(where)}: section {name!r} has no metric {owners[0]!r} to join")
    if len(owners) > 1:
        raise SuiteError(
            f"{doc.where(loc)}: {value!r} is given by {' and by '.join(owners)}; choose one with `metric:`"
        )


def _check_published(doc: Located, index: int, table: TableSpec) -> None:
    """Check that published rows name existing figures, and that columns show some of them."""
    selection: list[published.Figure] = []
    for number, rows in enumerate(table.published):
        loc: Loc = ("tables", index, "published", number)
        all_figures = published.figures()
        if rows.source:
            require(doc, (*loc, "source"), "published source", rows.source, {f.source for f in all_figures})
        candidates = [figure for figure in all_figures if rows.source in ("", figure.source)]
        require(doc, (*loc, "table"), "published table", rows.table, {f.table for f in candidates})
        candidates = [figure for figure in candidates if figure.table == rows.table]
        for model in rows.models:
            require(doc, (*loc, "models"), "published model", model, {f.model for f in candidates})
        for setting in rows.settings:
            require(doc, (*loc, "settings"), "published setting", setting, {f.setting for f in candidates})
        selection += published.select(rows)
    for number, column in enumerate(table.columns):
        place: Loc = ("tables", index, "columns", number, "published")
        if column.published is None:
            continue
        if not table.published:
            raise SuiteError(f"{doc.where(place)}: the table asks for no `published` rows, so none can stand here")
        require(doc, place, "published metric", column.published.metric, {f.metric for f in selection})
        ratio = any(f.unit == published.RATIO for f in selection if f.metric == column.published.metric)
        if ratio != bool(column.relative):
            kind = "a ratio, so its column must be" if ratio else "no ratio, so its column must not be"
            raise SuiteError(f"{doc.where(place)}: published {column.published.metric!r} is {kind} `relative`")
        if column.published.setting:
            settings = {f.setting for f in selection if f.metric == column.published.metric}
            require(doc, place, "published setting", column.published.setting, settings)
    if table.published and not any(column.published for column in table.columns):
        where = doc.where(("tables", index, "published"))
        raise SuiteError(f"{where}: no column says which published metric it shows; give one `published: NAME`")


def _check_rows(doc: Located, suite: Suite) -> None:
    """Refuse a section, table or plot with nothing to run or to show, as with `models: []`."""
    alone = {section.name for section in suite.measure if not registry.probes.get(section.probe).needs_model}
    for kind in ("generate", "measure"):
        for index, section in enumerate(getattr(suite, kind)):
            if section.models == [] and section.name not in alone:
                raise SuiteError(f"{doc.where((kind, index, 'models'))}: section {section.name!r} names no model")
    for index, table in enumerate(suite.tables):
        sources = {column.value.partition(":")[0] for column in table.columns}
        arms = suite.models if table.models is None else table.models
        if not (arms or table.published or sources & alone):
            loc: Loc = ("tables", index, "columns" if table.models is None else "models")
            raise SuiteError(f"{doc.where(loc)}: table {table.name!r} would be empty: it shows no model")
    for index, plot in enumerate(suite.plots):
        if plot.models == [] and plot.section not in alone:
            raise SuiteError(f"{doc.where(('plots', index, 'models'))}: plot {plot.name!r} shows no model")


def _scores(section: GenerateSection) -> dict[str, list[str]]:
    """Names of values by the metric that gives them."""
    classes = {use.name: registry.metrics.get(use.name) for use in section.metrics}
    return {name: [value.name for value in (*cls.values, *cls.derived)] for name, cls in classes.items()}
