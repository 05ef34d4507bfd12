"""The shipped models of the marked world keep most of their background, which random weights do not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from harness.contracts import Clip, Request
from harness.contracts.registry import metrics, models
from videomla_models.small_world import marked


def background_kept(name: str, weights: str) -> float:
    """Over four clips of 12 frames."""
    model_class, metric_class = models.get(name), metrics.get("toy/kept")
    model = model_class(model_class.schema(weights=weights, first_steps=16))
    captions = marked.held_out("plain")[::9]
    model.load("cpu")
    frames = np.concatenate(list(model.stream(Request(tuple(map(str, captions)), (0, 1, 2, 3), 12))), axis=1)
    metric, scores = metric_class(metric_class.schema()), []
    for seed, (caption, shown) in enumerate(zip(captions, frames, strict=True)):
        clip = Clip(Path("none"), str(caption), seed, 0, 12, 32, 32, 8.0, "", lambda shown=shown: shown)
        scores.append(metric.score(clip)["background_kept"])
    return float(np.mean(scores))


@pytest.mark.parametrize("name", ["marked/dense", "marked/videomla"])
def test_shipped_weights_keep_most_of_the_background(name: str) -> None:
    assert background_kept(name, "shipped") > 0.7
    assert background_kept(name, "random") < 0.2
