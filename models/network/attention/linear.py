"""Causal linear attention with a constant state: the complexity comparison's third arm (paper Table 1)."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from videomla_models.network.attention.context import Context
from videomla_models.network.attention.dense import HeadAttention
from videomla_models.ops.rope import Rotation, rotate

State = tuple[Tensor, Tensor]
"""Sum of key-value products [B, H, d, d] and of keys [B, H, d], over all finished chunks."""


class RecurrentContext(Context, Protocol):
    """A context that also keeps a state for every layer."""

    rotation: Rotation
    """Rotation of the tokens of this pass at their absolute positions."""

    def state(self, layer: int) -> State | None:
        """The layer's state, None before the first finished chunk."""
        ...

    def commit(self, layer: int, state: State) -> None:
        """Keep `state` if this is a clean pass; denoising passes leave no trace."""
        ...


class LinearAttention(HeadAttention):
    """phi(q) (S + phi(k) v) / phi(q) (z + phi(k)), phi = elu + 1 (Katharopoulos et al. 2020, eq. 5 and 7).

    A chunk sees all finished chunks through the state and itself in both directions. Rotation acts on the numerator
    alone (RoFormer, eq. 19).
    """

    def forward(self, x: Tensor, layer: int, context: RecurrentContext) -> Tensor:
        """Attend from `x` [B, L, dim] to the state and to `x` itself."""
        heads = (*x.shape[:2], self.heads, -1)
        query = F.elu(self.norm_q(self.q(x)).view(heads)) + 1
        key = F.elu(self.norm_k(self.k(x)).view(heads)) + 1
        products = torch.einsum("blhd,blhe->bhde", rotate(key, context.rotation), self.v(x).view(heads))
        keys = key.sum(1)
        before = context.state(layer)
        if before is not None:
            products, keys = products + before[0], keys + before[1]
        context.commit(layer, (products, keys))
        above = torch.einsum("blhd,bhde->blhe", rotate(query, context.rotation), products)
        below = torch.einsum("blhd,bhd->blh", query, keys)
        out: Tensor = self.o((above / below.unsqueeze(-1)).flatten(2))
        return out
