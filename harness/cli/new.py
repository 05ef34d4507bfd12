"""`harness new model NAME` and `harness new process NAME`: a plug-in that runs as it is, to be filled in."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
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


Name = Annotated[str, typer.Argument(metavar="NAME")]
Out = Annotated[Path, typer.Option(metavar="DIR", help="Where to write it.")]


@app.command("model")
def model(name: Name, out: Out = Path()) -> Iterator[str]:
    """Write an adapter for a video model, and its contract test."""
    from harness.contracts import registry

    module = _module(name)
    if name in registry.models.names():
        raise RegistryError(f"model {name!r} is already registered", "choose another name")
    cls = "".join(part.capitalize() for part in module.split("_"))
    adapter, test = out / f"{module}.py", out / f"test_{module}.py"
    _write({adapter: "new_adapter.txt", test: "new_test.txt"}, name=name, cls=cls, module=module)
    yield f"{adapter}\n{test}\ntry: harness check {name} --plugin {adapter}"


@app.command("process")
def process(name: Name, out: Out = Path()) -> Iterator[str]:
    """Write a program that streams a model from its own environment, and a suite that runs it."""
    from harness.system import files
    from harness.system.stream_process import MODULE

    module = _module(name)
    program, suite, link = out / f"{module}.py", out / f"{module}.yaml", out / MODULE.name
    if program.name == link.name:
        raise RegistryError(f"{link.name} is the name of the file that programs import", "choose another name")
    text = MODULE.read_text(encoding="utf-8")
    if link.exists() and link.read_text(encoding="utf-8", errors="replace") != text:
        raise RegistryError(f"{link} is there and is not this harness's", "move it away, or choose another --out DIR")
    fields = {"name": name, "module": module}
    _write({program: "new_process.txt", suite: "new_process_suite.txt"}, **fields)
    files.write_atomic(link, text)
    sets = f"--set file={program} --set height=32 --set width=32 --set chunk=4"
    yield f"{program}\n{link}\n{suite}\ntry: harness check process {sets}"


def _module(name: str) -> str:
    """`name` as a module's. Raises `RegistryError` for what cannot be one."""
    if not _NAME.fullmatch(name):
        raise RegistryError(f"{name!r} cannot name a model", "use letters, digits, _ . - and at most one /")
    module = re.sub(r"\W+", "_", name.replace("/", "_")).strip("_").lower()
    return f"model_{module}" if module[0].isdigit() else module


def _write(templates: Mapping[Path, str], **fields: str) -> None:
    """Write each template with its fields filled in. Raises `RegistryError` where a file is there."""
    from harness.system import files

    for path in templates:
        if path.exists():
            raise RegistryError(f"{path} is already there", "move it away, or choose another name or --out DIR")
    for path, template in templates.items():
        text = Template(Path(__file__).with_name(template).read_text(encoding="utf-8"))
        files.write_atomic(path, text.substitute(fields))
