"""The two forms of latent attention in plain PyTorch: any device, any width, differentiable, no queries x keys."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.contracts import counted_as
from videomla_models.ops.products import linear
from videomla_models.ops.step import step
from videomla_models.spec.cost import attention_flops


def absorbed(query: Tensor, c: Tensor, r: Tensor, scale: float) -> Tensor:
    """Attention of every head on the latents: one key and value, (query, head) pairs as rows (paper App. E).

    Args:
        query: [B, Lq, H, d_c + d_rope], absorbed and rotated. c: [B, S, d_c]. r: rotated, [B, S, d_rope].
        scale: 1/sqrt(d_nope + d_rope) of the expanded form.

    Returns:
        [B, Lq, H, d_c], a view of a wider tensor.
    """
    batch, queries, heads, width = query.shape
    keys = torch.cat([c, r], -1)[:, None]
    rows = query.reshape(batch, 1, queries * heads, width)
    if query.is_meta:
        out = F.scaled_dot_product_attention(rows, keys, c[:, None], scale=scale)
        return out.view(batch, queries, heads, -1)
    # A value narrower than its key leaves the fused path, so the rope channels stay in and are cut off after.
    with counted_as("latent_attention", attention_flops(batch, queries, keys.shape[2], heads, width, c.shape[2])):
        out = F.scaled_dot_product_attention(rows, keys, keys, scale=scale)
    return out.view(batch, queries, heads, width)[..., : c.shape[2]]


@step("expansion")
def expand(c: Tensor, r: Tensor, k_up: Tensor, v_up: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values of every head from the latents (paper App. D.4).

    Args:
        c: [B, S, d_c]. r: rotated, [B, S, d_rope]. k_up: [H, d_nope, d_c]. v_up: [H, d_v, d_c].

    Returns:
        k [B, H, S, d_nope + d_rope] and v [B, H, S, d_v], views with the heads inside the tokens.
    """
    heads = k_up.shape[0]
    split = (*c.shape[:2], heads, -1)
    content = linear(c, k_up.flatten(0, 1)).view(split)
    k = torch.cat([content, r[:, :, None, :].expand(-1, -1, heads, -1)], -1)
    return k.transpose(1, 2), linear(c, v_up.flatten(0, 1)).view(split).transpose(1, 2)
