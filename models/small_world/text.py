"""Text embeddings of the small world: which word stands where, so that the network's first layer learns the meaning."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from videomla_models.small_world.world import TEXT_LENGTH, tokens, vocabulary

NULL_PROMPT = ""
"""The text of the unconditional half of guidance: padding alone."""


def embed(texts: Sequence[str]) -> Tensor:
    """One-hot words beside one-hot places, float32 [batch, TEXT_LENGTH, vocabulary + TEXT_LENGTH]."""
    ids = torch.stack([torch.from_numpy(tokens(text)) for text in texts])
    words = F.one_hot(ids, len(vocabulary()))
    places = torch.eye(TEXT_LENGTH, dtype=torch.long).expand(len(texts), -1, -1)
    return torch.cat([words, places], dim=-1).float()
