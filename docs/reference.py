"""Write docs/cli.md and docs/suite-reference.md: python docs/reference.py, from the repository's root.

The first comes from the commands, the second from the schemas of suites, recipes and plug-in options. The meaning of a
key stands in the docstring of its class, below `Attributes:`. A test compares both pages byte for byte.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel

from harness.cli.main import app
from harness.contracts import Options, registry
from harness.suite import reference
from harness.suite.recipe import Recipe
from harness.suite.schema import Suite

DOCS = Path(__file__).parent
WRITTEN = "Written by `python docs/reference.py`; change the code instead."


def cells(*texts: str) -> str:
    """A row of a Markdown table."""
    return "| " + " | ".join(" ".join(text.split()).replace("|", "\\|") for text in texts) + " |"


# ----------------------------------------------------------------------------------------------- commands


def commands() -> str:
    """The page about the commands."""
    root: Any = typer.main.get_command(app)
    context = typer.Context(root, info_name="harness")
    lines = [
        "# Commands",
        WRITTEN,
        "Every command exits 0 when it is done, 1 when something failed, 2 for bad input and 3 for results that are "
        "missing; `gate` says its own. A message on stderr says what is wrong and, below it, what to do.",
        *_parameters(root, context),
    ]
    for heading, names in root.groups_of(context).items():
        lines.append(f"## {heading}")
        for name in names:
            lines += _command(root.get_command(context, name), f"harness {name}", context)
    return "\n\n".join(lines) + "\n"


def _command(command: Any, title: str, parent: Any) -> Iterator[str]:
    context = typer.Context(command, info_name=title, parent=parent)
    yield f"### {title}"
    yield _inert(inspect.cleandoc(command.help or ""))
    if names := getattr(command, "commands", None):
        for name in names:
            yield from _command(command.get_command(context, name), f"{title} {name}", context)
        return
    yield " ".join([f"    {title}", *map(_usage, command.collect_usage_pieces(context))])
    yield from _parameters(command, context)


def _usage(piece: str) -> str:
    """An argument of a usage line with the dots of its own name alone."""
    return re.sub(r"^\{(.*)\}(\.{3})?$", r"\1", piece).replace("...]...", "...]")


def _parameters(command: Any, context: Any) -> Iterator[str]:
    rows = [
        cells(f"`{re.sub(' <[^|]*>$', '', record[0])}`", _inert(record[1]))
        for parameter in command.get_params(context)
        if parameter.name != "help" and (record := parameter.get_help_record(context))
    ]
    if rows:
        yield "\n".join(["| | |", "|---|---|", *rows])


def _inert(text: str) -> str:
    return text.replace("<", "&lt;")


# --------------------------------------------------------------------------------------------------- keys


def suite_reference() -> str:
    """The page about the keys of suites and recipes, and the options of plug-ins."""
    lines = [
        "# Suite reference",
        WRITTEN,
        "A suite is a YAML file ([what one looks like](concepts.md#a-suite)). Unknown keys are refused with the "
        "nearest name. `include: FILE` takes over what another file says. A key without a default is required.",
        "## Suites",
        *_schema(Suite),
        "## Recipes",
        "`harness train` takes a recipe ([training](training.md)); what `base` and an arm's `set` may hold are the "
        "options of the probe `train` below.",
        *_schema(Recipe),
    ]
    for kind in (registry.models, registry.metrics, registry.probes):
        owners: dict[type[Options], list[str]] = {}
        for name in kind:
            if kind.get(name).__module__.startswith(("harness.", "videomla_models.")):
                owners.setdefault(kind.get(name).schema, []).append(name)
        lines.append(f"## Options of {kind.kind}s")
        for schema, names in owners.items():
            if schema.model_fields:
                lines.append("### " + ", ".join(names))
                lines += _schema(schema)
    return "\n\n".join(lines) + "\n"


def _schema(root: type[BaseModel]) -> Iterator[str]:
    """A table for `root` and for each mapping below it, in the order in which they are met."""
    for schema in reference.mappings(root):
        yield f"#### {schema.__name__}"
        yield reference.about(schema)
        yield _keys(schema)


def _keys(schema: type[BaseModel]) -> str:
    rows = [
        cells(f"`{key.name}`", key.type, key.default, key.unit, key.meaning) for key in reference.keys(schema, _linked)
    ]
    return "\n".join([cells("key", "type", "default", "unit", "meaning"), "|---|---|---|---|---|", *rows])


def _linked(name: str) -> str:
    return f"[{name}](#{name.lower()})"


PAGES = {"cli.md": commands, "suite-reference.md": suite_reference}

if __name__ == "__main__":
    for page, write in PAGES.items():
        (DOCS / page).write_text(write(), encoding="utf-8")
