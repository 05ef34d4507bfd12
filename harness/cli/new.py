"""`harness new model NAME`: an adapter that runs as it is, to be filled in, and its contract test."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from string import Template
from typing import Annotated

import typer

from harness.errors import RegistryError

app = typer.Typer(help="Write the skeleton of a plug-in.", no_args_is_help=True)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]*(/[A-Za-z0-9][A-Za-z0-9_.\-]*)?")


@app.callback()
def _new() -> None:
    """Write the skeleton of a plug-in."""


@app.command("model")
def model(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where to write it.")] = Path(),
) -> Iterator[str]:
    """Write an adapter for a video model, and its contract test."""
    from harness.contracts import registry
    from harness.system import files

    if not _NAME.fullmatch(name):
        raise RegistryError(f"{name!r} cannot name a model", "use letters, digits, _ . - and at most one /")
    if name in registry.models.names():
        raise RegistryError(f"model {name!r} is already registered", "choose another name")
    module = re.sub(r"\W+", "_", name.replace("/", "_")).strip("_").lower()
    if module[0].isdigit():
        module = f"model_{module}"
    cls = "".join(part.capitalize() for part in module.split("_"))
    adapter, test = out / f"{module}.py", out / f"test_{module}.py"
    for path in (adapter, test):
        if path.exists():
            raise RegistryError(f"{path} is already there", "move it away, or choose another name or --out DIR")
    for path, template in ((adapter, "new_adapter.txt"), (test, "new_test.txt")):
        text = Template(Path(__file__).with_name(template).read_text(encoding="utf-8"))
        files.write_atomic(path, text.substitute(name=name, cls=cls, module=module))
    yield f"{adapter}\n{test}\ntry: harness check {name} --plugin {adapter}"
