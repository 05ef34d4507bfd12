"""Suites and recipes that are nearly right: each is read and planned, or refused in one line, whatever was done to it.

Every suite and recipe of the repository is mutated as data (a value exchanged, a key renamed, a part wrapped, repeated
or dropped) and as text (tags, anchors, cuts). `FAULTS_CASES` and `FAULTS_SEED` ask for more cases or others.
"""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from fault_cases import ALL, Tried
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from harness.errors import HarnessError
from harness.runs import plan
from harness.suite.load import load_suite
from harness.suite.recipe import load_recipe

ROOT = Path(__file__).resolve().parents[2]
FILES = [
    path.relative_to(ROOT)
    for path in sorted((ROOT / "suites").rglob("*.yaml"))
    if "base" not in path.parts and path.name != "score.yaml"
]
WHOLE = {path: (ROOT / path).read_text(encoding="utf-8") for path in FILES}
CASES = int(os.environ.get("FAULTS_CASES", "4000" if ALL else "2000"))
SEED = int(os.environ.get("FAULTS_SEED", "0"))

ODD: list[Any] = [
    None, True, "", " ", "a", "card", "auto", "²", "٣", "-", "..", "/", "~", "a:b", "a=b", "é", "x" * 5000, "{x}", "%s",
    0, -1, 1, 2, 3, 10**18, 2**63, 2**64, -(10**30), 0.5, -0.5, 1e308, float("inf"), float("nan"),
    [], [[]], {}, {"a": 1}, [1, 2], ["a", ["b"]], {"arm": ["a"]}, {"arm": {"a": 1}}, {"include": "x"},
]  # fmt: skip
TEXTS = [
    "!!bool abc", '!!float ""', "!!binary aGk=", "2026-01-02", "0x" + "f" * 6000, "9" * 6000, ".inf", "-.NaN", "1e999",
    "&a [*a]", "*nothing", "!!python/name:os.system", "!!set {a}", "!!int x", '"\\0"', '"\\ud800"', '"\\x1b[2J"',
    "? [a]", "<<: {a: 1}", "1:2:3:4", "- ", "[" * 80, "{a: " * 60, "'", '"', "|", "%",
    "@", "\t", "---", "...", "!", "!!null x",
]  # fmt: skip
KEYS = [
    "",
    "grid",
    "options",
    "label",
    "name",
    "models",
    "include",
    "²",
    "stages.²",
    "stages.9" + "9" * 5000,
    "a.b",
    "x",
]


def nodes(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inside:
        yield from nodes(item, (*path, key))


def mutated(document: Any, draw: Any) -> Any:
    """`document` with one change at a random place."""
    path = draw(st.sampled_from(list(nodes(document))[1:] or [()]))
    if not path:
        return copy.deepcopy(draw(st.sampled_from(ODD)))
    parent = document
    for key in path[:-1]:
        parent = parent[key]
    kind, last = draw(st.sampled_from(["odd", "other", "drop", "wrap", "repeat", "rename", "key"])), path[-1]
    if kind == "odd":
        parent[last] = copy.deepcopy(draw(st.sampled_from(ODD)))
    elif kind == "other":
        parent[last] = copy.deepcopy(_at(document, draw(st.sampled_from(list(nodes(document))))))
    elif kind == "drop":
        del parent[last]
    elif kind == "wrap":
        parent[last] = draw(st.sampled_from([[parent[last]], {"a": parent[last]}, [parent[last]] * 3]))
    elif isinstance(parent, list):
        parent.insert(last, copy.deepcopy(parent[last]))
    elif kind == "rename":
        parent[draw(st.sampled_from(KEYS))] = parent.pop(last)
    else:
        parent[draw(st.sampled_from(KEYS))] = copy.deepcopy(draw(st.sampled_from(ODD)))
    return document


def _at(document: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        document = document[key]
    return document


@st.composite
def cases(draw: Any) -> tuple[Path, str, list[str]]:
    """A file of the repository, the text that takes its place, and what `--set` says."""
    path = draw(st.sampled_from(FILES))
    text = WHOLE[path]
    if draw(st.integers(0, 3)):
        document = yaml.safe_load(text)
        for _ in range(draw(st.sampled_from([1, 1, 2]))):
            document = mutated(document, draw) if isinstance(document, dict | list) else document
        text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    else:
        lines = text.splitlines()
        number = draw(st.integers(0, len(lines) - 1))
        fragment = draw(st.sampled_from(TEXTS))
        key, colon, _ = lines[number].partition(": ")
        lines[number] = draw(st.sampled_from([f"{key}{colon}{fragment}", fragment, f"{lines[number]} {fragment}"]))
        text = "\n".join(lines[: draw(st.sampled_from([len(lines), number + 1]))])
    odd = st.sampled_from([*TEXTS, *("null", "[]", "{}", "a", "1", "[1, 2]")])
    keys = st.sampled_from(
        ["models", "models.0.options", "base", "seeds", "generate.0.frames", "a.b", "²", "", "models.²"]
    )
    overrides = draw(st.lists(st.builds("{}={}".format, keys, odd), max_size=1)) if draw(st.integers(0, 3)) == 0 else []
    return path, text, overrides


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tree")
    shutil.copytree(ROOT / "suites", folder / "suites")
    return folder


def test_every_mutation_is_planned_or_refused_in_one_line(
    tree: Path, monkeypatch: pytest.MonkeyPatch, tried: Tried
) -> None:
    monkeypatch.chdir(tree)
    ended = {"planned": 0, "refused": 0}
    print(f"{CASES} mutations, FAULTS_SEED={SEED}")

    @seed(SEED)
    @settings(
        max_examples=CASES,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(cases())
    def attempt(case: tuple[Path, str, list[str]]) -> None:
        path, text, overrides = case
        file = tree / path.parent / "mutated.yaml"
        file.write_text(text, encoding="utf-8", errors="surrogatepass")
        try:
            if path.parts[1] == "training":
                load_recipe(file, overrides)
            else:
                plan.make(load_suite(file, overrides), "cpu")
        except HarnessError as error:
            ended["refused"] += len(error.message.splitlines()) == 1
        else:
            ended["planned"] += 1

    attempt()
    print(ended)
    tried(CASES)
    assert sum(ended.values()) == CASES
    # Mutations that were all refused at the first key would try nothing behind it.
    assert ended["planned"] > CASES // 25
