"""VideoMLA's attention: one cached content latent and one head-shared rope key per token (arXiv 2605.30351, section 3).

Two forms of the same function: `expanded` rebuilds keys and values of every head, `absorbed` attends on the latents;
`reference` is the float64 one that both are held against.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from videomla_models.network.attention.context import AttendWindow, Context, FilledContext
from videomla_models.network.attention.dense import RMSNorm
from videomla_models.ops import reference
from videomla_models.ops.choice import Form, Name
from videomla_models.ops.encoded import EncodedLatents, numbers
from videomla_models.ops.latent import Attention
from videomla_models.ops.products import Linear, linear
from videomla_models.spec.config import LatentSizes


class LatentAttention(nn.Module):
    """Multi-head latent attention with a decoupled rope key. No biases but `o`'s; values keep the full head width.

    Scores are (q_nope . k_nope + q_rope . k_rope) / sqrt(d_nope + d_rope). What is cached is the latent after
    `kv_norm`, and the rope key before rotation.
    """

    def __init__(self, dim: int, heads: int, eps: float, sizes: LatentSizes) -> None:
        super().__init__()
        self.heads, self.sizes = heads, sizes
        self.runner = Attention(Form("expanded"))
        self.q_down = Linear(dim, sizes.d_q, bias=False)
        self.q_norm = RMSNorm(sizes.d_q, eps)
        self.q_up = Linear(sizes.d_q, heads * sizes.d_nope, bias=False)
        self.q_rope = Linear(sizes.d_q, heads * sizes.d_rope, bias=False)
        self.kv_down = Linear(dim, sizes.d_c, bias=False)
        self.kv_norm = RMSNorm(sizes.d_c, eps)
        self.k_up = Linear(sizes.d_c, heads * sizes.d_nope, bias=False)
        self.v_up = Linear(sizes.d_c, dim, bias=False)
        self.k_rope = Linear(dim, sizes.d_rope, bias=False)
        self.o = Linear(dim, dim)
        self._absorbed: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor, layer: int, context: Context) -> Tensor:
        """Attend from `x` [B, L, dim] to what `context` shows it, in the form that is set."""
        heads, tokens = (*x.shape[:2], self.heads, -1), x.flatten(0, 1)
        q_latent = self.q_norm(self.q_down(tokens))
        q_rope = self.q_rope(q_latent).view(heads)
        positional, latent = self._entries(x)
        if self.runner.form.name != "absorbed":
            query = torch.cat([self.q_up(q_latent).view(heads), q_rope], -1)
            expanded: Tensor = self.o(context.attend(layer, query, positional, latent, self.attend_window))
            return expanded
        into_latent, out_of_latent = self.absorb()
        query = torch.cat([linear(q_latent, into_latent).view(heads), q_rope], -1)
        mixed = context.attend(layer, query, positional, latent, self.attend_window)
        return linear(mixed, out_of_latent, self.o.bias)

    def fill(self, x: Tensor, layer: int, context: FilledContext) -> None:
        """Give `context` the entries of `x` alone."""
        context.fill(layer, *self._entries(x))

    def _entries(self, x: Tensor) -> tuple[Tensor, Tensor]:
        tokens = x.flatten(0, 1)
        latent = self.kv_norm(self.kv_down(tokens)).view(*x.shape[:2], -1)
        return self.k_rope(tokens).view(*x.shape[:2], -1), latent

    @property
    def attend_window(self) -> AttendWindow:
        """The attention of the form that is set."""
        forms = {"absorbed": self.on_latents, "expanded": self.expand}
        return forms.get(self.runner.form.name, self.by_reference)

    def expand(self, query: Tensor, key: Tensor, latent: Tensor | EncodedLatents) -> Tensor:
        """Rebuild keys and values of every head, then attend (paper App. D.4).

        Args:
            query: [B, Lq, H, d_nope + d_rope]. key: rotated, [B, Lk, d_rope]. latent: [B, Lk, d_c].

        Returns:
            [B, Lq, dim].
        """
        return self.runner.expanded(query, latent, key, self._map(self.k_up), self._map(self.v_up)).flatten(2)

    def by_reference(self, query: Tensor, key: Tensor, latent: Tensor | EncodedLatents) -> Tensor:
        """As `expand`, in float64 and with scores of size queries x keys."""
        latent = numbers(latent)
        nope, rope = query[..., : self.sizes.d_nope], query[..., self.sizes.d_nope :]
        out = reference.latent_attention(nope, rope, latent, key, self._map(self.k_up), self._map(self.v_up))
        return out.flatten(2).to(query.dtype)

    def on_latents(self, query: Tensor, key: Tensor, latent: Tensor | EncodedLatents) -> Tensor:
        """Attend with one key and value for all heads, the latent itself (paper App. E).

        Args:
            query: [B, Lq, H, d_c + d_rope]. key: rotated, [B, Lk, d_rope]. latent: [B, Lk, d_c].

        Returns:
            [B, Lq, H * d_c].
        """
        scale = (self.sizes.d_nope + self.sizes.d_rope) ** -0.5
        return self.runner.absorbed(query, latent, key, scale).flatten(2)

    def into_latent(self, queries: Tensor) -> Tensor:
        """What latents and rope keys are multiplied with, [..., H, d_c + d_rope], of queries as the set form has them.

        Args:
            queries: [..., H, d_nope + d_rope], or absorbed already.
        """
        if self.runner.form.name == "absorbed":
            return queries
        nope, rope = queries[..., : self.sizes.d_nope], queries[..., self.sizes.d_nope :]
        return torch.cat([torch.einsum("...hn,hnc->...hc", nope, self._map(self.k_up)), rope], -1)

    def _map(self, layer: nn.Linear) -> Tensor:
        return layer.weight.view(self.heads, -1, layer.in_features)

    def absorb(self) -> tuple[Tensor, Tensor]:
        """A [H * d_c, d_q] = W_K_up,h^T W_Q_up,h and B [dim, H * d_c] = W_O,h W_V_up,h by head.

        Made once of weights that are frozen. Of weights that may be trained they are made anew at each call, in the
        caller's gradient mode: gradients reach the four maps, and no pass sees those of an earlier update.
        """
        if any(layer.weight.requires_grad for layer in (self.q_up, self.k_up, self.v_up, self.o)):
            self._absorbed = None
            return self._absorbed_maps()
        if self._absorbed is None:
            self._absorbed = self._absorbed_maps()
        return self._absorbed

    def _absorbed_maps(self) -> tuple[Tensor, Tensor]:
        k_up, q_up, v_up = (self._map(layer) for layer in (self.k_up, self.q_up, self.v_up))
        o = self.o.weight.view(self.o.out_features, self.heads, -1)
        into = torch.einsum("hnc,hnq->hcq", k_up, q_up).flatten(0, 1)
        out_of = torch.einsum("ohv,hvc->ohc", o, v_up).flatten(1)
        return into.contiguous(), out_of.contiguous()

    def use(self, form: Name | Attention) -> None:
        """Choose the form, or share a network's runner; the absorbed maps are made anew from the present weights."""
        self._absorbed = None
        self.runner = form if isinstance(form, Attention) else Attention(Form(form))
