"""The training program: what it may show, that it learns, and that a broken run goes on as an unbroken one."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from models.toy import train
from models.toy.train import FIRST_TRAINING_SEED, Recipe, Trainer, batch, rate, write_checkpoint
from models.toy.world import held_out

SMALL = Recipe("videomla", steps=6, clips=2, chunks=3, warmup=2)


@pytest.mark.parametrize("crosses", [0.0, 0.4])
def test_held_out_captions_and_seeds_are_never_shown(monkeypatch: pytest.MonkeyPatch, crosses: float) -> None:
    shown: list[str] = []
    seeds: list[int] = []
    render = train.render_batch

    def watch(captions: list[object], given: list[int], frames: int) -> object:
        shown.extend(str(caption) for caption in captions)
        seeds.extend(given)
        return render(captions, given, frames)  # type: ignore[arg-type]

    monkeypatch.setattr(train, "render_batch", watch)
    for step in range(400):
        batch(Recipe("dense", crosses=crosses), step)
    assert len(set(shown)) > 1000
    share = sum(" cross " in caption for caption in shown) / len(shown)
    assert share == pytest.approx(0.25 + 0.75 * 0.9 * crosses, abs=0.03)
    assert not set(shown) & {str(caption) for caption in held_out()}
    assert min(seeds) >= FIRST_TRAINING_SEED


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    first, again, other = batch(SMALL, 3), batch(SMALL, 3), batch(SMALL, 4)
    assert torch.equal(first[0], again[0])
    assert first[1] == again[1]
    assert not torch.equal(first[0], other[0])
    latents, texts, weight = first
    assert latents.shape == weight.shape == (2, 9, 48, 8, 8)
    assert len(texts) == 2
    assert set(weight.unique().tolist()) == {1.0, 3.0}


def test_learning_rate_by_hand() -> None:
    recipe = Recipe("dense", steps=100, warmup=10, decay=0.4)
    assert [rate(recipe, step) for step in (0, 9, 50, 80, 99)] == pytest.approx([0.1, 1.0, 1.0, 0.5, 0.025])


def test_resuming_is_exact(tmp_path: Path) -> None:
    unbroken = Trainer(SMALL)
    losses = [unbroken.advance() for _ in range(4)]
    broken = Trainer(SMALL)
    for _ in range(2):
        broken.advance()
    broken.save(tmp_path / "state")
    resumed = Trainer(SMALL)
    resumed.resume(tmp_path / "state")
    assert [*resumed.losses, resumed.advance(), resumed.advance()] == losses
    for ours, theirs in zip(resumed.average.values(), unbroken.average.values(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_training_goes_on_from_given_weights() -> None:
    first = Trainer(SMALL)
    first.advance()
    second = Trainer(Recipe("videomla", steps=6, clips=2, chunks=3, warmup=2, start="digest"), first.average)
    for name, weight in second.average.items():
        assert torch.equal(weight, first.average[name])


def test_a_state_of_another_recipe_is_refused(tmp_path: Path) -> None:
    Trainer(SMALL).save(tmp_path / "state")
    with pytest.raises(ValueError, match="another recipe"):
        Trainer(Recipe("videomla", steps=7, clips=2, chunks=3, warmup=2)).resume(tmp_path / "state")


def test_a_loss_that_is_not_finite_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(SMALL)
    with torch.no_grad():
        trainer.network.head.head.weight.fill_(float("nan"))
    with pytest.raises(ArithmeticError, match="step 0"):
        trainer.advance()


def test_the_program_writes_a_checkpoint_and_its_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(SMALL)
    trainer.advance()
    record = write_checkpoint(trainer, tmp_path)
    saved = load_file(tmp_path / "videomla.safetensors")
    assert sum(t.numel() for t in saved.values()) == record["parameters"]
    assert {t.dtype for t in saved.values()} == {torch.float16}
    assert json.loads((tmp_path / "videomla.json").read_text()) == record
    monkeypatch.setattr(sys, "argv", ["train", "videomla", "--steps", "0", "--out", str(tmp_path / "run")])
    with pytest.raises(SystemExit):
        train.main()


@pytest.mark.slow
def test_the_loss_falls() -> None:
    trainer = Trainer(Recipe("dense", steps=60, clips=4, chunks=2, warmup=10))
    losses = [trainer.advance() for _ in range(60)]
    assert sum(losses[-10:]) < 0.5 * sum(losses[10:20])
