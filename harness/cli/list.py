"""`harness list`: what is registered, and the suites of a folder. Imports no torch."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.cli.arguments import Plugins, load_plugins
from harness.contracts import registry
from harness.errors import HarnessError, RegistryError, nearest, shown

KINDS = ("models", "metrics", "probes", "suites")


def list_(
    kind: Annotated[str, typer.Argument(metavar="models|metrics|probes|suites")],
    as_json: Annotated[bool, typer.Option("--json", help="As JSON: a mapping for each.")] = False,
    plugin: Plugins = None,
) -> Iterator[str]:
    """List what is registered, or the suites in suites/."""
    from harness.cli.columns import columns

    load_plugins(plugin)
    if kind not in KINDS:
        raise RegistryError(f"cannot list {kind!r}", nearest(kind, KINDS))
    if kind == "suites":
        rows = _suites(Path(kind))
        headings = ["suite", "about"]
    else:
        plugins: registry.Registry[Any] = getattr(registry, kind)
        rows = [_plugin(plugins, name) for name in plugins]
        headings = ["name", "about"] if kind == "models" else ["name", "about", "values"]
        if kind == "metrics":
            headings.append("here")
    if as_json:
        bodies: list[dict[str, Any]] = [dict(zip(headings, row, strict=True)) for row in rows]
        for body in bodies:
            if "values" in body:
                body["values"] = [name for name in body["values"].split(", ") if name]
        yield json.dumps(bodies, indent=1)
        return
    if not rows:
        yield f"no {kind}" + (f" in {kind}/" if kind == "suites" else " are registered")
        return
    yield columns(rows, headings)


def _suites(folder: Path) -> list[list[str]]:
    from harness.suite import positions

    rows = []
    for path in sorted(folder.glob("*.yaml")):
        try:
            body = positions.read(path).data
        except HarnessError as error:
            rows.append([str(path), shown(f"cannot be read: {error.message}", 80)])
            continue
        if "suite" in body:
            rows.append([str(path), shown(str(body.get("title", "")), 80)])
    return rows


def _plugin(plugins: registry.Registry[Any], name: str) -> list[str]:
    """The row of one registered name; one that cannot be imported says why."""
    try:
        cls = plugins.get(name)
    except HarnessError as error:
        return [name, shown(error.message, 80), *[""] * {"model": 0, "metric": 2, "probe": 1}[plugins.kind]]
    about = (inspect.getdoc(cls) or "").partition("\n")[0]
    row = [name, shown(about, 80)]
    if plugins.kind == "model":
        return row
    row.append(", ".join(value.name for value in cls.values))
    if plugins.kind == "metric":
        row.append(_availability(name))
    return row


def _availability(name: str) -> str:
    """Whether the metric `name` can run here with its default options, and what brings it."""
    cls = registry.metrics.get(name)
    try:
        state = cls(cls.schema()).available()
    except ValueError:
        return "needs options"
    except HarnessError as error:
        return f"no: {error.message}"
    if state.ready:
        return "yes"
    return f"no: {state.reason}" + (f" ({state.fix})" if state.fix else "")
