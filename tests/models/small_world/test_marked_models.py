"""The shipped models of the marked world keep background and mark, which random weights do not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from harness.contracts import Clip, Request
from harness.contracts.registry import metrics, models
from videomla_models.small_world import marked


def kept(name: str, weights: str) -> tuple[float, float]:
    """Shares of background and mark, over eight clips of 12 frames."""
    model_class, metric_class = models.get(name), metrics.get("toy/kept")
    model = model_class(model_class.schema(weights=weights, first_steps=16))
    captions = marked.held_out("plain")[::4]
    model.load("cpu")
    frames = np.concatenate(list(model.stream(Request(tuple(map(str, captions)), tuple(range(8)), 12))), axis=1)
    metric, scores = metric_class(metric_class.schema()), []
    for seed, (caption, shown) in enumerate(zip(captions, frames, strict=True)):
        clip = Clip(Path("none"), str(caption), seed, 0, 12, 32, 32, 8.0, "", lambda shown=shown: shown)
        scores.append(metric.score(clip))
    return tuple(float(np.mean([score[part] for score in scores])) for part in ("background_kept", "mark_kept"))


@pytest.mark.parametrize("name", ["marked/dense", "marked/videomla"])
def test_shipped_weights_keep_background_and_mark(name: str) -> None:
    background, mark = kept(name, "shipped")
    assert background > 0.85
    assert mark > 0.3  # 1 in 16 by chance
    assert kept(name, "random")[0] < 0.2
