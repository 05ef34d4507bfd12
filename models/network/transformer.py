"""The causal, chunk-wise video transformer: Wan2.1's block with a choice of self-attention.

State-dict names are those of the original Wan2.1 checkpoint. Latents are [batch, frames, channels, height, width];
tokens run frame by frame, row by row. One timestep per frame, or one for all; no mask anywhere: what a pass may see is
the context's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.errors import OptionError
from videomla_models.network.attention.context import Context, FilledContext
from videomla_models.network.attention.dense import CrossAttention, DenseAttention, TextKeys
from videomla_models.network.attention.latent import LatentAttention
from videomla_models.network.attention.linear import LinearAttention
from videomla_models.ops.choice import Name
from videomla_models.ops.inplace import constant, reuse
from videomla_models.ops.latent import Attention
from videomla_models.ops.products import FeedForward, Linear, linear, watched
from videomla_models.ops.rope import RotaryTable
from videomla_models.ops.step import step
from videomla_models.spec.config import TransformerConfig

Modulation = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
"""Shift, factor and gate of a block's self-attention, and of its feed-forward layer."""


def timestep_embedding(timesteps: Tensor, width: int) -> Tensor:
    """Cosines, then sines, of t / 10000^(j / half) (Wan2.1 `sinusoidal_embedding_1d`): [...] to float64.

    Takes [...], gives [..., width].
    """
    half = width // 2
    scale = torch.arange(half, dtype=torch.float64, device=timesteps.device)
    angles = timesteps.double().unsqueeze(-1) * torch.pow(10000.0, -scale / half)
    return torch.cat([angles.cos(), angles.sin()], -1)


def _scale_and_add(base: Tensor, x: Tensor, factor: Tensor, reused: Tensor) -> Tensor:
    """base + x * factor, [B, L, dim].

    Args:
        base, x: [B, L, dim], or, for one of them, [B, F, dim] or [1, 1, dim] as `factor`: a row for each frame, or one.
        reused: which of them the caller gives up.
    """
    frames = factor.shape[1]
    if frames == 1:
        return torch.addcmul(base, x, factor, out=reuse(reused, base, x, factor))
    base, x, reused = (t.view(t.shape[0], frames, -1, t.shape[-1]) for t in (base, x, reused))
    return torch.addcmul(base, x, factor.unsqueeze(2), out=reuse(reused, base, x, factor)).flatten(1, 2)


