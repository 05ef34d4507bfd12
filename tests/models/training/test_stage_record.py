"""What a finished stage says of itself: believed where it is whole, and else the stage is trained again."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from videomla_models.training import chain as chains
from videomla_models.training.chain import train
from videomla_models.training.options import Chain

CHAIN = Chain.model_validate(
    {
        "chunk": 2,
        "network": {"dim": 24, "heads": 2, "layers": 1, "ffn": 32},
        "window": {"frames": 5},
        "data": {"clips": 2, "chunks": 2},
        "stages": [{"stage": "teacher_forcing", "steps": 1, "rate": 0.001, "keep": 1}],
    }
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stages")
    train(CHAIN, folder)
    return folder


@pytest.fixture
def record(root: Path) -> Iterator[Path]:
    path = root / CHAIN.key(0) / "stage.json"
    content = path.read_bytes()
    yield path
    path.unlink(missing_ok=True)
    path.write_bytes(content)


def trained_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the stage is trained rather than believed; it is not trained to its end."""

    class Again(Exception):
        pass

    def started(*_: object) -> None:
        raise Again

    monkeypatch.setattr(chains, "_Run", started)
    try:
        train(CHAIN, root)
    except Again:
        return True
    return False


def test_a_whole_record_is_believed(root: Path, record: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not trained_again(root, monkeypatch)


@pytest.mark.parametrize(
    "change",
    [
        {"kept": []}, {"kept": {"1": 3}}, {"kept": {"1": "gone.safetensors"}}, {"kept": {"1": "/dev/null"}},
        {"path": "/dev/zero"}, {"path": "."}, {"path": ""}, {"path": 3}, {"path": None}, {"path": "../x"},
        {"path": "stage.json"}, {"losses": []}, {"losses": {"generator": ["x"]}}, {"seconds": float("nan")},
        {"seconds": "x"}, {"steps": None}, {"updates": [1]}, {"sha256": "0" * 64},
    ],
    ids=str,
)  # fmt: skip
def test_a_record_of_another_kind_is_not(
    root: Path, record: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    record.write_text(json.dumps(json.loads(record.read_bytes()) | change))
    assert trained_again(root, monkeypatch)


@pytest.mark.parametrize("content", ["", "[]", "3", "{}", "[" * 1000, " " * (17 << 20)], ids=lambda text: text[:4])
def test_what_is_no_record_is_not(root: Path, record: Path, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    record.write_text(content)
    assert trained_again(root, monkeypatch)


def test_a_pipe_is_not_waited_for(root: Path, record: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record.unlink()
    os.mkfifo(record)
    assert trained_again(root, monkeypatch)
