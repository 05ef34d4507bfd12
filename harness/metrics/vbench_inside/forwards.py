"""The package's networks run with less work for the same numbers: nothing here changes a result but by rounding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


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


def read_class_token(clip: Any) -> Any:
    """`clip`, whose image tower no longer finishes the tokens that it throws away."""
    blocks = clip.visual.transformer.resblocks
    blocks[-1] = ClassTokenOnly(blocks[-1])
    return clip


class Musiq(nn.Module):
    """MUSIQ without its padding: patches that its attention masks out, a quarter of them for a wide frame."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

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
        for _ in range(iterations):
            motion = update.encoder(end - start, lookup(end))
            state = update.gru(state, torch.cat([given, motion], dim=1))
            end = end + update.flow_head(state)
        enlarged: torch.Tensor = raft.upsample_flow(end - start, 0.25 * update.mask(state))
        return enlarged
