"""What a plug-in hands over is read back as it was, or becomes a failed record that is; a line that changed is told."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from fault_cases import ALL
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.errors import RecordError
from harness.execute.units import Result, Setting, attempt
from harness.runs.line import Record, decode, encode
from harness.runs.plan import Unit
from harness.runs.records import RecordFile

KEY = "0" * 64
HALVES = st.characters(codec=None)
TEXT = st.text(HALVES, max_size=30)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | TEXT | st.binary(max_size=3) | st.just({1})
ANYTHING = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4))


def nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


def attempted(result: Result | Exception) -> Record:
    def work() -> Result:
        if isinstance(result, Exception):
            raise result
        return result

    return attempt(Unit(KEY, "score", {}, {}), Setting({}, {}, {}), work)


def mended(value: Any) -> Any:
    """`value` as JSON gives it back."""
    text = json.dumps(value, ensure_ascii=False).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return json.loads(text)


@given(st.dictionaries(TEXT, ANYTHING, max_size=4), st.dictionaries(TEXT, st.floats(), max_size=3), TEXT)
@settings(
    max_examples=5000 if ALL else 400,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
def test_any_result_is_read_back_or_becomes_a_failed_record_that_is(
    notes: dict[str, Any], values: dict[str, float], message: str
) -> None:
    record = attempted(Result(values=values, notes=notes))
    back = decode(encode(record))
    assert back.status == record.status
    if record.status == "ok":
        assert back.notes == mended(notes)
        assert {n: None if math.isnan(v) else v for n, v in back.values.items()} == {
            mended(n): None if math.isnan(v) else v for n, v in values.items()
        }
    else:
        assert back.error["type"] == "RecordError"
    raised = decode(encode(attempted(ValueError(message))))
    assert raised.error["message"] == mended(message)


@pytest.mark.parametrize("depth", [10, 150, 250, 1500, 100_000])
def test_nesting_of_any_depth_is_read_back_or_fails_its_unit(depth: int) -> None:
    record = attempted(Result(notes={"deep": nested(depth)}))
    assert decode(encode(record)).status == ("ok" if depth < 200 else "failed")


def test_a_value_inside_itself_or_of_thousands_of_digits_fails_its_unit() -> None:
    inside: list[Any] = []
    inside.append(inside)
    assert attempted(Result(notes={"a": inside})).status == "failed"
    assert attempted(Result(notes={"a": 10**5000})).status == "failed"


@pytest.fixture
def file(tmp_path: Path) -> RecordFile:
    with RecordFile(tmp_path / "records.jsonl") as records:
        for digit in "abc":
            record = Record(digit * 64, "score", "ok", {}, {"prompt": "x"}, {"quality": 0.5}, clip={"digest": "d"})
            records.append(record)
    return records


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"quality":0.5', b'"quality":0.9'),
        (b'"prompt":"x"', b'"prompt":"y"'),
        (b'"error":{}', b'"error":{ }'),
        (b'"status":"ok"', b'"status":"failed"'),
    ],
)
def test_a_line_that_was_edited_is_named(file: RecordFile, old: bytes, new: bytes) -> None:
    lines = file.path.read_bytes().splitlines(keepends=True)
    file.path.write_bytes(b"".join([lines[0], lines[1].replace(old, new), lines[2]]))
    for read in (file.newest, lambda: list(file.records())):
        with pytest.raises(RecordError, match=r"records\.jsonl:2: it was changed after it was written"):
            read()


@pytest.mark.parametrize("kept", [0.3, 0.7, 0.9, 0.99])
def test_a_line_that_was_cut_and_then_ended_is_named(file: RecordFile, kept: float) -> None:
    lines = file.path.read_bytes().splitlines(keepends=True)
    file.path.write_bytes(lines[0] + lines[1][: int(kept * len(lines[1]))] + b"\n" + lines[2])
    with pytest.raises(RecordError, match=r"records\.jsonl:2: "):
        file.newest()


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("key", ["a"]), ("kind", 3), ("status", None), ("values", {"quality": 1e308}), ("values", {"quality": "high"}),
        ("values", [1]), ("clip", {"path": 5}), ("clip", {"bytes": "many"}), ("context", "x"), ("samples", {"a": 3}),
        ("samples", {"a": ["1.5"]}), ("samples", {"a": [[1]]}), ("samples", {"a": [10**400]}),
    ],
)  # fmt: skip
def test_a_damaged_field_is_named_with_its_line(file: RecordFile, member: str, value: Any) -> None:
    """Lines without a digest, as earlier versions wrote them; written by hand, 1e400 in place of a number."""
    lines = file.path.read_bytes().splitlines(keepends=True)
    body = json.loads(lines[1])
    del body["line_sha256"]
    text = json.dumps({**body, member: value}, separators=(",", ":")).replace("1e+308", "1e400") + "\n"
    file.path.write_bytes(lines[0] + text.encode() + lines[2])

    def read() -> Any:
        return [(entry.values, entry.clip, entry.context) for entry in file.newest().values()], list(file.records())

    with pytest.raises(RecordError, match=r"records\.jsonl:2: "):
        read()


def test_lines_without_a_digest_are_read_as_before(file: RecordFile) -> None:
    lines = [json.loads(line) for line in file.path.read_bytes().splitlines()]
    for body in lines:
        del body["line_sha256"]
    file.path.write_text("".join(json.dumps(body, separators=(",", ":")) + "\n" for body in lines))
    assert [entry.values for entry in file.newest().values()] == [{"quality": 0.5}] * 3
