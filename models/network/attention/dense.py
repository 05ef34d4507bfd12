"""Dense attention: keys and values of every head, Wan2.1's self- and cross-attention layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from videomla_models.network.attention.context import AttendWindow, Context, FilledContext
from videomla_models.ops.inplace import constant, reuse
from videomla_models.ops.products import Linear
from videomla_models.ops.sdpa import attend_with_preferred
from videomla_models.ops.step import step

TextKeys = tuple[Tensor, Tensor]
"""Keys and values of the prompt for one layer, each [batch, text tokens, heads, head dim]."""


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last axis, in float32 or wider (Wan2.1 `WanRMSNorm`)."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    @step("norms")
    def forward(self, x: Tensor) -> Tensor:
        """[..., dim], which the caller gives up, to [..., dim]."""
        narrow = x.dtype in (torch.bfloat16, torch.float16)
        wide = x.float() if narrow else x
        # A norm reads a row once; a mean of squares would write the squares first.
        norm = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        mean_square = (norm * norm).div_(constant(x.shape[-1], wide))
        normed = torch.mul(wide, mean_square.add_(constant(self.eps, wide)).rsqrt_(), out=reuse(wide))
        return (normed.to(x.dtype) if narrow else normed).mul_(self.weight)


def scaled_dot_product(query: Tensor, key: Tensor, value: Tensor, strict: bool = False) -> Tensor:
    """softmax(q k^T / sqrt(d)) v with heads on the third axis: [B, L, H, d] to [B, L, H * d_v].

    With `strict` by the preferred backend or by none, which raises `NotAvailable`.
    """
    q, k, v = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
    return attend_with_preferred(q, k, v, q.shape[-1] ** -0.5, strict).transpose(1, 2).flatten(2)


def by_preferred_alone(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """`scaled_dot_product`, strict."""
    return scaled_dot_product(query, key, value, strict=True)


def insist(network: nn.Module) -> None:
    """Have every dense attention of `network`, to the prompt as well, run by the preferred backend or not at all."""
    for module in network.modules():
        if isinstance(module, HeadAttention):
            module.attend_window = by_preferred_alone


class HeadAttention(nn.Module):
    """What Wan2.1's attention has: a key and a value for every head, RMSNorm of both over the full width."""

    def __init__(self, dim: int, heads: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (Linear(dim, dim) for _ in range(4))
        self.norm_q, self.norm_k = RMSNorm(dim, eps), RMSNorm(dim, eps)
        self.attend_window: AttendWindow = scaled_dot_product

    def keys(self, x: Tensor) -> TextKeys:
        """Keys and values of `x` [B, L, dim]: each [B, L, heads, head dim]."""
        heads, tokens = (*x.shape[:2], self.heads, -1), x.flatten(0, 1)
        return self.norm_k(self.k(tokens)).view(heads), self.v(tokens).view(heads)


class DenseAttention(HeadAttention):
    """Wan2.1's self-attention."""

    def forward(self, x: Tensor, layer: int, context: Context) -> Tensor:
        """Attend from `x` [B, L, dim] to what `context` shows it."""
        query = self.norm_q(self.q(x.flatten(0, 1))).view(*x.shape[:2], self.heads, -1)
        out: Tensor = self.o(context.attend(layer, query, *self.keys(x), self.attend_window))
        return out

    def fill(self, x: Tensor, layer: int, context: FilledContext) -> None:
        """Give `context` the entries of `x` alone."""
        context.fill(layer, *self.keys(x))


class CrossAttention(HeadAttention):
    """Wan2.1's attention to the prompt, whose keys and values are made once per prompt."""

    def forward(self, x: Tensor, text: TextKeys) -> Tensor:
        """Attend from `x` [B, L, dim] to the prompt."""
        query = self.norm_q(self.q(x)).view(*x.shape[:2], self.heads, -1)
        out: Tensor = self.o(self.attend_window(query, *text))
        return out
