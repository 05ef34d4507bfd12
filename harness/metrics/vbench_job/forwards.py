"""The package's networks with less work for the same numbers. Nothing here changes a result but by rounding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

ROWS, FEW = 512, 64
"""Tokens that an MLP's layers and its activation take at a time on a CPU, so that their results stay in its cache."""


@dataclass(frozen=True)
class Parts:
    """The parts of a vision transformer's block, under one name for every network.

    Attributes:
        norms: before the attention, before the MLP. qkv: weight and bias that make queries, keys and values.
        mix: after the attention. mlp: its two layers. heads: of the attention.
        activate: the MLP's activation, in the place of its argument.
    """

    norms: tuple[nn.Module, nn.Module]
    qkv: tuple[torch.Tensor, torch.Tensor]
    mix: nn.Linear
    mlp: tuple[nn.Linear, nn.Linear]
    heads: int
    activate: Callable[[torch.Tensor], object]


def slices(x: torch.Tensor, size: int) -> tuple[torch.Tensor, ...]:
    """`x` in slices of `size` along its first axis on a CPU, in one piece elsewhere."""
    return torch.split(x, size) if x.device.type == "cpu" else (x,)


def add_linear(layer: nn.Linear, tokens: torch.Tensor, place: torch.Tensor) -> None:
    """Add `layer`'s outputs for `tokens` [n, in] to `place` [n, out], with no memory for the outputs."""
    place.add_(layer.bias).addmm_(tokens, layer.weight.t())


