"""Check the tables and pictures of a suite: their names, and what those that are made from samples show."""

from __future__ import annotations

from collections.abc import Collection

from harness.contracts import registry
from harness.errors import SuiteError, nearest
from harness.suite.positions import Located
from harness.suite.sampled import AT_SWITCHES, Drift, Serving, suits
from harness.suite.schema import Suite
from harness.system.yaml_data import Loc


def check_sampled(doc: Located, suite: Suite) -> None:
    """Check `drift` and `serving`. Raises `SuiteError` at the place of what is wrong."""
    for index, drift in enumerate(suite.drift):
        _check_drift(doc, ("drift", index), drift, suite)
    for index, serving in enumerate(suite.serving):
        _check_serving(doc, ("serving", index), serving, suite)
    for kind in ("drift", "serving"):
        for index, item in enumerate(getattr(suite, kind)):
            if item.models == []:
                raise SuiteError(f"{doc.where((kind, index, 'models'))}: {kind} {item.name!r} shows no model")


def check_names(doc: Located, suite: Suite) -> None:
    """Refuse two tables, or two pictures, of one name: the file of one would take the place of the other's."""
    for own in ("tables", "plots"):
        names: set[str] = set()
        for kind in (own, "drift", "serving"):  # which give both
            for index, item in enumerate(getattr(suite, kind)):
                if item.name in names:
                    where = doc.where((kind, index, "name"))
                    raise SuiteError(f"{where}: two pictures or tables are called {item.name!r}", "rename one of them")
                names.add(item.name)


def _check_drift(doc: Located, loc: Loc, drift: Drift, suite: Suite) -> None:
    """Check that it names a section, a metric of it that gives curves, and some of those."""
    sections = {section.name: section for section in suite.generate}
    require(doc, (*loc, "section"), "section of clips", drift.section, sections)
    uses = [use.name for use in sections[drift.section].metrics]
    if drift.metric:
        require(doc, (*loc, "metric"), "metric", drift.metric, uses)
    chosen = [drift.metric] if drift.metric else uses
    curves = [(curve.value.name, curve.kind) for name in chosen for curve in registry.metrics.get(name).curves]
    if not curves:
        raise SuiteError(f"{doc.where((*loc, 'section'))}: no metric of section {drift.section!r} gives a curve")
    for name in drift.curves:
        require(doc, (*loc, "curves"), "curve", name, [each for each, _ in curves])
    kinds = [kind for name, kind in curves if not drift.curves or name in drift.curves]
    switches = bool(sections[drift.section].switches)
    for definition in drift.definitions:
        if not any(suits(definition, kind, switches) for kind in kinds):
            needs = f"; it needs prompt switches in section {drift.section!r}" * (definition in AT_SWITCHES)
            raise SuiteError(f"{doc.where((*loc, 'definitions'))}: no curve of it has {definition!r}{needs}")


def _check_serving(doc: Located, loc: Loc, serving: Serving, suite: Suite) -> None:
    """Check that its sections are of the probes that measure what it shows."""
    probes = {section.name: section.probe for section in suite.measure}
    for key, probe in (("section", "streaming"), ("sessions", "sessions")):
        name = getattr(serving, key)
        if name or key == "section":
            require(doc, (*loc, key), "section of measurements", name, probes)
            if probes[name] != probe:
                raise SuiteError(f"{doc.where((*loc, key))}: section {name!r} is of {probes[name]!r}, not of {probe!r}")


def require(doc: Located, loc: Loc, what: str, name: str, choices: Collection[str]) -> None:
    """Raise `SuiteError` at `loc` unless `name` is one of `choices`; `what` says what it names."""
    if name not in choices:
        raise SuiteError(f"{doc.where(loc)}: unknown {what} {name!r}; {nearest(name, choices)}")
