"""Causal linear attention with a constant state: the complexity comparison's third arm (paper Table 1)."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from videomla_models.network.attention.context import Context
from videomla_models.network.attention.dense import HeadAttention

State = tuple[Tensor, Tensor]
"""Sums over tokens of key-value products [..., H, d, d], keys rotated, and of keys [..., H, d]."""


class RecurrentContext(Context, Protocol):
    """A context that also keeps a state for every layer."""

    def recur(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention of each chunk to all finished ones, through the layer's state, and to itself in both directions.

        A clean pass adds its chunk to the state; denoising passes leave no trace.

        Args:
            query, key: after phi, unrotated, [B, L, H, d]. value: [B, L, H, d].

        Returns:
            [B, L, H, d].
        """
        ...


def summed(key: Tensor, turned: Tensor, value: Tensor) -> State:
    """The state of a chunk alone, from its keys, the same rotated, and its values, [..., L, H, d] each."""
    return torch.einsum("...lhd,...lhe->...hde", turned, value), key.sum(-3)


def read(query: Tensor, turned: Tensor, state: State) -> Tensor:
    """Attention of queries [..., L, H, d], given rotated as well, to all that is in `state`."""
    above = torch.einsum("...lhd,...hde->...lhe", turned, state[0])
    below = torch.einsum("...lhd,...hd->...lh", query, state[1])
    return above / below.unsqueeze(-1)


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
        out: Tensor = self.o(context.recur(layer, query, key, self.v(x).view(heads)).flatten(2))
        return out
