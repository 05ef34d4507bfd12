from __future__ import annotations

import io
import json
import math
import os
from dataclasses import replace
from pathlib import Path

import pytest
from record_lines import edit, with_digest, without_digest
from road import base, run

from harness.errors import RecordError, StorageError
from harness.runs.index import decode_entry
from harness.runs.line import Record, decode, encode
from harness.runs.records import RecordFile, load_run
from harness.system import files


def record(key: str = "k1", **changes: object) -> Record:
    made = Record(
        key=key,
        kind="score",
        status="ok",
        preimage={"kind": "score", "text": 'a ,"unit":{ trap'},
        context={"prompt": 'x ,"unit":{"y', "arm": "é"},
        values={"a": 0.1, "b": math.nan},
        samples={"gap": [1.0, math.nan]},
        clip={"digest": "d"},
    )
    return replace(made, **changes)


def test_a_record_comes_back_as_it_was() -> None:
    line = encode(record())
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    back = decode(line)
    assert math.isnan(back.values["b"])
    assert math.isnan(back.samples["gap"][1])
    assert replace(back, values={}, samples={}) == replace(record(), values={}, samples={})
    assert json.loads(line)["schema"] == 1


def test_the_head_alone_says_the_same() -> None:
    entry = decode_entry(encode(record()), 7)
    assert (entry.key, entry.kind, entry.status, entry.offset) == ("k1", "score", "ok", 7)
    assert entry.context == record().context
    assert entry.clip == {"digest": "d"}
    assert entry.values["a"] == 0.1


def test_an_infinite_value_is_refused() -> None:
    with pytest.raises(RecordError, match="value 'a' is infinite"):
        encode(record(values={"a": math.inf}))


def test_the_newest_record_of_a_key_counts(tmp_path: Path) -> None:
    with RecordFile(tmp_path / "r.jsonl") as file:
        file.append(record("k1", status="failed"))
        file.append(record("k2"))
        newest = file.append(record("k1", values={"a": 2.0}))
        assert {key: entry.status for key, entry in file.newest().items()} == {"k1": "ok", "k2": "ok"}
        assert file.at(newest.offset).values == {"a": 2.0}
        assert len(list(file.records())) == 3


def test_a_torn_last_line_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    with RecordFile(path) as file:
        for name in ("k1", "k2", "k3"):
            file.append(record(name))
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    for cut in range(0, len(whole) + 1, 3):
        path.write_bytes(whole[:cut])
        complete = sum(cut >= end for end in (len(lines[0]), len(lines[0]) * 2, len(lines[0]) * 3))
        assert len(RecordFile(path).newest()) == complete
        if cut % 99 == 0:
            with RecordFile(path) as file:
                file.append(record("new"))
            assert path.read_bytes() == b"".join(lines[:complete]) + encode(record("new"))


