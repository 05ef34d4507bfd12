"""Attention and rotation in float64 with scores of size queries x keys: the truth for every fast form."""

from __future__ import annotations

import torch
from torch import Tensor

TINY = 1e-30
"""Stands for the size of an exact row of zeros, which only zeros agree with."""


def distance(out: Tensor, exact: Tensor) -> tuple[Tensor, Tensor]:
    """Relative error by norms, of the whole and of the worst row; NaN where anything is not finite.

    Args:
        out: [..., width], any dtype. exact: float64 of that shape.

    Returns:
        Two numbers on the device of `out`, for which nothing waits.
    """
    apart, size = (out.double() - exact).norm(dim=-1), exact.norm(dim=-1).clamp_min(TINY)
    whole, row = apart.norm() / size.norm(), (apart / size).max()
    # A sum keeps NaN where a later maximum may lose it, and makes it of infinity.
    nothing = 0 * (whole + row)
    return whole + nothing, row + nothing


def attention(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
    """softmax(q k^T scale) v for every head.

    Args:
        q: [B, Lq, H, d]. k: [B, Lk, H, d]. v: [B, Lk, H, e].
        scale: 1/sqrt(d) unless given.

    Returns:
        float64 [B, Lq, H, e].
    """
    q, k, v = q.double(), k.double(), v.double()
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) * (q.shape[-1] ** -0.5 if scale is None else scale)
    return torch.einsum("bhqk,bkhe->bqhe", scores.softmax(-1), v)


def latent_attention(
    q_nope: Tensor, q_rope: Tensor, c: Tensor, r: Tensor, k_up: Tensor, v_up: Tensor, scale: float | None = None
) -> Tensor:
    """VideoMLA's attention in its expanded form: keys and values rebuilt from the content latent (paper App. D.4).

    Args:
        q_nope: [B, Lq, H, d_nope]. q_rope: [B, Lq, H, d_rope], rotated.
        c: content latents [B, Lk, d_c]. r: head-shared positional keys [B, Lk, d_rope], rotated.
        k_up: [H, d_nope, d_c]. v_up: [H, d_v, d_c].
        scale: 1/sqrt(d_nope + d_rope) unless given.

    Returns:
        float64 [B, Lq, H, d_v].
    """
    c, r = c.double(), r.double()
    k_nope = torch.einsum("bkc,hdc->bkhd", c, k_up.double())
    v = torch.einsum("bkc,hec->bkhe", c, v_up.double())
    k_rope = r[:, :, None, :].expand(-1, -1, q_rope.shape[2], -1)
    q = torch.cat([q_nope.double(), q_rope.double()], -1)
    return attention(q, torch.cat([k_nope, k_rope], -1), v, scale)


def absorbed_attention(q_latent: Tensor, q_rope: Tensor, c: Tensor, r: Tensor, scale: float) -> Tensor:
    """The absorbed form's core: attention of every head on the latents themselves (paper App. E).

    Args:
        q_latent: [B, Lq, H, d_c], the content query already multiplied by its head's key map.
        q_rope: [B, Lq, H, d_rope], rotated. c: [B, Lk, d_c]. r: [B, Lk, d_rope], rotated.
        scale: 1/sqrt(d_nope + d_rope) of the expanded form; it cannot be read off these shapes.

    Returns:
        float64 [B, Lq, H, d_c], still to be multiplied by each head's value map.
    """
    heads = q_latent.shape[2]
    keys = torch.cat([c, r], -1)[:, :, None, :].expand(-1, -1, heads, -1)
    values = c[:, :, None, :].expand(-1, -1, heads, -1)
    return attention(torch.cat([q_latent, q_rope], -1), keys, values, scale)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Rotate interleaved channel pairs (x[2i], x[2i+1]) by `angles` (Wan2.1 `rope_apply`).

    Args:
        x: [B, L, ..., 2 p]. angles: [L, p] in radians.

    Returns:
        float64, the shape of `x`.
    """
    pairs = x.double().reshape(*x.shape[:-1], -1, 2)
    shape = (1, angles.shape[0], *([1] * (x.dim() - 3)), angles.shape[1])
    cos, sin = angles.double().cos().reshape(shape), angles.double().sin().reshape(shape)
    even, odd = pairs[..., 0], pairs[..., 1]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)
