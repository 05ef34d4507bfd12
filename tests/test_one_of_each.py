"""One atomic writer, one file digest and one cache root: the source holds no second one."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
WRITER, DIGEST = "harness/system/files.py", "harness/system/digests.py"

HASHING = {
    DIGEST,
    "harness/contracts/registry.py",  # the name of a module; contracts stand below system
    "harness/system/h264.py",  # the rest: streams of frames and packets, which are no files
    "harness/system/video.py",
    "harness/probes/serving_load.py",
    "harness/probes/timing/generation.py",
    "harness/probes/timing/caching_audit.py",
}
"""Modules that import hashlib."""

ROOTS = {"XDG_CACHE_HOME", "VIDEOMLA_CACHE", "VIDEOMLA_WEIGHTS", ".cache", "~/.cache"}
"""Texts that only the module of the cache root may hold."""


def second_ones(source: str, path: str) -> list[str]:
    """Where `source`, at `path`, renames into place, hashes a file or finds a cache root of its own."""
    return [f"{path}:{line}: {what}" for line, what in _faults(ast.parse(source), path)]


def _faults(tree: ast.AST, path: str) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            name, owner = node.func.attr, ast.unparse(node.func.value)
            # `str.replace` takes two texts, `Path.replace` one path.
            moves = name in ("rename", "renames") or (name == "replace" and len(node.args) == 1 and not node.keywords)
            if path != WRITER and (moves or f"{owner}.{name}" in ("os.replace", "shutil.move")):
                yield node.lineno, "a second atomic writer"
            if path != WRITER and f"{owner}.{name}" == "Path.home":
                yield node.lineno, "a second cache root"
            if path != DIGEST and name == "file_digest":
                yield node.lineno, "a second file digest"
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            if "hashlib" in names and path not in HASHING:
                yield node.lineno, "a second file digest"
        elif isinstance(node, ast.Constant) and node.value in ROOTS and path != WRITER:
            yield node.lineno, "a second cache root"


def test_the_source_has_one_of_each() -> None:
    files = [file for folder in ("harness", "models") for file in sorted((ROOT / folder).rglob("*.py"))]
    assert len(files) > 100
    found = [fault for file in files for fault in second_ones(file.read_text(), file.relative_to(ROOT).as_posix())]
    assert found == []


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("os.replace(part, path)", "writer"),
        ("part.replace(path)", "writer"),
        ("part.rename(path)", "writer"),
        ("shutil.move(part, path)", "writer"),
        ("import hashlib", "digest"),
        ("from hashlib import sha256", "digest"),
        ("hashlib.file_digest(file, 'sha256')", "digest"),
        ("root = os.environ['XDG_CACHE_HOME']", "root"),
        ("root = Path.home() / 'x'", "root"),
    ],
)
def test_a_second_one_is_found(line: str, what: str) -> None:
    (fault,) = second_ones(line, "harness/suite/load.py")
    assert fault.startswith("harness/suite/load.py:1: a second")
    assert what in fault


@pytest.mark.parametrize("line", ["text.replace('a', 'b')", "replace(card, name='x')", "now.replace(tzinfo=utc)"])
def test_another_replace_is_none(line: str) -> None:
    assert second_ones(line, "harness/suite/load.py") == []


def test_functions_and_files_are_of_a_size_that_one_reads_at_once() -> None:
    long = []
    for path in (file for folder in ("harness", "models") for file in sorted((ROOT / folder).rglob("*.py"))):
        text = path.read_text(encoding="utf-8")
        if text.count("\n") > 500:
            long.append(f"{path.name}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno - node.lineno >= 60:
                long.append(f"{path.name}: {node.name}")
    assert not long