class Block(nn.Module):
    """A block of a vision transformer, with fused attention and results in the place of its input.

    Args:
        block: the block, which keeps the parameters.
        parts: its parts.
        tokens: how many of the first tokens to compute; all of them by default. Of the last block only the class token
            is read.
    """

    def __init__(self, block: nn.Module, parts: Parts, tokens: int | None = None) -> None:
        super().__init__()
        self.block, self.parts, self.tokens = block, parts, tokens

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """From tokens [batch, n, width], which are overwritten, to the first `self.tokens` of them."""
        batch, _, width = x.shape
        attended = self._attend(self.parts.norms[0](x))
        # A view where all tokens are wanted, so that the sums below land in `x` itself.
        flat = x[:, : self.tokens].reshape(-1, width)
        add_linear(self.parts.mix, attended, flat)
        into, out_of = self.parts.mlp
        for rows in slices(flat, ROWS):
            hidden = into(self.parts.norms[1](rows))
            for few in slices(hidden, FEW):
                self.parts.activate(few)
            add_linear(out_of, hidden, rows)
        return flat.view(batch, -1, width)

    def _attend(self, x: torch.Tensor) -> torch.Tensor:
        """Attention of the first `self.tokens` over all normed tokens [batch, n, width], as [batch * tokens, width]."""
        batch, _, width = x.shape
        weight, bias = self.parts.qkv
        if self.tokens is None:
            projections = list(functional.linear(x, weight, bias).chunk(3, dim=-1))
        else:
            projections = [functional.linear(x[:, : self.tokens], weight[:width], bias[:width])]
            projections += functional.linear(x, weight[width:], bias[width:]).chunk(2, dim=-1)
        q, k, v = (
            part.view(batch, -1, self.parts.heads, width // self.parts.heads).transpose(1, 2) for part in projections
        )
        return functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(-1, width)


class Swapped(nn.Module):
    """The first two axes exchanged."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[a, b, ...] to [b, a, ...]."""
        return x.transpose(0, 1)


def quick_gelu(x: torch.Tensor) -> None:
    """CLIP's activation, x * sigmoid(1.702 x), in place (clip/model.py, QuickGELU)."""
    x.mul_(torch.mul(x, 1.702).sigmoid_())


def lean_clip(clip: Any) -> Any:
    """`clip` with an image tower that works in place and does not finish tokens that it throws away."""
    transformer = clip.visual.transformer
    last = len(transformer.resblocks) - 1
    lean: list[nn.Module] = [Swapped()]  # the tower holds its tokens first
    for index, block in enumerate(transformer.resblocks):
        parts = Parts(
            (block.ln_1, block.ln_2),
            (block.attn.in_proj_weight, block.attn.in_proj_bias),
            block.attn.out_proj,
            (block.mlp.c_fc, block.mlp.c_proj),
            block.attn.num_heads,
            quick_gelu,
        )
        lean.append(Block(block, parts, 1 if index == last else None))
    transformer.resblocks = nn.Sequential(*lean, Swapped())
    return clip


def lean_dino(dino: Any) -> Any:
    """`dino` with blocks as in `lean_clip`."""
    last = len(dino.blocks) - 1
    for index, block in enumerate(dino.blocks):
        parts = Parts(
            (block.norm1, block.norm2),
            (block.attn.qkv.weight, block.attn.qkv.bias),
            block.attn.proj,
            (block.mlp.fc1, block.mlp.fc2),
            block.attn.num_heads,
            torch.ops.aten.gelu_,
        )
        dino.blocks[index] = Block(block, parts, 1 if index == last else None)
    return dino


class Musiq(nn.Module):
    """MUSIQ without its padding: patches that its attention masks out, a quarter of them for a wide frame.

    Its convolutions and its pooling see channels last, which on a CPU is faster.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        network.conv_root.register_forward_pre_hook(
            lambda module, given: (given[0].contiguous(memory_format=torch.channels_last),)
        )

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """Frames [n, 3, h, w] in 0 to 1 to scores [n, 1] in 0 to 100."""
        from pyiqa.archs.musiq_arch import get_multiscale_patches

        network: Any = self.network
        patches = get_multiscale_patches((frames - 0.5) * 2, **network.data_preprocess_opts)
        real = patches[0, :, -1] > 0  # the last entry of a patch is its mask, the same for every frame
        network.training = True  # the outer module alone: with this flag it takes patches in place of frames
        scores: torch.Tensor = network(patches[:, real])
        return scores


@dataclass(frozen=True)
class Seen:
    """A frame as RAFT sees it: padded to a multiple of 8 and scaled to -1 to 1, and its features."""

    image: torch.Tensor
    features: torch.Tensor


def look(raft: Any, frame: torch.Tensor) -> Seen:
    """RAFT's image and features of one frame [1, 3, h, w] in 0 to 255, which serve both ends of a pair."""
    from vbench.third_party.RAFT.core.utils_core.utils import InputPadder

    with torch.inference_mode():
        (padded,) = InputPadder(frame.shape).pad(frame)
        image = (2 * (padded / 255.0) - 1.0).contiguous()
        return Seen(image, raft.fnet(image).float())


class Gru:
    """RAFT's separable GRU (SepConvGRU of update.py), for a context that stays the same in every iteration.

    A convolution of joined inputs is the sum of their convolutions, and the context's is computed once.
    """

    def __init__(self, gru: Any, context: torch.Tensor, hidden: int) -> None:
        self.hidden = hidden
        self.halves = [
            (
                self._split([getattr(gru, f"convz{half}"), getattr(gru, f"convr{half}")], context),
                self._split([getattr(gru, f"convq{half}")], context),
            )
            for half in (1, 2)
        ]

    def _split(self, layers: list[Any], context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, Any]:
        """The weights for inputs that change, the constant part from the context, and the padding."""
        weight, bias = torch.cat([layer.weight for layer in layers]), torch.cat([layer.bias for layer in layers])
        # The inputs stand joined as state, context, motion: the weights in the middle see the context alone.
        end = self.hidden + context.shape[1]
        padding = layers[0].padding
        constant = functional.conv2d(context, weight[:, self.hidden : end].contiguous(), bias, padding=padding)
        return torch.cat([weight[:, : self.hidden], weight[:, end:]], dim=1), constant, padding

    def __call__(self, state: torch.Tensor, motion: torch.Tensor) -> torch.Tensor:
        """The next state [1, hidden, h, w]."""
        for (gates, gate_constant, padding), (new, new_constant, _) in self.halves:
            inputs = torch.cat([state, motion], dim=1)
            gates_now = torch.sigmoid(functional.conv2d(inputs, gates, padding=padding).add_(gate_constant))
            update, reset = gates_now.chunk(2, dim=1)
            inputs = torch.cat([reset * state, motion], dim=1)
            candidate = torch.tanh(functional.conv2d(inputs, new, padding=padding).add_(new_constant))
            state = (1 - update) * state + update * candidate
        return state


def flow(raft: Any, before: Seen, after: Seen, iterations: int = 20) -> torch.Tensor:
    """RAFT's flow [1, 2, h, w] between two frames (vbench/third_party/RAFT/core/raft.py, RAFT.forward).

    The mask and the enlargement, which upstream computes after each iteration, are computed after the last.
    """
    from vbench.third_party.RAFT.core.corr import CorrBlock

    update = raft.update_block
    with torch.inference_mode():
        lookup = CorrBlock(before.features, after.features, radius=raft.args.corr_radius)
        context = raft.cnet(before.image)
        state, context_features = torch.split(context, [raft.hidden_dim, raft.context_dim], dim=1)
        state, context_features = torch.tanh(state), torch.relu(context_features)
        start, end = raft.initialize_flow(before.image)
        gru = Gru(update.gru, context_features, raft.hidden_dim)
        for _ in range(iterations):
            motion = update.encoder(end - start, lookup(end))
            state = gru(state, motion)
            end = end + update.flow_head(state)
        enlarged: torch.Tensor = raft.upsample_flow(end - start, 0.25 * update.mask(state))
        return enlarged
