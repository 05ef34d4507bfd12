"""Draw random weights of LPIPS, of its published shapes, inside `quality`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from random_numbers import save
from torchvision.models import alexnet

CHANNELS = (64, 192, 384, 256, 256)


def setup(options: dict[str, Any], weights: str, device: str) -> None:
    """Draw the backbone and the heads into the folder `weights`."""
    backbone, heads = (Path(weights) / name for name in ("alexnet-owt-7be5be79.pth", "alex.pth"))
    if backbone.exists() and heads.exists():
        return
    torch.manual_seed(0)
    save(alexnet(weights=None).state_dict(), backbone)
    save({f"lin{n}.model.1.weight": torch.rand(1, width, 1, 1) for n, width in enumerate(CHANNELS)}, heads)
