"""Arguments that several commands take, each declared once."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

import typer

from harness.contracts import Json
from harness.errors import OptionError

R = TypeVar("R")

SuiteFile = Annotated[Path, typer.Argument(metavar="SUITE", help="A suite file, as suites/quickstart.yaml.")]
Plugins = Annotated[
    list[Path] | None,
    typer.Option("--plugin", metavar="FILE", help="A Python file that registers plug-ins; may be repeated."),
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a value: a dotted path, and YAML. May be repeated."),
]
ReplacePlan = Annotated[
    bool, typer.Option("--replace-plan", help="Let the folder's plan go, though this one has no unit of it.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="While it runs, say failures alone.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="While it runs, say each unit that ended.")]
MAX_SHOWN = 200
"""Characters of a text that a message repeats."""
Format = Literal["md", "csv", "latex", "html"]


def path_named(text: str | Path) -> Path:
    """The path that an option names. Raises `OptionError` for an empty text, which would name the working folder."""
    if text == "":
        raise OptionError("an empty text names no folder", "name one, or leave the option out")
    return Path(text)


def file_named(text: str | Path) -> Path:
    """The file that an option names. Raises `OptionError` for a path without a last part, as `/` or `.`."""
    if not Path(text).name:
        raise OptionError(f"{str(text)!r} names no file", "name one, or leave the option out")
    return Path(text)


class Styled(str):
    """A text with colours of our own, which a terminal shall obey; any other line reaches it as plain text."""

    __slots__ = ()


def bundled(command: Callable[..., R]) -> Callable[..., R]:
    """Let `command` take a dataclass: each of its fields becomes a parameter of the command, with type and default."""
    parameters: list[inspect.Parameter] = []
    bundles: dict[str, type[Any]] = {}
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        bundle: type[Any] = parameter.annotation
        if not dataclasses.is_dataclass(bundle):
            parameters.append(parameter)
            continue
        bundles[parameter.name] = bundle
        hints = get_type_hints(bundle, include_extras=True)
        parameters += [
            inspect.Parameter(field.name, parameter.kind, default=field.default, annotation=hints[field.name])
            for field in dataclasses.fields(bundle)
        ]

    @functools.wraps(command)
    def call(**values: Any) -> R:
        for name, bundle in bundles.items():
            values[name] = bundle(**{field.name: values.pop(field.name) for field in dataclasses.fields(bundle)})
        return command(**values)

    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return call


def load_plugins(files: Sequence[Path] | None) -> None:
    """Import every file that `--plugin` names. Raises `RegistryError`."""
    from harness.suite import plugins

    plugins.load(files or ())


def options_of(assignments: Sequence[str] | None) -> dict[str, Json]:
    """Options from `--set key=value`, the values read as YAML. Raises `OptionError`."""
    from harness.system.yaml_data import Budget, Position, YamlFault, parse

    options: dict[str, Json] = {}
    for assignment in assignments or ():
        key, equals, text = assignment.partition("=")
        if not equals or not key.strip():
            raise OptionError(f"--set {assignment}: expected key=value")
        try:
            options[key.strip()], _ = parse(text, Position(Path(), 0, f"--set {assignment[:MAX_SHOWN]}"), Budget())
        except YamlFault as error:
            raise OptionError(error.message, "quote the value, or close its brackets") from error
    return options
