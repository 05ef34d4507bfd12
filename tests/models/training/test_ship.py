"""A finished training becomes a checkpoint that ships, with its record."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from harness.errors import WeightsError
from videomla_models.training.chain import train
from videomla_models.training.loop import Loop
from videomla_models.training.options import Chain
from videomla_models.training.ship import main, ship

TINY = {
    "chunk": 2,
    "network": {"dim": 24, "heads": 2, "layers": 1, "ffn": 32},
    "window": {"frames": 5},
    "data": {"clips": 2, "chunks": 2},
    "stages": [
        {"stage": "teacher_forcing", "steps": 2, "rate": 0.001},
        {"stage": "consistency", "steps": 3, "rate": 0.001},
    ],
}


def test_weights_and_record_of_every_stage(tmp_path: Path) -> None:
    done = train(Chain.model_validate(TINY), tmp_path / "stages")
    record = ship(done[-1].path, tmp_path / "small", tmp_path / "stages")
    shipped = tmp_path / "small.safetensors"
    assert record["sha256"] == hashlib.sha256(shipped.read_bytes()).hexdigest()
    assert [(stage["stage"], stage["steps"]) for stage in record["stages"]] == [
        ("teacher_forcing", 2),
        ("consistency", 3),
    ]
    assert [stage["sha256"] for stage in record["stages"]] == [stage.sha256 for stage in done]
    trained, kept = load_file(done[-1].path), load_file(shipped)
    assert kept.keys() == trained.keys()
    assert {tensor.dtype for tensor in kept.values()} == {torch.float16}
    assert all(torch.equal(kept[name], trained[name].half()) for name in kept)


def test_numbers_that_float16_lacks_are_not_shipped(tmp_path: Path) -> None:
    done = train(Chain.model_validate({**TINY, "stages": TINY["stages"][:1]}), tmp_path / "stages")  # type: ignore[index]
    with safe_open(done[-1].path, "pt") as file:
        header = file.metadata()
    weights = load_file(done[-1].path)
    save_file(weights | {"head.head.weight": weights["head.head.weight"] + 1e6}, done[-1].path, header)
    with pytest.raises(WeightsError, match=r"in float16: head\.head\.weight holds NaN or Inf"):
        ship(done[-1].path, tmp_path / "small", tmp_path / "stages")
    assert not (tmp_path / "small.safetensors").exists()


def test_a_training_that_was_stopped_ships_from_what_it_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = {"stage": "teacher_forcing", "steps": 9, "rate": 0.001, "keep": 2}
    chain, advance = Chain.model_validate({**TINY, "stages": [first]}), Loop.advance

    def stopped(loop: Loop) -> dict[str, float]:
        if loop.step == 7:
            raise KeyboardInterrupt
        return advance(loop)

    monkeypatch.setattr(Loop, "advance", stopped)
    monkeypatch.setattr("videomla_models.training.chain.SAVE_EVERY", 5)
    with pytest.raises(KeyboardInterrupt):
        train(chain, tmp_path / "stages")
    path = tmp_path / "stages" / chain.key(0) / "step-000004.safetensors"
    record = ship(path, tmp_path / "small", tmp_path / "stages")
    (stage,) = record["stages"]
    assert (stage["steps"], stage["updates"], len(stage["losses"]["generator"])) == (4, {"generator": 4}, 4)
    assert record["chain"]["stages"][0]["steps"] == 9
    assert stage["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    kept, shipped = load_file(path), load_file(tmp_path / "small.safetensors")
    assert all(torch.equal(shipped[name], weight.half()) for name, weight in kept.items())


def test_a_chain_whose_stages_are_not_whole_is_not_shipped(tmp_path: Path) -> None:
    done = train(Chain.model_validate(TINY), tmp_path / "stages")
    (done[0].path.parent / "stage.json").write_text("[" * 100)
    with pytest.raises(WeightsError, match="holds no finished stage"):
        ship(done[-1].path, tmp_path / "small", tmp_path / "stages")


def test_other_files_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other.safetensors").write_bytes(b"no")
    with pytest.raises(WeightsError, match="no checkpoint that"):
        ship(tmp_path / "other.safetensors", tmp_path / "small", tmp_path)
    monkeypatch.setattr("sys.argv", ["ship", str(tmp_path / "absent.safetensors"), str(tmp_path / "small")])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert "absent.safetensors does not exist" in capsys.readouterr().err
