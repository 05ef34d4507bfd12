"""Files of latents: what a VAE made of real videos, for statistics that a model's own noise cannot give."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from harness.errors import WeightsError
from videomla_models.checkpoints.locate import Source
from videomla_models.checkpoints.tensors import Safetensors, load_pickle

AXES = "[batch, channel, frame, height, width]"
LARGEST = 1 << 28
"""Numbers: a GiB in float32, some 13 minutes of Wan2.1's latents at 480x832."""


def read_latents(path: Path) -> Tensor:
    """Latents of a `.safetensors`, `.pt` or `.pth` file that holds one tensor [batch, channel, frame, height, width].

    Returns [batch, frames, channels, height, width] in float32 on the CPU. A pickle is read without running code.
    Raises `WeightsError` for any other content.
    """
    if not path.is_file():
        raise WeightsError(f"{path} is no file", f"give a file of latents {AXES}")
    content: object
    if path.suffix == ".safetensors":
        file = Safetensors(Source(str(path), (path,)))
        content = {name: file.read(name) for name in file.shapes} if len(file.shapes) == 1 else dict(file.shapes)
    elif path.suffix in (".pt", ".pth"):
        content = load_pickle(path)
    else:
        raise WeightsError(f"{path} is neither .safetensors nor .pt", f"give a file of latents {AXES}")
    if isinstance(content, dict):
        if len(content) != 1:
            raise WeightsError(f"{path} holds {len(content)} entries", f"give a file with one tensor {AXES}")
        (content,) = content.values()
    if not isinstance(content, Tensor) or content.is_sparse or content.is_quantized:
        raise WeightsError(f"{path} holds no plain tensor", f"give one tensor {AXES}")
    if content.dim() != 5 or not content.is_floating_point() or not 0 < content.numel() <= LARGEST:
        raise WeightsError(
            f"{path} holds {str(content.dtype).removeprefix('torch.')} {list(content.shape)}",
            f"give floating-point latents {AXES} of at most {LARGEST} numbers",
        )
    latents = content.detach().float().transpose(1, 2).contiguous()
    if not bool(torch.isfinite(latents).all()):
        raise WeightsError(f"{path} holds numbers that are not finite", "make the latents anew")
    return latents
