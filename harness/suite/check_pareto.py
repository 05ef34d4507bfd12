"""Check the plots of kind `pareto`: a quality that is better one way, costs that are numbers, a name of their own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

from harness.contracts import ModelCard, Value, registry
from harness.errors import SuiteError
from harness.suite.check_sampled import require
from harness.suite.positions import Located
from harness.suite.schema import Suite
from harness.system.yaml_data import Loc

CARD_NUMBERS = tuple(field.name for field in fields(ModelCard) if str(field.type).startswith(("int", "float")))


def check_pareto(doc: Located, suite: Suite) -> None:
    """Raise `SuiteError` at the place of what is wrong; the values of the plots are known to exist."""
    tables = {table.name for table in suite.tables}
    for index, plot in enumerate(suite.plots):
        if plot.kind != "pareto":
            continue
        loc: Loc = ("plots", index)
        if plot.name in tables:
            where = doc.where((*loc, "name"))
            raise SuiteError(f"{where}: a table is called {plot.name!r} too, and this plot brings one")
        for cost in plot.costs:
            source, _, name = cost.partition(":")
            if source == "card":
                require(doc, (*loc, "costs"), "number on a model's card", name, CARD_NUMBERS)
        section, _, name = plot.values[0].partition(":")
        if all(value.direction == "none" for value in _values(suite, section, plot.metric) if value.name == name):
            raise SuiteError(f"{doc.where((*loc, 'values'))}: neither way is better in {name!r}, so nothing dominates")


def _values(suite: Suite, section: str, metric: str) -> Iterator[Value]:
    """Every value of a section of clips, or of one metric of it."""
    for each in suite.generate:
        for use in each.metrics if each.name == section else ():
            if metric in ("", use.name):
                cls = registry.metrics.get(use.name)
                yield from (*cls.values, *cls.derived)
