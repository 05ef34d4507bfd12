"""Similarity of frames by their distance, in the jobs of CLIP and of VBench-Long, against every pair by hand."""

import numpy as np
import pytest
import torch

from harness.metrics.jobs import job_frames
from harness.metrics.vbench_job.decay import Decay


def test_evenly_spread_frames_are_compared_at_every_lag() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(5, 8))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    numbers = [0, 10, 20, 30, 40]
    distances, alike = job_frames.by_distance(features, numbers)
    assert distances == [10, 20, 30, 40]
    cosines = features @ features.T
    assert alike == pytest.approx([np.diag(cosines, lag).mean() for lag in (1, 2, 3, 4)])
    assert job_frames.by_distance(features[:1], [0]) == ([], [])


@pytest.mark.parametrize("sizes", [[40], [1] * 40, [7, 20, 13]])
def test_decay_is_the_mean_cosine_of_all_pairs_however_frames_come(sizes: list[int]) -> None:
    features = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    decay = Decay()
    for part in features.split(sizes):
        decay.push(part)
    unit = (features / features.norm(dim=1, keepdim=True)).numpy()
    cosines = unit @ unit.T
    by_hand = {distance: np.diag(cosines, distance).mean() for distance in (2, 5, 10, 20)}
    assert decay.means() == pytest.approx(by_hand, abs=1e-6)


def test_equal_frames_do_not_decay() -> None:
    decay = Decay((1, 3))
    decay.push(torch.ones(6, 4))
    assert decay.means() == pytest.approx({1: 1.0, 3: 1.0})
    assert Decay((1, 3)).means() == {}
