"""Consistency distillation against arithmetic by hand, and that its loss falls."""

from __future__ import annotations

from typing import Any

import pytest
import small_world
import torch
from torch import Tensor

from videomla_models.network.transformer import VideoTransformer
from videomla_models.training.consistency import Consistency
from videomla_models.training.loop import GENERATOR, Learner, Loop, Rate
from videomla_models.training.optimisers import adamw
from videomla_models.training.options import ConsistencyOptions


def options_of(**options: Any) -> ConsistencyOptions:
    return ConsistencyOptions(stage="consistency", steps=24, **options)


def constant(value: float) -> VideoTransformer:
    """A network that predicts `value` everywhere, whatever it sees."""
    network = small_world.network()
    with torch.no_grad():
        network.head.head.bias.fill_(value)
    return network


@pytest.mark.parametrize("substeps", [1, 3])
def test_the_loss_by_hand(substeps: int) -> None:
    """Teacher and averaged student predict 2 and 5: the target is 5 above the last step, and below it the path's end.

    With one clean prediction all along its path, a solver of any number of substeps ends there at level 0.
    """
    student, teacher, target = constant(0.0), constant(2.0), constant(5.0).requires_grad_(False)
    learner = Learner(student, adamw(student, 1e-3), 0.9)
    clips, data = small_world.clips(), small_world.data()
    options = ConsistencyOptions(
        stage="consistency", steps=24, denoising=(1000, 250), shift=4.0, guidance=1.0, substeps=substeps
    )
    stage = Consistency(learner, teacher, target, data, clips, options, seed=3)
    ((name, loss),) = stage.losses(7)
    assert name == GENERATOR
    batch = data.batch(7)
    index = torch.randint(2, (4, 3), generator=torch.Generator().manual_seed(3 * 1_000_003 + 7))
    assert 0 < index.sum() < index.numel()
    wanted = torch.where(index == 1, 2.0, 5.0).repeat_interleave(2, dim=1)[:, :, None, None, None]
    assert loss.item() == pytest.approx(float((batch.weight * wanted.square()).mean()), rel=1e-5)


def test_levels_as_the_pipeline_draws_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """48 levels and one for a whole clip: neighbours on the unshifted grid, those of a clip alike, clips apart."""
    student, teacher, target = (small_world.network(silent=False) for _ in range(3))
    learner = Learner(student, adamw(student, 1e-3), 0.9)
    options = options_of(guidance=1.0, substeps=1, levels=48, levels_per="clip")
    stage = Consistency(learner, teacher, target, small_world.data(), small_world.clips(), options, 0)
    seen: list[tuple[Tensor, Tensor]] = []
    solve = stage._solve
    monkeypatch.setattr(
        stage,
        "_solve",
        lambda past, x, here, there, *rest: seen.append((here, there)) or solve(past, x, here, there, *rest),
    )
    for step in range(3):
        assert next(stage.losses(step))[1].isfinite()
    for here, there in seen:
        assert torch.allclose(here * 48, (here * 48).round(), atol=1e-4)
        assert torch.allclose(here - there, torch.tensor(1 / 48), atol=1e-6)
        assert torch.equal(here, here[:, :1].expand(4, 3))
    assert len(torch.cat([here[:, 0] for here, _ in seen]).unique()) > 3


def test_guidance_folds_in() -> None:
    """Without a prompt the teacher is another function: a scale of 1 and of 3 ask for different targets."""
    found: list[Tensor] = []
    for guidance in (1.0, 3.0):
        student, teacher = small_world.network(silent=False), small_world.network(seed=5, silent=False)
        target = small_world.network(silent=False).requires_grad_(False)
        learner = Learner(student, adamw(student, 1e-3), 0.9)
        options = options_of(guidance=guidance)
        stage = Consistency(learner, teacher, target, small_world.data(), small_world.clips(), options, 0)
        found.append(next(stage.losses(0))[1].detach())
    assert not torch.equal(*found)


def test_the_loss_falls() -> None:
    """A silent student learns what a teacher with random weights predicts."""
    teacher = small_world.network(seed=5, silent=False).requires_grad_(False)
    student, target = small_world.network(seed=5), small_world.network(seed=5).requires_grad_(False)
    learner = Learner(student, adamw(student, 6e-3, (0.9, 0.99)), 0.5)
    data, clips = small_world.data(2, 2), small_world.clips(2)
    loop = Loop(
        Consistency(learner, teacher, target, data, clips, options_of(guidance=1.0), 0),
        Rate(24),
        {},
    )
    losses = [loop.advance()[GENERATOR] for _ in range(24)]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
