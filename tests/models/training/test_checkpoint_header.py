"""Headers of checkpoints that a training wrote: sizes that no network has are refused before one is built."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from harness.contracts import registry
from harness.errors import WeightsError
from videomla_models.training.header import read_header
from videomla_models.training.options import Chain

CHAIN = Chain.model_validate(
    {
        "chunk": 2,
        "network": {"dim": 24, "heads": 2, "layers": 2, "attention": "latent"},
        "window": {"frames": 5},
        "stages": [{"stage": "teacher_forcing", "steps": 2}],
    }
)


def written(folder: Path, **changes: Any) -> Path:
    """A checkpoint of two tensors whose header says what `changes` say."""
    training = {"chain": CHAIN.model_dump(mode="json"), "step": 2}
    config = {**asdict(CHAIN.config()), "training": training, **changes}
    path = folder / "model.safetensors"
    save_file({f"blocks.{n}.x": torch.zeros(1) for n in range(2)}, path, {"config": json.dumps(config)})
    return path


def test_what_a_training_writes_is_read(tmp_path: Path) -> None:
    header = read_header(written(tmp_path))
    assert (header.config, header.chain, header.step) == (CHAIN.config(), CHAIN, 2)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"layers": 10**6}, "1000000 layers, and 2 tensors"),
        ({"layers": 10**9}, "layers is 1000000000"),
        ({"dim": 0}, "dim is 0"),
        ({"dim": "24"}, "dim is '24'"),
        ({"heads": True}, "heads is True"),
        ({"heads": 5}, "5 heads over a width of 24"),
        ({"ffn": (1 << 20) + 1}, "ffn is 1048577"),
        ({"rope_positions": 10**40}, "rope_positions is 1000"),
        ({"text_tokens": -1}, "text_tokens is -1"),
        ({"eps": float("nan")}, "eps is nan"),
        ({"rope_theta": float("inf")}, "rope_theta is inf"),
        ({"attention": ["x"]}, "of no network"),
        ({"patch": [1, 2]}, "of no network"),
        ({"patch": [1, 2, 0]}, "patch 2 is 0"),
        ({"latent": {"d_c": 1.5}}, "pairs"),
        ({"latent": {"d_c": 1.5, "pairs": [1, 1, 1]}}, "d_c is 1.5"),
        ({"latent": {"pairs": [1, 1, -1]}}, "pairs 2"),
        ({"training": {"chain": {}, "step": 1}}, "no checkpoint that"),
    ],
)
def test_sizes_that_no_network_has_are_one_line(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    path = written(tmp_path, **changes)
    with pytest.raises(WeightsError, match="no checkpoint that `harness train` wrote") as refused:
        registry.models.create("toy/trained", {"checkpoints": [str(path)]}).describe()
    assert words in refused.value.message
    assert "\n" not in refused.value.message
    assert len(refused.value.message) < 400


def test_a_recipe_with_negative_pairs_is_refused() -> None:
    network = {"attention": "latent", "latent": {"d_rope": 24, "pairs": [8, 8, -4]}}
    chain = Chain.model_validate({"network": network, "stages": [{"stage": "teacher_forcing", "steps": 2}]})
    assert [text for _, text in chain.problems()] == ["pairs [8, 8, -4] are not within the head's [8, 8, 8]"]


@pytest.mark.parametrize("name", ["/", "."])
def test_a_path_that_names_no_file_is_one_line(name: str) -> None:
    model = registry.models.create("toy/trained", {"checkpoints": [name], "step": 3})
    with pytest.raises(WeightsError, match="names no file"):
        model.describe()
