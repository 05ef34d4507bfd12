"""Merged updates against peft's own, in the environment that has peft."""

from pathlib import Path

import pytest
import torch
from quality_clips import in_environment
from safetensors.torch import load_file

from videomla_models.checkpoints.load import open_checkpoint

pytestmark = pytest.mark.quality


def test_an_update_is_merged_as_peft_merges_it(tmp_path):
    in_environment("quality", Path(__file__).with_name("peft_direct.py"), tmp_path)
    folders = sorted(tmp_path.iterdir())
    assert len(folders) == 5
    for folder in folders:
        base, merged = (load_file(folder / f"{name}.safetensors") for name in ("base", "merged"))
        checkpoint = open_checkpoint(folder / "base.safetensors", lora=folder / "adapter")
        changed = [name for name in base if not torch.equal(base[name], merged[name])]
        assert len(changed) == (5 if folder.name == "convolution" else 16)
        for name, tensor in merged.items():
            torch.testing.assert_close(checkpoint.read(name), tensor, rtol=1e-5, atol=1e-5)
