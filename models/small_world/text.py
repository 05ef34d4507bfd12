"""Text embeddings of a small world: which word stands where, so that the network's first layer learns the meaning."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from videomla_models.small_world.words import TEXT_LENGTH, Words

NULL_PROMPT = ""
"""The text of the unconditional half of guidance: padding alone."""


def embed(words: Words, texts: Sequence[str]) -> Tensor:
    """One-hot words beside one-hot places, float32 [batch, TEXT_LENGTH, words.names + TEXT_LENGTH]."""
    ids = torch.stack([torch.from_numpy(words.tokens(text)) for text in texts])
    places = torch.eye(TEXT_LENGTH, dtype=torch.long).expand(len(texts), -1, -1)
    return torch.cat([F.one_hot(ids, len(words.names)), places], dim=-1).float()
