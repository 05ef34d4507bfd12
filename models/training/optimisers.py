"""AdamW and Muon as the stages use them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

PAPER_BETAS = (0.0, 0.999)
"""Of AdamW in all stages (VideoMLA paper, training details)."""

Optimisers = list[tuple[torch.optim.Optimizer, float]]


def adamw(network: nn.Module, rate: float, betas: tuple[float, float] = PAPER_BETAS, fused: bool = False) -> Optimisers:
    """AdamW without weight decay on every parameter; `fused` in one call, which rounds otherwise."""
    return [(_adamw(network.parameters(), rate, betas, fused), rate)]


def _adamw(parameters: Iterable[Tensor], rate: float, betas: tuple[float, float], fused: bool) -> torch.optim.AdamW:
    return torch.optim.AdamW(parameters, lr=rate, betas=betas, weight_decay=0.0, fused=fused or None)


def muon(
    network: nn.Module,
    matrix_rate: float,
    other_rate: float,
    precision: torch.dtype | None = None,
    fused: bool = False,
) -> Optimisers:
    """Muon on the matrices of the blocks, AdamW on the rest. Not for sharded networks: it needs whole matrices.

    Args:
        precision: of the products that orthogonalise, that of the gradients unless given. fused: as `adamw` takes it.
    """
    inner = [n.startswith("blocks.") and p.dim() == 2 for n, p in network.named_parameters()]
    parameters = list(network.parameters())
    matrices = [p for p, matrix in zip(parameters, inner, strict=True) if matrix]
    others = [p for p, matrix in zip(parameters, inner, strict=True) if not matrix]
    return [
        (Muon(matrices, lr=matrix_rate, precision=precision), matrix_rate),
        (_adamw(others, other_rate, (0.9, 0.99), fused), other_rate),
    ]


def initialise(network: nn.Module) -> None:
    """Open gates and a silent output: every layer counts from the first step, and the prediction starts at 0."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("modulation") or name.startswith("head.head") or name.startswith("time_projection.1"):
                parameter.zero_()
            if name.startswith("blocks.") and name.endswith(".modulation"):
                parameter[:, (2, 5)] = 1.0


COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic Newton-Schulz iteration (Jordan et al. 2024)."""


def orthogonalise(gradients: Tensor, iterations: int = 5) -> Tensor:
    """Bring the singular values of [n, rows, columns] near 1 by Newton-Schulz iterations."""
    a, b, c = COEFFICIENTS
    tall = gradients.shape[1] > gradients.shape[2]
    x = gradients.transpose(1, 2) if tall else gradients
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
    for _ in range(iterations):
        gram = x @ x.transpose(1, 2)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.transpose(1, 2) if tall else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised, scaled by 0.2 sqrt(longer side) so that AdamW's learning rates fit.

    Args:
        matrices: two-dimensional parameters. lr: learning rate. momentum: of the gradient's running average.
        precision: of the products that orthogonalise, that of the gradients unless given.
    """

    def __init__(
        self, matrices: Iterable[Tensor], lr: float, momentum: float = 0.95, precision: torch.dtype | None = None
    ) -> None:
        super().__init__(matrices, {"lr": lr, "momentum": momentum})
        self.precision = precision

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every matrix that has a gradient."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = {}
            for matrix in group["params"]:
                if matrix.grad is not None:
                    by_shape.setdefault(matrix.shape, []).append(matrix)
            for shape, matrices in by_shape.items():
                self._update(matrices, shape, group["lr"], group["momentum"])

    def _update(self, matrices: list[Tensor], shape: torch.Size, lr: float, momentum: float) -> None:
        gradients = [m.grad for m in matrices if m.grad is not None]
        averages = [self.state[m].setdefault("average", torch.zeros_like(m)) for m in matrices]
        torch._foreach_lerp_(averages, gradients, 1 - momentum)
        ahead = torch._foreach_lerp(gradients, averages, momentum)
        stacked = torch.stack(list(ahead))
        update = orthogonalise(stacked.to(self.precision or stacked.dtype)).to(stacked.dtype)
        size = 0.2 * max(shape) ** 0.5
        torch._foreach_add_(matrices, list(update.unbind()), alpha=-lr * size)
