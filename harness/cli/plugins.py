"""The commands of `harness`: its own, in groups, and those that packages add.

A command is a function with typer's parameters, or a `typer.Typer` of such functions. What it returns, an iterable of
lines, is printed as it comes. It raises `HarnessError`, or `typer.Exit(1)` where something failed. Its module is
imported for `--help`, so it imports heavy packages only inside the function. A package adds a command by the entry
point `harness.commands`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, ClassVar

import typer
from typer.core import TyperGroup

from harness.errors import OptionError, RegistryError, nearest

ADDED = "From installed packages"
"""Heading of the commands that entry points add."""


class Commands(TyperGroup):
    """Commands that are imported when they are asked for. An added one never replaces one of `groups`.

    Attributes:
        groups: by heading, names in the order of `--help` with the place of each, as in `package.module:function`.
    """

    groups: ClassVar[Mapping[str, Mapping[str, str]]] = {}

    def _points(self) -> dict[str, dict[str, EntryPoint]]:
        """Every command by heading and name."""
        points = {
            heading: {name: EntryPoint(name, place, "harness.commands") for name, place in commands.items()}
            for heading, commands in self.groups.items()
        }
        own = {name for commands in points.values() for name in commands}
        added = sorted(entry_points(group="harness.commands"), key=lambda point: point.name)
        points[ADDED] = {point.name: point for point in added if point.name not in own}
        return points

    def groups_of(self, ctx: Any) -> dict[str, list[str]]:
        """Names by heading, in the order of `--help`."""
        return {heading: list(commands) for heading, commands in self._points().items() if commands}

    def list_commands(self, ctx: Any) -> list[str]:
        """Names in the order of `--help`."""
        return [name for commands in self._points().values() for name in commands]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command `cmd_name`, imported now; None when there is none."""
        points = {name: point for commands in self._points().values() for name, point in commands.items()}
        return _load(points[cmd_name]) if cmd_name in points else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that `args` begin with; the nearest name where there is none."""
        names = self.list_commands(ctx)
        if not (ctx.resilient_parsing or args[0].startswith("-") or args[0] in names):
            ctx.fail(f"No such command {args[0]!r}; {nearest(args[0], names)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands below the headings of their groups."""
        width = max(map(len, self.list_commands(ctx)))
        for heading, points in self._points().items():
            lines = [
                (name.ljust(width), _load(point).get_short_help_str(formatter.width - width - 6))
                for name, point in points.items()
            ]
            if lines:
                with formatter.section(heading):
                    formatter.write_dl(lines)


def _load(point: EntryPoint) -> Any:
    try:
        body = point.load()
    except (ImportError, AttributeError) as error:
        raise RegistryError(f"command {point.name!r} ({point.value}) cannot be imported: {error}") from error
    if isinstance(body, typer.Typer):
        app, body._add_completion = body, False
    else:
        app = typer.Typer(add_completion=False)
        app.command(point.name)(body)
    app.rich_markup_mode = None
    command = typer.main.get_command(app)
    command.name = point.name
    _only_finite(command)
    return command


def _only_finite(command: Any) -> None:
    """Let a command, and those below it, refuse `inf` and `nan` for a number: bounds let them pass."""
    for below in getattr(command, "commands", {}).values():
        _only_finite(below)
    for parameter in command.params:
        parameter.callback = _finite(parameter.callback)


def _finite(callback: Any) -> Any:
    def checked(ctx: Any, parameter: Any, value: Any) -> Any:
        for number in value if isinstance(value, list | tuple) else (value,):
            if isinstance(number, float) and not math.isfinite(number):
                raise OptionError(f"{parameter.opts[0]} is {number}", "give a finite number")
        return value if callback is None else callback(ctx, parameter, value)

    return checked
