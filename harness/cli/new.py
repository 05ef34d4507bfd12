"""`harness new`: a plug-in or a suite that works as it is, to be filled in."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from string import Template
from typing import Annotated, Any

import typer

from harness.errors import RegistryError

app = typer.Typer(help="Write the skeleton of a plug-in or of a suite.", no_args_is_help=True)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]*(/[A-Za-z0-9][A-Za-z0-9_.\-]*)?")


@app.callback()
def _new() -> None:
    """Write the skeleton of a plug-in or of a suite."""


Name = Annotated[str, typer.Argument(metavar="NAME")]
Out = Annotated[Path, typer.Option(metavar="DIR", help="Where to write it.")]


@app.command("model")
def model(name: Name, out: Out = Path()) -> Iterator[str]:
    """Write an adapter for a video model, and its contract test."""
    yield from _plugin("model", name, out)


@app.command("metric")
def metric(name: Name, out: Out = Path()) -> Iterator[str]:
    """Write a metric, and its contract test."""
    yield from _plugin("metric", name, out)


@app.command("probe")
def probe(name: Name, out: Out = Path()) -> Iterator[str]:
    """Write a probe, and its contract test."""
    yield from _plugin("probe", name, out)


@app.command("suite")
def suite(name: Name, out: Out = Path()) -> Iterator[str]:
    """Write a suite of the two small models, with every part that a suite has."""
    module = _module(name)
    file = out / f"{module}.yaml"
    _write({file: "new_suite.txt"}, name=name, module=module)
    yield f"{file}\ntry: harness plan {file}"


def _plugin(kind: str, name: str, out: Path) -> Iterator[str]:
    """Write the plug-in file of a `kind`, and its test."""
    from harness.contracts import registry

    kinds: dict[str, registry.Registry[Any]] = {
        "model": registry.models,
        "metric": registry.metrics,
        "probe": registry.probes,
    }
    module = _module(name)
    if name in kinds[kind].names():
        raise RegistryError(f"{kind} {name!r} is already registered", "choose another name")
    cls = "".join(part.capitalize() for part in module.split("_"))
    if keyword.iskeyword(cls) or re.search(rf"\b{cls}\b", _template(f"new_{kind}.txt")):
        cls = f"Own{cls}"  # a name that the file itself uses
    file, test = out / f"{module}.py", out / f"test_{module}.py"
    _write({file: f"new_{kind}.txt", test: f"new_test_{kind}.txt"}, name=name, cls=cls, module=module)
    yield f"{file}\n{test}\ntry: harness check {name} --plugin {file}"


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
        raise RegistryError(f"{name!r} cannot name anything", "use letters, digits, _ . - and at most one /")
    module = re.sub(r"\W+", "_", name.replace("/", "_")).strip("_").lower()
    return f"own_{module}" if module[0].isdigit() else module


def _write(templates: Mapping[Path, str], **fields: str) -> None:
    """Write each template with its fields filled in. Raises `RegistryError` where a file is there."""
    from harness.system import files

    for path in templates:
        if path.exists():
            raise RegistryError(f"{path} is already there", "move it away, or choose another name or --out DIR")
    for path, template in templates.items():
        files.write_atomic(path, Template(_template(template)).substitute(fields))


def _template(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")
