from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import SuiteError
from harness.suite import positions


def put(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_marks_tell_the_line_of_every_key_and_entry(tmp_path: Path) -> None:
    doc = positions.read(put(tmp_path, "a.yaml", "x: 1\n\ny:\n  - a\n  - {b: 2}\n"))
    assert doc.data == {"x": 1, "y": ["a", {"b": 2}]}
    assert [doc.where(loc).line for loc in [("x",), ("y",), ("y", 0), ("y", 1, "b"), ("y", 1, "zzz")]] == [
        1,
        3,
        4,
        5,
        5,
    ]


def test_an_include_comes_first_and_is_overridden_key_by_key(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    put(tmp_path / "sub", "base.yaml", "a: 1\nb: {c: 2, d: 3}\ne: [1, 2]\n")
    doc = positions.read(put(tmp_path, "top.yaml", "include: sub/base.yaml\nb: {d: 4}\ne: [9]\n"))
    assert doc.data == {"a": 1, "b": {"c": 2, "d": 4}, "e": [9]}
    assert (doc.where(("b", "c")).file.name, doc.where(("b", "d")).file.name) == ("base.yaml", "top.yaml")
    assert str(doc.where(("e", 0))).endswith("top.yaml:3")


def test_an_include_that_goes_round_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "a.yaml", "include: [b.yaml]\n")
    put(tmp_path, "b.yaml", "include: [a.yaml]\n")
    with pytest.raises(SuiteError, match=r"circle: a\.yaml -> b\.yaml -> a\.yaml"):
        positions.read(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("a: 1\nb: [1,\n", 3, "not YAML"),
        ("a: 1\n a: 2\n", 2, "not YAML"),
        ("a: 1\nb: 2\na: 3\n", 3, "written twice"),
        ("- a\n- b\n", 1, "expected a mapping"),
        ("a: !!python/object/apply:os.system [ls]\n", 1, "is not allowed"),
        ("a: !!python/name:os.system x\n", 1, "is not allowed"),
        ("a: &x [*x]\n", 1, "what it stands in"),
        ("include: {a: 1}\n", 1, "include must be"),
        ("x: 1\ninclude: nowhere.yaml\n", 2, "does not exist"),
        ("? [1, 2]\n: 3\n", 1, "must be a word"),
    ],
)
def test_bad_yaml_is_one_line_with_file_and_number(tmp_path: Path, text: str, line: int, says: str) -> None:
    path = put(tmp_path, "bad.yaml", text)
    with pytest.raises(SuiteError) as caught:
        positions.read(path)
    assert caught.value.message.startswith(f"{path}:{line}: ")
    assert says in caught.value.message
    assert "\n" not in caught.value.message


def test_nested_aliases_do_not_exhaust_memory(tmp_path: Path) -> None:
    levels = ["l0: &l0 [x,x,x,x,x,x,x,x,x,x]"]
    levels += [f"l{n}: &l{n} [{','.join([f'*l{n - 1}'] * 10)}]" for n in range(1, 12)]
    with pytest.raises(SuiteError, match="more than 200000 values"):
        positions.read(put(tmp_path, "bomb.yaml", "\n".join(levels)))


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(b"\xff\xfe\x00\x01\x80")
    with pytest.raises(SuiteError, match=r"x\.yaml:1: the file is no text in UTF-8"):
        positions.read(path)


def test_a_missing_file_is_answered_with_its_neighbour(tmp_path: Path) -> None:
    put(tmp_path, "quickstart.yaml", "a: 1\n")
    with pytest.raises(SuiteError) as caught:
        positions.read(tmp_path / "quikstart.yaml")
    assert "quickstart.yaml" in caught.value.fix


SUITE = "models:\n  - {name: m/a, label: v1.3, options: {steps: 4}}\n  - {name: m/b}\nprompts:\n  p: {limit: 3}\n"


@pytest.mark.parametrize(
    ("assignment", "loc", "value"),
    [
        ("models.v1.3.options.steps=8", ("models", 0, "options", "steps"), 8),
        ("models.m/b.options.lr=0.5", ("models", 1, "options", "lr"), 0.5),
        ("models.1.label=x", ("models", 1, "label"), "x"),
        ("prompts.p.limit=4", ("prompts", "p", "limit"), 4),
        ("device=cuda", ("device",), "cuda"),
        ("errors=", ("errors",), None),
        ("models.0.options.sizes=[1, 2]", ("models", 0, "options", "sizes"), [1, 2]),
    ],
)
def test_set_reaches_any_value(tmp_path: Path, assignment: str, loc: tuple[str | int, ...], value: object) -> None:
    doc = positions.read(put(tmp_path, "s.yaml", SUITE))
    positions.override(doc, assignment)
    node: object = doc.data
    for part in loc:
        node = node[part]  # type: ignore[index]
    assert node == value
    assert str(doc.where(loc)) == f"--set {assignment}"


@pytest.mark.parametrize(
    ("assignment", "says"),
    [
        ("steps", "expected key=value"),
        ("=3", "expected key=value"),
        ("models.v1.options.steps=3", "did you mean v1.3"),
        ("device=[1", "not YAML"),
    ],
)
def test_a_wrong_set_says_what_is_wrong(tmp_path: Path, assignment: str, says: str) -> None:
    doc = positions.read(put(tmp_path, "s.yaml", SUITE))
    with pytest.raises(SuiteError) as caught:
        positions.override(doc, assignment)
    assert says in str(caught.value)
