"""Optimisers of a network by name: AdamW as in the paper, or Muon for matrices beside AdamW for the rest."""

from __future__ import annotations

import torch
from torch import nn

from models.training.muon import Muon

PAPER_BETAS = (0.0, 0.999)
"""Of AdamW in all stages (VideoMLA paper, training details)."""

Optimisers = list[tuple[torch.optim.Optimizer, float]]


def adamw(network: nn.Module, rate: float, betas: tuple[float, float] = PAPER_BETAS) -> Optimisers:
    """AdamW without weight decay on every parameter."""
    return [(torch.optim.AdamW(network.parameters(), lr=rate, betas=betas, weight_decay=0.0), rate)]


def muon(network: nn.Module, matrix_rate: float, other_rate: float) -> Optimisers:
    """Muon on the matrices of the blocks, AdamW on the rest. Not for sharded networks: it needs whole matrices."""
    inner = [n.startswith("blocks.") and p.dim() == 2 for n, p in network.named_parameters()]
    parameters = list(network.parameters())
    matrices = [p for p, matrix in zip(parameters, inner, strict=True) if matrix]
    others = [p for p, matrix in zip(parameters, inner, strict=True) if not matrix]
    return [
        (Muon(matrices, lr=matrix_rate), matrix_rate),
        (torch.optim.AdamW(others, lr=other_rate, betas=(0.9, 0.99), weight_decay=0.0), other_rate),
    ]


def initialise(network: nn.Module) -> None:
    """Open gates and a silent output: every layer counts from the first step, and the prediction starts at 0."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("modulation") or name.startswith("head.head") or name.startswith("time_projection.1"):
                parameter.zero_()
            if name.startswith("blocks.") and name.endswith(".modulation"):
                parameter[:, (2, 5)] = 1.0
