"""The package's networks run with less work for the same numbers: nothing here changes a result but by rounding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional


class ClassTokenOnly(nn.Module):
    """The last block of a CLIP image tower, for the class token alone: the tower reads no other token after it."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.block = block

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens [n, batch, width] to the class token [1, batch, width]."""
        block: Any = self.block
        normed = block.ln_1(tokens)
        first = tokens[:1] + block.attn(normed[:1], normed, normed, need_weights=False)[0]
        answer: torch.Tensor = first + block.mlp(block.ln_2(first))
        return answer


class QuickGelu(nn.Module):
    """CLIP's activation, the same operations as its own, in place and with memory that every block uses again."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = torch.empty(0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`x`, which is overwritten."""
        if self.gate.shape != x.shape or self.gate.dtype != x.dtype or self.gate.device != x.device:
            self.gate = torch.empty_like(x)
        torch.mul(x, 1.702, out=self.gate)
        return x.mul_(self.gate.sigmoid_())


def lean_clip(clip: Any) -> Any:
    """`clip`, whose image tower no longer finishes tokens that it throws away, nor asks for memory in every block."""
    blocks = clip.visual.transformer.resblocks
    activation = QuickGelu()
    for block in blocks:
        block.mlp.gelu = activation
    blocks[-1] = ClassTokenOnly(blocks[-1])
    return clip


class FusedBlock(nn.Module):
    """A block of a ViT as DINO names its parts, with fused attention; for the first tokens alone where no more is read.

    Args:
        block: with `norm1`, `attn.qkv`, `attn.proj`, `norm2` and `mlp`. tokens: how many, from the first one, are
            wanted; all of them unless given.
    """

    def __init__(self, block: Any, tokens: int | None = None) -> None:
        super().__init__()
        self.block, self.tokens = block, tokens

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens [batch, n, width] to the wanted ones."""
        block: Any = self.block
        normed = block.norm1(x)
        width, qkv = x.shape[-1], block.attn.qkv
        query = functional.linear(normed[:, : self.tokens], qkv.weight[:width], qkv.bias[:width])
        key, value = functional.linear(normed, qkv.weight[width:], qkv.bias[width:]).chunk(2, dim=-1)
        q, k, v = (
            part.reshape(*part.shape[:2], block.attn.num_heads, -1).transpose(1, 2) for part in (query, key, value)
        )
        attended = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x[:, : self.tokens] + block.attn.proj(attended)
        answer: torch.Tensor = x + block.mlp(block.norm2(x))
        return answer


def lean_dino(dino: Any) -> Any:
    """`dino`, with fused attention and a last block for the class token, the only one that it reads."""
    last = len(dino.blocks) - 1
    for index, block in enumerate(dino.blocks):
        dino.blocks[index] = FusedBlock(block, 1 if index == last else None)
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
        network.training = True  # by this flag, of the outer module alone, it is told that patches are given
        scores: torch.Tensor = network(patches[:, real])
        return scores


@dataclass(frozen=True)
class Seen:
    """A frame as RAFT sees it: padded to a multiple of 8 and scaled to -1 to 1, and its features."""

    image: torch.Tensor
    features: torch.Tensor


def look(raft: Any, frame: torch.Tensor) -> Seen:
    """What RAFT computes from one frame [1, 3, h, w] in 0 to 255, whichever end of a pair it will be."""
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
        """The weights that see what changes, what the context gives, and the padding."""
        weight, bias = torch.cat([layer.weight for layer in layers]), torch.cat([layer.bias for layer in layers])
        end = self.hidden + context.shape[1]
        padding = layers[0].padding
        constant = functional.conv2d(context, weight[:, self.hidden : end].contiguous(), bias, padding=padding)
        return torch.cat([weight[:, : self.hidden], weight[:, end:]], dim=1), constant, padding

    def __call__(self, state: torch.Tensor, motion: torch.Tensor) -> torch.Tensor:
        """The next state [1, hidden, h, w]."""
        for (gates, gate_constant, padding), (new, new_constant, _) in self.halves:
            joined = torch.cat([state, motion], dim=1)
            both = torch.sigmoid(functional.conv2d(joined, gates, padding=padding).add_(gate_constant))
            update, reset = both.chunk(2, dim=1)
            joined = torch.cat([reset * state, motion], dim=1)
            fresh = torch.tanh(functional.conv2d(joined, new, padding=padding).add_(new_constant))
            state = (1 - update) * state + update * fresh
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
        state, given = torch.split(context, [raft.hidden_dim, raft.context_dim], dim=1)
        state, given = torch.tanh(state), torch.relu(given)
        start, end = raft.initialize_flow(before.image)
        gru = Gru(update.gru, given, raft.hidden_dim)
        for _ in range(iterations):
            motion = update.encoder(end - start, lookup(end))
            state = gru(state, motion)
            end = end + update.flow_head(state)
        enlarged: torch.Tensor = raft.upsample_flow(end - start, 0.25 * update.mask(state))
        return enlarged