class InplaceGELU(nn.Module):
    """GELU by the tanh formula, of a tensor that nothing else holds: it is overwritten where no gradient is asked for.

    A feed-forward layer's hidden tensor is the largest of a pass; a second one costs as much time as the function. On a
    CPU PyTorch's own takes far longer than a sigmoid, and x (1 + tanh u) / 2 is x sigmoid(2 u).
    """

    NUMBERS = 3 << 16
    """Numbers at a time: with the scratch beside them 1.5 MB of float32, which a core's second cache holds."""

    @step("activation")
    def forward(self, x: Tensor) -> Tensor:
        """[..., width] to [..., width]."""
        by_sigmoid = x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)
        compiling = torch.compiler.is_compiling()
        if torch.is_grad_enabled() or (compiling and not by_sigmoid):
            return F.gelu(x, approximate="tanh")
        if not by_sigmoid:
            out: Tensor = torch.ops.aten.gelu_(x, approximate="tanh")
            return out
        linear, cubic = constant(math.sqrt(8 / math.pi), x), 0.044715 * math.sqrt(8 / math.pi)
        if compiling:  # the same steps, whose memory is the compiler's affair
            return x * torch.sigmoid(torch.addcmul(linear, x, x, value=cubic) * x)
        tokens = x.flatten(0, -2)
        some = max(1, min(len(tokens), self.NUMBERS // x.shape[-1]))
        scratch = x.new_empty(some, x.shape[-1])
        for rows in torch.split(tokens, some):
            twice_u = torch.addcmul(linear, rows, rows, value=cubic, out=scratch[: len(rows)])
            rows.mul_(twice_u.mul_(rows).sigmoid_())
        return x


class Block(nn.Module):
    """Self-attention, attention to the prompt and feed-forward, the first and last modulated by the timestep."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        dim, heads, eps = config.dim, config.heads, config.eps
        self.eps = eps
        self.self_attn: DenseAttention | LatentAttention | LinearAttention
        if config.attention == "latent":
            self.self_attn = LatentAttention(dim, heads, eps, config.latent)
        elif config.attention == "linear":
            self.self_attn = LinearAttention(dim, heads, eps)
        else:
            self.self_attn = DenseAttention(dim, heads, eps)
        self.norm3 = nn.LayerNorm(dim, eps)
        self.cross_attn = CrossAttention(dim, heads, eps)
        self.ffn = FeedForward(Linear(dim, config.ffn), InplaceGELU(), Linear(config.ffn, dim))
        self.modulation = nn.Parameter(torch.randn(1, 6, dim) / dim**0.5)

    @step("modulation")
    def modulation_at(self, steps: Tensor) -> Modulation:
        """Shift, factor and gate of self-attention, then of the feed-forward layer, each [B, F, dim].

        Takes projected timesteps [B, F, 6, dim]; 1 may stand for B, F or both.
        """
        shift, scale, gate, shift2, scale2, gate2 = (self.modulation.unsqueeze(1) + steps).unbind(2)
        one = constant(1, scale)
        return shift, one + scale, gate, shift2, one + scale2, gate2

    @step("modulation")
    def _modulated(self, x: Tensor, shift: Tensor, factor: Tensor) -> Tensor:
        if factor.numel() == x.shape[-1]:
            return F.layer_norm(x, x.shape[-1:], factor.flatten(), shift.flatten(), self.eps)
        normed = F.layer_norm(x, x.shape[-1:], eps=self.eps)
        return _scale_and_add(shift, normed, factor, reused=normed)

    @staticmethod
    @step("modulation")
    def _gated(x: Tensor, update: Tensor, gate: Tensor) -> Tensor:
        return _scale_and_add(x, update, gate, reused=x)

    def forward(self, x: Tensor, modulation: Modulation, text: TextKeys, layer: int, context: Context) -> Tensor:
        """One block.

        Args:
            x: tokens [B, F * tokens, dim], given up to the block.
            modulation: from `modulation_at`.
            text: keys and values of the prompt. layer: this block's index. context: what self-attention sees.
        """
        shift, factor, gate, shift2, factor2, gate2 = modulation
        x = self._gated(x, self.self_attn(self._modulated(x, shift, factor), layer, context), gate)
        prompted = self.cross_attn(self.norm3(x), text)
        x = torch.add(x, prompted, out=reuse(x, prompted))
        return self._gated(x, self.ffn(self._modulated(x, shift2, factor2)), gate2)

    def fill(self, x: Tensor, modulation: Modulation, layer: int, context: FilledContext) -> None:
        """Of `forward` what leaves entries in `context`."""
        assert not isinstance(self.self_attn, LinearAttention)
        self.self_attn.fill(self._modulated(x, *modulation[:2]), layer, context)


class Head(nn.Module):
    """From tokens to the predicted flow; modulated by the timestep embedding before its projection."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.eps = config.eps
        self.head = Linear(config.dim, math.prod(config.patch) * config.in_channels)
        self.modulation = nn.Parameter(torch.randn(1, 2, config.dim) / config.dim**0.5)

    def modulation_at(self, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """Shift and factor, each [B, F, dim], from embeddings of the timesteps [B, F, dim]; 1 may stand for both."""
        shift, scale = (self.modulation.unsqueeze(1) + embedding.unsqueeze(2)).unbind(2)
        return shift, constant(1, scale) + scale

    def forward(self, x: Tensor, modulation: tuple[Tensor, Tensor]) -> Tensor:
        """Tokens [B, L, dim], with the modulation from `modulation_at`, to patches [B, L, patch * channels]."""
        shift, factor = modulation
        normed = F.layer_norm(x, x.shape[-1:], eps=self.eps)
        out: Tensor = self.head(_scale_and_add(shift, normed, factor, reused=normed))
        return out


@dataclass(frozen=True, slots=True)
class Modulations:
    """What a network makes of the timesteps alone: for each block, and for the head."""

    blocks: list[Modulation]
    head: tuple[Tensor, Tensor]


class VideoTransformer(nn.Module):
    """The network: latents, timesteps, prompt and context in; predicted flow (noise minus clean latent) out."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        _check(config)
        dim = config.dim
        self.config = config
        self.patch_embedding = nn.Conv3d(config.in_channels, dim, config.patch, config.patch)
        self.text_embedding = nn.Sequential(Linear(config.text_width, dim), nn.GELU("tanh"), Linear(dim, dim))
        self.time_embedding = nn.Sequential(Linear(config.freq_dim, dim), nn.SiLU(), Linear(dim, dim))
        self.time_projection = nn.Sequential(nn.SiLU(), Linear(dim, 6 * dim))
        self.blocks = nn.ModuleList([Block(config) for _ in range(config.layers)])
        self.head = Head(config)

    def rotary_table(self) -> RotaryTable:
        """The angles that fit this network's keys."""
        config = self.config
        pairs = config.latent.pairs if config.attention == "latent" else None
        return RotaryTable(config.head_dim, pairs, config.rope_theta, config.rope_positions)

    def prompt(self, embeddings: Tensor) -> list[TextKeys]:
        """Keys and values of a prompt for every block, from text embeddings [B, text tokens, text width]."""
        text = self.text_embedding(embeddings)
        return [block.cross_attn.keys(text) for block in self._blocks()]

    def forward(
        self,
        latents: Tensor,
        timesteps: Tensor,
        prompt: list[TextKeys],
        context: Context,
        kept: list[Modulations] | None = None,
        run_block: Callable[..., Tensor] = nn.Module.__call__,
    ) -> Tensor:
        """Predict the flow.

        Args:
            latents: [B, F, C, H, W]. timesteps: [B, F], or [1, 1] for all alike; 0 for clean frames.
            prompt: from `prompt()`. context: what self-attention sees and where the entries go.
            kept: an empty list, in which a pass without gradients leaves what later ones at the same timesteps need not
                make again.
            run_block: takes a block and its arguments.

        Returns:
            [B, F, C, H, W].
        """
        batch, frames, _, height, width = latents.shape
        x, modulations = self._patches(latents), self._modulations(timesteps, latents, kept)
        for layer, block in enumerate(self._blocks()):
            x = run_block(block, x, modulations.blocks[layer], prompt[layer], layer, context)
        out = self.head(x, modulations.head)
        _, p, q = self.config.patch
        out = out.view(batch, frames, height // p, width // q, p, q, -1)
        flow: Tensor = out.permute(0, 1, 6, 2, 4, 3, 5).reshape(latents.shape)
        return flow

    def fill(
        self,
        latents: Tensor,
        timesteps: Tensor,
        prompt: list[TextKeys],
        context: FilledContext,
        kept: list[Modulations] | None = None,
    ) -> None:
        """As `forward`, for the entries alone that it leaves in `context`: it ends at those of the last block."""
        x, modulations = self._patches(latents), self._modulations(timesteps, latents, kept)
        *blocks, last = self._blocks()
        for layer, block in enumerate(blocks):
            x = block(x, modulations.blocks[layer], prompt[layer], layer, context)
        last.fill(x, modulations.blocks[-1], len(blocks), context)

    def _modulations(self, timesteps: Tensor, like: Tensor, kept: list[Modulations] | None) -> Modulations:
        if kept:
            return kept[0]
        embedding = self.time_embedding(timestep_embedding(timesteps, self.config.freq_dim).to(like.dtype))
        steps = self.time_projection(embedding).unflatten(2, (6, self.config.dim))
        blocks = [block.modulation_at(steps) for block in self._blocks()]
        made = Modulations(blocks, self.head.modulation_at(embedding))
        if kept is not None and not watched(like):
            kept.append(made)
        return made

    def into_latent(self, layer: int, queries: Tensor) -> Tensor:
        """`LatentAttention.into_latent` of a layer."""
        module = self._blocks()[layer].self_attn
        assert isinstance(module, LatentAttention)
        return module.into_latent(queries)

    def use_form(self, form: Name | Attention) -> None:
        """Set the form of latent attention in every block; the other kinds of attention have just one."""
        for block in self._blocks():
            if isinstance(block.self_attn, LatentAttention):
                block.self_attn.use(form)

    def _blocks(self) -> list[Block]:
        return [block for block in self.blocks if isinstance(block, Block)]

    def _patches(self, latents: Tensor) -> Tensor:
        batch, frames, channels, height, width = latents.shape
        _, p, q = self.config.patch
        if height % p or width % q:
            raise OptionError(
                f"latents of {height} x {width} are not divisible by the patch {p} x {q}",
                f"use a height that is a multiple of {p} and a width that is a multiple of {q} latents",
            )
        tiles = latents.view(batch, frames, channels, height // p, p, width // q, q).permute(0, 1, 3, 5, 2, 4, 6)
        weight = self.patch_embedding.weight.flatten(1)
        return linear(tiles.reshape(batch, -1, channels * p * q), weight, self.patch_embedding.bias)


def _check(config: TransformerConfig) -> None:
    if config.dim % config.heads or config.head_dim % 2:
        raise OptionError(
            f"dim {config.dim} does not split into {config.heads} heads of even width",
            "choose a dim that is a multiple of 2 * heads",
        )
    if config.patch[0] != 1:
        raise OptionError(f"patch {config.patch} spans {config.patch[0]} frames", "a causal model needs 1")
    if config.attention not in ("dense", "latent", "linear"):
        raise OptionError(f"attention is {config.attention!r}", "choose one of dense, latent, linear")
    sizes = config.latent
    if config.attention == "latent" and 2 * sum(sizes.pairs) != sizes.d_rope:
        raise OptionError(
            f"rope pairs {sizes.pairs} fill {2 * sum(sizes.pairs)} channels, d_rope is {sizes.d_rope}",
            f"choose pairs that sum to {sizes.d_rope // 2}",
        )
