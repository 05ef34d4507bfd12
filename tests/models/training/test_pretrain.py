"""The training program: what it may show, that it learns, and that a broken run goes on as an unbroken one."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from videomla_models.small_world.world import held_out
from videomla_models.training import data as toy_data
from videomla_models.training import pretrain
from videomla_models.training.data import FIRST_TRAINING_SEED
from videomla_models.training.loop import GENERATOR
from videomla_models.training.pretrain import Recipe, data, training, write_checkpoint

SMALL = Recipe("videomla", steps=6, clips=2, chunks=3, warmup=2)


@pytest.mark.parametrize("crosses", [0.0, 0.4])
def test_held_out_captions_and_seeds_are_never_shown(monkeypatch: pytest.MonkeyPatch, crosses: float) -> None:
    shown: list[str] = []
    seeds: list[int] = []
    render = toy_data.render_batch

    def watch(captions: list[object], given: list[int], frames: int) -> object:
        shown.extend(str(caption) for caption in captions)
        seeds.extend(given)
        return render(captions, given, frames)  # type: ignore[arg-type]

    monkeypatch.setattr(toy_data, "render_batch", watch)
    for step in range(400):
        data(Recipe("dense", crosses=crosses)).drawn(step, 0.08)
    assert len(set(shown)) > 1000
    share = sum(" cross " in caption for caption in shown) / len(shown)
    assert share == pytest.approx(0.25 + 0.75 * 0.9 * crosses, abs=0.03)
    assert not set(shown) & {str(caption) for caption in held_out()}
    assert min(seeds) >= FIRST_TRAINING_SEED


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    first, again, other = (data(SMALL).drawn(step, 0.5) for step in (3, 3, 4))
    assert torch.equal(first[0], again[0])
    assert first[1] == again[1]
    assert not torch.equal(first[0], other[0])
    latents, texts, weight = first
    assert latents.shape == weight.shape == (2, 9, 48, 8, 8)
    assert len(texts) == 2
    assert set(weight.unique().tolist()) == {1.0, 3.0}


def test_losses_are_those_of_the_shipped_models_program() -> None:
    """Three losses as the program gave them before the loop was shared between stages."""
    trainer = training(Recipe("videomla", steps=12, clips=1, chunks=2, warmup=3, crosses=0.4))
    losses = [trainer.advance()[GENERATOR] for _ in range(3)]
    assert losses == pytest.approx([1.41204929, 1.28831077, 0.70015061], rel=1e-4)


def test_a_training_goes_on_from_given_weights() -> None:
    first = training(SMALL)
    first.advance()
    weights = first.stage.learners[GENERATOR].result()
    second = training(Recipe("videomla", steps=6, clips=2, chunks=3, warmup=2, start="digest"), weights)
    for name, weight in second.stage.learners[GENERATOR].result().items():
        assert torch.equal(weight, weights[name])


def test_the_program_writes_a_checkpoint_and_its_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = training(SMALL)
    trainer.advance()
    record = write_checkpoint(trainer, tmp_path)
    saved = load_file(tmp_path / "videomla.safetensors")
    assert sum(t.numel() for t in saved.values()) == record["parameters"]
    assert {t.dtype for t in saved.values()} == {torch.float16}
    assert json.loads((tmp_path / "videomla.json").read_text()) == record
    monkeypatch.setattr(sys, "argv", ["train", "videomla", "--steps", "0", "--out", str(tmp_path / "run")])
    with pytest.raises(SystemExit):
        pretrain.main()


@pytest.mark.slow
def test_the_loss_falls() -> None:
    trainer = training(Recipe("dense", steps=60, clips=4, chunks=2, warmup=10))
    losses = [trainer.advance()[GENERATOR] for _ in range(60)]
    assert sum(losses[-10:]) < 0.5 * sum(losses[10:20])
