"""LPIPS of every frame to that of the reference; runs inside the `quality` environment.

Version 0.1 on AlexNet, as in the package lpips (richzhang/PerceptualSimilarity): scaled pixels, five layers of features
of unit length, squared differences weighted by channel, means over places, and their sum. Zhang, Isola, Efros,
Shechtman and Wang, The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, 2018.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import job_frames
import numpy as np
import torch
from torchvision.models import alexnet

ENDS = (2, 5, 8, 10, 12)
"""Layers of AlexNet's features behind each rectifier that is compared."""
BATCH = 16
"""Frames in one pass."""
LEAST = 31
"""Pixels of a side from which on every layer has a place."""


class Network(torch.nn.Module):
    """Frames [n, 3, H, W] in -1 to 1, two of them, to distances [n]."""

    def __init__(self, backbone: dict[str, torch.Tensor], heads: dict[str, torch.Tensor]) -> None:
        super().__init__()
        network = alexnet(weights=None)
        network.load_state_dict(backbone)
        starts = (0, *ENDS[:-1])
        self.stages = torch.nn.ModuleList(network.features[a:b] for a, b in zip(starts, ENDS, strict=True))
        self.weights = [heads[f"lin{number}.model.1.weight"].flatten() for number in range(len(ENDS))]
        self.shift = torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1)
        self.scale = torch.tensor([0.458, 0.448, 0.450]).view(3, 1, 1)

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Distances [n]."""
        pair = torch.cat([first, second])
        x = (pair - self.shift.to(pair)) / self.scale.to(pair)
        total = torch.zeros(len(first), device=pair.device)
        for stage, weight in zip(self.stages, self.weights, strict=True):
            x = stage(x)
            unit = x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)
            one, other = unit.chunk(2)
            total = total + torch.einsum("nchw,c->nhw", (one - other).square(), weight.to(x)).mean((1, 2))
        return total


def setup(options: dict[str, Any], weights: str, device: str) -> dict[str, Any]:
    """The network with its published weights."""
    files = [
        torch.load(Path(weights) / name, map_location="cpu", weights_only=True)
        for name in ("alexnet-owt-7be5be79.pth", "alex.pth")
    ]
    return {"network": Network(*files).to(device).eval(), "device": device}


@torch.inference_mode()
def score(state: dict[str, Any], clip: Any) -> dict[str, Any]:
    """The distance of each frame, and their mean."""
    if min(clip.height, clip.width) < LEAST:
        raise job_frames.ClipError(f"LPIPS takes frames of {LEAST} x {LEAST} pixels and more")
    distances: list[float] = []
    for start in range(0, clip.frames, BATCH):
        numbers = list(range(start, min(start + BATCH, clip.frames)))
        pair = [_tensor(job_frames.read(each, numbers), state["device"]) for each in (clip, clip.reference)]
        distances += state["network"](*pair).tolist()
    return {"lpips": float(np.mean(distances)), "lpips_by_frame": distances}


def _tensor(frames: list[np.ndarray], device: str) -> torch.Tensor:
    pixels = torch.from_numpy(np.stack(frames)).to(device).permute(0, 3, 1, 2)
    return pixels.float() / 127.5 - 1
