"""Draw random weights of a CLIP that open_clip knows, in the form of the file that they stand for, inside `quality`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import open_clip
import torch
from random_numbers import archive, save
from safetensors.torch import save_file


def setup(options: dict[str, Any], weights: str, device: str) -> None:
    """Draw `file`, below the folder `weights`, of the network `model`; `script` says that it is an archive."""
    path = Path(weights) / options["file"]
    if path.exists():
        return
    torch.manual_seed(0)
    state = open_clip.create_model(options["model"], precision="fp32").state_dict()
    path.parent.mkdir(parents=True, exist_ok=True)
    if options["script"]:
        archive(state, path, input_resolution=224, context_length=77, vocab_size=49408)
    elif path.suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    else:
        save(state, path)
