"""Muon against the singular value decomposition, and against the library's own in bfloat16."""

from __future__ import annotations

import pytest
import torch

from videomla_models.training.optimisers import Muon, orthogonalise


@pytest.mark.parametrize("shape", [(6, 6), (9, 4), (4, 9)])
def test_singular_values_come_near_one_and_directions_stay(shape: tuple[int, int]) -> None:
    matrix = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    result = orthogonalise(matrix)
    values = torch.linalg.svdvals(result)
    assert values.min() > 0.5
    assert values.max() < 1.3
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    assert (result - left @ right).abs().max() < 0.5
    assert ((left @ right) * result).sum() > 0


def test_steps_are_the_librarys_up_to_bfloat16() -> None:
    start = torch.randn(8, 12, generator=torch.Generator().manual_seed(1))
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    mine = Muon([ours], lr=0.01)
    library = torch.optim.Muon([theirs], lr=0.01, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    for step in range(3):
        gradient = torch.randn(8, 12, generator=torch.Generator().manual_seed(10 + step))
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        mine.step()
        library.step()
    moved = (theirs - start).norm()
    assert (ours - theirs).norm() < 0.02 * moved
