"""VideoMLA's attention: one cached content latent and one head-shared rope key per token (arXiv 2605.30351, section 3).

Two forms of the same function: `expanded` rebuilds keys and values of every head, `absorbed` attends on the latents.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.attention.context import Context
from models.attention.dense import RMSNorm, scaled_dot_product
from models.config import LatentSizes

Form = Literal["expanded", "absorbed"]


class LatentAttention(nn.Module):
    """Multi-head latent attention with a decoupled rope key. No biases but `o`'s; values keep the full head width.

    Scores are (q_nope . k_nope + q_rope . k_rope) / sqrt(d_nope + d_rope). What is cached is the latent after
    `kv_norm`, and the rope key before rotation.
    """

    def __init__(self, dim: int, heads: int, eps: float, sizes: LatentSizes) -> None:
        super().__init__()
        self.heads, self.sizes = heads, sizes
        self.form: Form = "expanded"
        self.q_down = nn.Linear(dim, sizes.d_q, bias=False)
        self.q_norm = RMSNorm(sizes.d_q, eps)
        self.q_up = nn.Linear(sizes.d_q, heads * sizes.d_nope, bias=False)
        self.q_rope = nn.Linear(sizes.d_q, heads * sizes.d_rope, bias=False)
        self.kv_down = nn.Linear(dim, sizes.d_c, bias=False)
        self.kv_norm = RMSNorm(sizes.d_c, eps)
        self.k_up = nn.Linear(sizes.d_c, heads * sizes.d_nope, bias=False)
        self.v_up = nn.Linear(sizes.d_c, dim, bias=False)
        self.k_rope = nn.Linear(dim, sizes.d_rope, bias=False)
        self.o = nn.Linear(dim, dim)
        self._absorbed: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor, layer: int, context: Context) -> Tensor:
        """Attend from `x` [B, L, dim] to what `context` shows it, in the form that is set."""
        latent = self.kv_norm(self.kv_down(x))
        q_latent = self.q_norm(self.q_down(x))
        heads = (*x.shape[:2], self.heads, -1)
        q_rope = self.q_rope(q_latent).view(heads)
        if self.form == "expanded":
            query = torch.cat([self.q_up(q_latent).view(heads), q_rope], -1)
            expanded: Tensor = self.o(context.attend(layer, query, self.k_rope(x), latent, self.expand))
            return expanded
        into_latent, out_of_latent = self.absorb()
        query = torch.cat([F.linear(q_latent, into_latent).view(heads), q_rope], -1)
        mixed = context.attend(layer, query, self.k_rope(x), latent, self.on_latents)
        return F.linear(mixed, out_of_latent, self.o.bias)

    def expand(self, query: Tensor, key: Tensor, latent: Tensor) -> Tensor:
        """Rebuild keys and values of every head, then attend (paper App. D.4).

        Args:
            query: [B, Lq, H, d_nope + d_rope]. key: rotated, [B, Lk, d_rope]. latent: [B, Lk, d_c].

        Returns:
            [B, Lq, dim].
        """
        heads = (*latent.shape[:2], self.heads, -1)
        content = self.k_up(latent).view(heads)
        shared = key[:, :, None, :].expand(-1, -1, self.heads, -1)
        return scaled_dot_product(query, torch.cat([content, shared], -1), self.v_up(latent).view(heads))

    def on_latents(self, query: Tensor, key: Tensor, latent: Tensor) -> Tensor:
        """Attend with one key and value for all heads, the latent itself (paper App. E).

        Args:
            query: [B, Lq, H, d_c + d_rope]. key: rotated, [B, Lk, d_rope]. latent: [B, Lk, d_c].

        Returns:
            [B, Lq, H * d_c].
        """
        sizes = self.sizes
        keys = torch.cat([latent, key], -1)[:, None]
        # A value narrower than its key leaves the fused path, so the rope channels stay in and are cut off after.
        batch, length, heads, width = query.shape
        rows = query.reshape(batch, 1, length * heads, width)
        out = F.scaled_dot_product_attention(rows, keys, keys, scale=(sizes.d_nope + sizes.d_rope) ** -0.5)
        return out.view(batch, length, heads, width)[..., : sizes.d_c].flatten(2)

    @torch.no_grad()
    def absorb(self) -> tuple[Tensor, Tensor]:
        """A [H * d_c, d_q] = W_K_up,h^T W_Q_up,h and B [dim, H * d_c] = W_O,h W_V_up,h by head, made once."""
        if self._absorbed is None:
            k_up, q_up, v_up = (
                layer.weight.view(self.heads, -1, layer.in_features) for layer in (self.k_up, self.q_up, self.v_up)
            )
            o = self.o.weight.view(self.o.out_features, self.heads, -1)
            into = torch.einsum("hnc,hnq->hcq", k_up, q_up).flatten(0, 1)
            out_of = torch.einsum("ohv,hvc->ohc", o, v_up).flatten(1)
            self._absorbed = (into.contiguous(), out_of.contiguous())
        return self._absorbed

    def use(self, form: Form) -> None:
        """Choose the form; the absorbed maps are made anew from the weights as they are now."""
        self._absorbed = None
        self.form = form
