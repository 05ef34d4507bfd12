"""A constant state is trained as any other cache is: all stages, and the model that comes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.contracts import Request, registry
from videomla_models.training.chain import train
from videomla_models.training.loop import GENERATOR
from videomla_models.training.options import Chain

LINEAR: dict[str, Any] = {
    "network": {"attention": "linear", "dim": 24, "heads": 2, "layers": 2, "ffn": 32},
    "window": {"frames": 3, "sink": 0, "rotation": "write", "positions": "absolute"},
    "data": {"clips": 2, "chunks": 3},
}
FORCING = {"stage": "teacher_forcing", "steps": 24, "rate": 3e-3, "optimiser": "muon"}


def test_all_stages_train_a_state_that_then_streams(tmp_path: Path) -> None:
    shorter = [{"stage": "consistency", "steps": 2}, {"stage": "distribution_matching", "steps": 2, "updates": 1}]
    chain = Chain(**LINEAR, stages=[FORCING, *shorter])
    forced, *_, last = train(chain, tmp_path)
    losses = forced.losses[GENERATOR]
    assert sum(losses[-4:]) < 0.7 * sum(losses[:4])
    assert last.updates[GENERATOR] == 2
    model = registry.models.create("toy/trained", {"checkpoints": [str(last.path)], "policy": {}})
    card = model.describe()
    # Two layers of a 12 x 12 matrix and 12 numbers for each of two heads, in float32, whatever the length.
    assert card.cache_bytes == 2 * 2 * (12 * 12 + 12) * 4
    model.load("cpu")
    prompt = ("a red circle moves left on a black background",)
    clip = np.concatenate(list(model.stream(Request(prompt, (0,), 30, ()))), 1)
    assert clip.shape[1] == 30


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"window": {"positions": "relative"}}, "set positions to absolute"),
        ({"start": {"kind": "svd", "origin": {"file": "dense.safetensors"}}}, "makes latent attention"),
    ],
)
def test_what_a_state_cannot_be_trained_with_is_one_line(change: dict[str, Any], said: str) -> None:
    problems = list(Chain(**{**LINEAR, **change, "stages": [FORCING]}).problems())
    assert any(said in text for _, text in problems)
    assert not any("\n" in text for _, text in problems)
