"""What the subcommands of `harness` do. They return text; `harness.cli.main` prints it.

A command that lives elsewhere registers under the entry point `harness.commands`: a function with typer's parameters,
or a `typer.Typer` of such functions. What it returns, an iterable of lines, is printed as it comes; it raises
`HarnessError`, or `typer.Exit(1)` where something failed. Its module is imported for `--help`, so it imports heavy
packages only inside the function.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any

import typer
from typer.core import TyperGroup

from harness.errors import RegistryError


class Commands(TyperGroup):
    """The commands of `harness.cli.main`, and those that entry points add; one of the former is never replaced."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Own commands first, then the added ones by name."""
        own = super().list_commands(ctx)
        return own + sorted(point.name for point in entry_points(group="harness.commands") if point.name not in own)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command `cmd_name`, imported now if an entry point adds it; None when there is none."""
        own = super().get_command(ctx, cmd_name)
        if own is not None:
            return own
        points = entry_points(group="harness.commands", name=cmd_name)
        return _load(next(iter(points))) if points else None


def _load(point: EntryPoint) -> Any:
    try:
        found = point.load()
    except (ImportError, AttributeError) as error:
        raise RegistryError(f"command {point.name!r} ({point.value}) cannot be imported: {error}") from error
    if not isinstance(found, typer.Typer):
        single = typer.Typer(add_completion=False)
        single.command(point.name)(found)
        found = single
    found.rich_markup_mode = None
    command = typer.main.get_command(found)
    command.name = point.name
    return command
