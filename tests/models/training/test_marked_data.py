"""Training clips of the marked world: what they may show, and where the past is torn."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from videomla_models.small_world import marked
from videomla_models.training.data import FIRST_TRAINING_SEED, MarkedData


def watched(monkeypatch: pytest.MonkeyPatch, data: MarkedData, steps: int) -> tuple[list[str], list[int], np.ndarray]:
    """Captions, seeds and frame numbers of the clips of some steps."""
    shown: list[str] = []
    drawn: list[int] = []
    when: list[np.ndarray] = []
    render = marked.render_batch

    def watch(captions: list[marked.Caption], seeds: list[int], times: np.ndarray) -> object:
        shown.extend(map(str, captions))
        drawn.extend(seeds)
        when.append(times)
        return render(captions, seeds, times)

    monkeypatch.setattr(marked, "render_batch", watch)
    for step in range(steps):
        data.drawn(step, 0.08)
    return shown, drawn, np.concatenate(when)


def test_held_out_captions_and_seeds_are_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    shown, seeds, _ = watched(monkeypatch, MarkedData(chunks=2), 100)
    assert not set(shown) & {str(caption) for kind in marked.KINDS for caption in marked.held_out(kind)}
    assert min(seeds) >= FIRST_TRAINING_SEED
    kinds = [marked.Caption.parse(text).kind for text in shown]
    assert all(kinds.count(kind) == pytest.approx(200, abs=45) for kind in marked.KINDS)


def test_only_the_kinds_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    shown, _, _ = watched(monkeypatch, MarkedData(chunks=2, kinds=("covered",)), 4)
    assert {marked.Caption.parse(text).kind for text in shown} == {"covered"}


def test_half_of_the_clips_are_torn_after_the_first_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, times = watched(monkeypatch, MarkedData(chunks=3, gap=20), 40)
    steps = np.diff(times, axis=1)
    assert (np.delete(steps, 2, axis=1) == 1).all()
    assert steps[:, 2].max() <= 21
    assert (steps[:, 2] > 1).mean() == pytest.approx(0.5 * 20 / 21, abs=0.1)


def test_a_chunk_whose_past_is_torn_has_no_weight() -> None:
    data = MarkedData(clips=32, chunks=3, gap=20)
    _, _, weight = data.drawn(0)
    torn = (weight[:, 3:6] == 0).flatten(1).all(1)
    assert 5 < int(torn.sum()) < 27
    assert (weight[:, :3] >= 1).all()
    assert (weight[:, 6:] >= 1).all()
    assert (weight[~torn] >= 1).all()
    assert set(weight.unique().tolist()) == {0.0, 1.0, 3.0}


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    first, again, other = (MarkedData(clips=2, chunks=3, gap=9).drawn(step, 0.5) for step in (3, 3, 4))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[2], again[2])
    assert first[1] == again[1]
    assert not torch.equal(first[0], other[0])
    batch = MarkedData(clips=2, chunks=3).batch(0)
    assert batch.latents.shape == batch.weight.shape == (2, 9, 48, 8, 8)
    assert batch.text.shape == (2, 8, len(marked.WORDS.names) + 8)
