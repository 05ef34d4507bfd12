"""`harness describe`: what a model is. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Annotated, Any

import typer

from harness.cli.arguments import Plugins, Sets, load_plugins, options_of
from harness.contracts import enforce, registry


def describe(
    model: Annotated[str, typer.Argument(metavar="MODEL")],
    as_json: Annotated[bool, typer.Option("--json", help="Every member of the card as JSON.")] = False,
    plugin: Plugins = None,
    set_: Sets = None,
) -> Iterator[str]:
    """Say what MODEL is: size, window, cache. Allocates no weights."""
    load_plugins(plugin)
    instance = registry.models.create(model, options_of(set_))
    options, card = instance.options.model_dump(mode="json"), asdict(enforce.card(model, instance))
    if as_json:
        body = {"name": model, "version": instance.version, "options": options, "card": card}
        yield json.dumps(body, indent=2)
        return
    yield f"{model}, version {instance.version}"
    yield _columns({name.replace("_", " "): value for name, value in card.items() if value not in (None, "")})
    if options:
        yield "options:"
        yield _columns({f"  {name}": value for name, value in options.items()})


def _columns(members: Mapping[str, Any]) -> str:
    """Names and values side by side; members that do not apply are left out."""
    from tabulate import tabulate

    rows = [(name, _plain(value)) for name, value in members.items()]
    return tabulate(rows, tablefmt="plain", disable_numparse=True)


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_plain(item)}" for key, item in value.items())
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return value if isinstance(value, str) else json.dumps(value, default=str)
