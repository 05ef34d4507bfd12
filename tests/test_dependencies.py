"""What a plain install brings is all that modules import when they are loaded; extras wait for their use."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
JOBS = ("harness/metrics/jobs", "harness/metrics/vbench_job", "harness/metrics/drawing")
"""Folders of what runs in the environments of metrics."""
MODULES = [
    path
    for path in sorted([*ROOT.glob("harness/**/*.py"), *ROOT.glob("models/**/*.py")])
    if not path.relative_to(ROOT).as_posix().startswith(JOBS)
]


def imported(source: str) -> set[str]:
    """First parts of the names that the body of a module imports from elsewhere."""
    names: set[str] = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module or "")
    return {name.split(".")[0] for name in names} - sys.stdlib_module_names - {"harness", "videomla_models"}


def distributions(name: str) -> set[str]:
    """Distributions that bring the import package `name`."""
    return {each.lower().replace("_", "-") for each in packages_distributions().get(name, [name])}


@pytest.fixture(scope="module")
def brought() -> set[str]:
    """Distributions that a plain install asks for, and those that they ask for themselves."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    direct = {name_of(line) for line in project["dependencies"]}
    known = {each for names in packages_distributions().values() for each in map(str.lower, names)}
    lines = [line for name in direct & known for line in requires(name) or () if "extra ==" not in line]
    return direct | {name_of(line) for line in lines}


def name_of(requirement: str) -> str:
    """The distribution that a requirement names."""
    match = re.match(r"[\w.-]+", requirement)
    assert match is not None
    return match.group().lower().replace("_", "-")


def test_modules_import_what_a_plain_install_brings(brought: set[str]) -> None:
    asked = {name for path in MODULES for name in imported(path.read_text(encoding="utf-8"))}
    assert asked >= {"numpy", "torch", "safetensors"}
    assert not {name for name in asked if not distributions(name) & brought}


def test_an_extra_imported_at_once_is_seen(brought: set[str]) -> None:
    names = imported("import os, transformers.models\ndef f():\n    import diffusers\n")
    assert names == {"transformers"}
    assert not distributions("transformers") & brought
