"""A bank of older frames beside the window (MemFlow): which are in it is decided on the device, for every clip alone.

It stands before the ring and fills from its end, so that the frames of both are one run of rows. Nothing here reads the
device, and one frame a layer is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.errors import OptionError
from videomla_models.spec.window import WindowPolicy


@dataclass
class Bank:
    """Frames of the bank and when they come.

    Attributes:
        policy: its size, and what decides who gives way. tokens: of a frame. filled: frames in it.
        chunks: finished so far. latest: first frame of the last of them; negative before there is one.
    """

    policy: WindowPolicy
    tokens: int
    filled: int = 0
    chunks: int = 0
    latest: int = -1

    @property
    def rows(self) -> int:
        """Rows of a layer's tensors before those of the ring."""
        return self.policy.bank * self.tokens

    @property
    def first_row(self) -> int:
        """The first row that holds a frame."""
        return (self.policy.bank - self.filled) * self.tokens

    def finish(self, first: int) -> None:
        """Note that a chunk from frame `first` on is finished."""
        self.chunks, self.latest = self.chunks + 1, first

    def due(self, first: int) -> bool:
        """Whether a frame is to be taken in before the chunk from frame `first` on, which a rebuild's is not."""
        return self.policy.bank > 0 and 0 <= self.latest < first

    def take(self, layers: Sequence[tuple[Tensor, Tensor]], slot: int, prompt: Sequence[Tensor] | None) -> None:
        """Take in the frame that stands in `slot` of the ring.

        Args:
            layers: every layer's keys and contents, [B, bank and ring, ...]. prompt: every layer's keys of the prompt,
                [B, text tokens, H, d].
        """
        added = (self.chunks - 1) // self.policy.bank_every + 1
        self.filled = min(added, self.policy.bank)
        for layer, both in enumerate(layers):
            row = self.rows + slot * self.tokens
            fresh = [entries[:, row : row + self.tokens] for entries in both]
            if added <= self.policy.bank:
                at = self.first_row
                for entries, frame in zip(both, fresh, strict=True):
                    entries[:, at : at + self.tokens] = frame
                continue
            apart = (self.policy.bank, self.tokens)
            frames = [part[:, : self.rows].view(part.shape[0], *apart, *part.shape[2:]) for part in both]
            scores = self._scores(frames[0], fresh[0], None if prompt is None else prompt[layer])
            gone = (torch.arange(scores.shape[0], device=scores.device), scores.argmin(1))
            for entries, frame in zip(frames, fresh, strict=True):
                entries[gone] = frame

    def _scores(self, keys: Tensor, fresh: Tensor, prompt: Tensor | None) -> Tensor:
        """How much each frame of the bank is worth, [B, bank].

        Args:
            keys: [B, bank, tokens, ...]. fresh: of the frame that comes, [B, tokens, ...]. prompt: [B, text, H, d].
        """
        if self.policy.bank_by == "similarity":
            means, latest = keys.float().mean(2).flatten(2), fresh.float().mean(1).flatten(1)
            return F.cosine_similarity(means, latest.unsqueeze(1), dim=-1)
        if prompt is None:
            raise OptionError("a bank by prompt needs the prompt of the next chunk", "set window.bank_by to similarity")
        # A mean over text and tokens of products is the product of means.
        text, means = prompt.float().mean(1), keys.float().mean(2)
        return (means * text.unsqueeze(1)).sum(-1).mean(-1)