def test_a_line_that_is_being_written_ends_what_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its second half, which may be there a moment later, is no record."""
    first, second = encode(record()), encode(record("k2"))

    class Growing(io.BytesIO):
        def readline(self, size: int | None = -1) -> bytes:
            return next(halves, b"")

        def __next__(self) -> bytes:
            return next(halves)

    halves = iter([first, second[:40], second[40:]])
    monkeypatch.setattr(files, "open_regular", lambda *_: Growing())
    assert [entry.key for entry in RecordFile(tmp_path / "r.jsonl").records()] == ["k1"]


def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_bytes(encode(record("k1")) + b"\x00\x00 garbage\n" + encode(record("k2")))
    with pytest.raises(RecordError, match=r"r\.jsonl:2: not a record") as caught:
        RecordFile(path).newest()
    assert "remove that line" in caught.value.fix


@pytest.mark.parametrize(
    "line", [b"{}\n", b"[]\n", b'{"schema":1}\n', b'{"schema":"x"}\n', b'{"schema":1,"key":"k"}\n']
)
def test_json_that_is_no_record_is_refused(line: bytes) -> None:
    for reader in (decode, decode_entry):
        with pytest.raises(RecordError):
            reader(line)


def test_a_newer_schema_is_refused() -> None:
    line = without_digest(encode(record())).replace(b'"schema":1', b'"schema":2')
    with pytest.raises(RecordError, match="record schema 2 is newer") as caught:
        decode_entry(line)
    assert "pip install" in caught.value.fix


def test_a_failed_write_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "r.jsonl"
    with RecordFile(path) as file:
        file.append(record("k1"))
        before = path.read_bytes()
        real = os.write

        def half(handle: int, data: bytes) -> int:
            if len(data) > 10:
                return real(handle, data[:10])
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "write", lambda handle, data: half(handle, data[:20] if len(data) > 20 else b""))
        with pytest.raises(StorageError, match="No space left on device"):
            file.append(record("k2"))
        monkeypatch.undo()
        assert path.read_bytes() == before
        file.append(record("k2"))
    assert len(RecordFile(path).newest()) == 2


def test_a_run_folder_is_read_back(tmp_path: Path) -> None:
    run(tmp_path, base())
    found = load_run(tmp_path / "run")
    assert found.suite.suite == "small"
    assert found.arms[0].card.cached_scalars == 7
    assert {key for group in found.groups for key in group.keys} == set(found.index)
    assert all(entry.context["prompt"] in ("one", "two") for entry in found.index.values())


@pytest.mark.parametrize(
    "content", [None, "", "{}", '{"schema": 99}', '{"schema":1,"arms":[{}],"groups":[],"suite":{}}']
)
def test_a_folder_that_is_no_run_is_one_line(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "plan.json").write_text(content)
    with pytest.raises(RecordError) as caught:
        load_run(tmp_path)
    assert "\n" not in caught.value.message


def test_a_file_in_place_of_a_folder_is_no_run_folder(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("mine")
    with pytest.raises(RecordError, match=r"notes\.md is no run folder"):
        load_run(tmp_path / "notes.md")


def test_values_of_many_heads_are_those_of_each(tmp_path: Path) -> None:
    keys = [f"{n:064x}" for n in range(4)]
    with RecordFile(tmp_path / "r.jsonl") as file:
        for n, key in enumerate(keys):
            file.append(record(key, values={"a": n / 3, "b": math.nan if n % 2 else 1.0}))
        file.append(record("a short key", values={"a": 7.0, "b": 1.0}))
        index = file.newest()
    rows = index.rows([*keys, "a short key", "none"])
    assert rows == [0, 1, 2, 3, 4, None]
    for together, key in zip(index.values_at(range(5)), index, strict=True):
        assert together.keys() == index[key].values.keys()
        assert together["a"] == index[key].values["a"]
        assert math.isnan(together["b"]) == math.isnan(index[key].values["b"])
    assert index.values_at([]) == []


@pytest.mark.parametrize("damage", [(b'"a":0.1', b'"a":0,1'), (b',"clip":{', b',"clap":{')])
def test_a_damaged_head_is_named_when_its_values_are_asked_for(tmp_path: Path, damage: tuple[bytes, bytes]) -> None:
    """Of a line without a digest, as earlier versions wrote it."""
    first, second = (encode(record(f"{n:064x}")) for n in (1, 2))
    (tmp_path / "r.jsonl").write_bytes(first + without_digest(second).replace(*damage))
    index = RecordFile(tmp_path / "r.jsonl").newest()
    with pytest.raises(RecordError, match=r"r\.jsonl:2: a damaged record") as caught:
        index.values_at([0, 1])
    assert "remove that line" in caught.value.fix


def test_a_line_that_a_test_gives_a_digest_is_the_one_that_is_written() -> None:
    assert with_digest(json.loads(encode(record()))) == encode(record())


@pytest.mark.parametrize("value", ["high", "5", [1], {}, [], "", True, 10**310, math.inf])
def test_a_value_that_is_no_number_is_named_whoever_asks(tmp_path: Path, value: object) -> None:
    """Of a line whose digest is right: nothing but its values tells that it was forged."""
    with RecordFile(tmp_path / "r.jsonl") as file:
        file.append(record(f"{1:064x}", values={"a": 0.1, "b": 0.2}))
    edit(tmp_path / "r.jsonl", values={"a": value})
    index = RecordFile(tmp_path / "r.jsonl").newest()
    for ask in (lambda: index.values_at([0]), lambda: next(iter(index.values())).values):
        with pytest.raises(RecordError, match=r"r\.jsonl:1: a damaged record") as caught:
            ask()
        assert caught.value.message.isprintable()


@pytest.mark.parametrize("value", [3, None, 1e308, 10**300, -0.0, 0])
def test_a_value_that_is_a_number_is_read(tmp_path: Path, value: float | None) -> None:
    with RecordFile(tmp_path / "r.jsonl") as file:
        file.append(record(f"{1:064x}", values={"a": 0.1}))
    edit(tmp_path / "r.jsonl", values={"a": value})
    (values,) = RecordFile(tmp_path / "r.jsonl").newest().values_at([0])
    assert values["a"] == value or (value is None and math.isnan(values["a"]))
