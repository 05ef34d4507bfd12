"""The tokenizer that ComfyUI packs into a text encoder's file: a SentencePiece model as a tensor of bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.errors import NotAvailable, WeightsError

PACKED = "spiece_model"
"""The tensor's name (ComfyUI `comfy/text_encoders/wan.py`)."""
LARGEST = 64 << 20
"""Bytes; UMT5's has 4.5 million."""
PAD, END = 0, 1
"""Ids of T5's vocabularies."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Ids and mask, int64 [batch, length], as a tokenizer of transformers gives them."""

    input_ids: Tensor
    attention_mask: Tensor


class PackedTokenizer:
    """T5's tokenizer from a SentencePiece model.

    Args:
        source: the file that holds it, for messages. model: its bytes, uint8 [n].

    Raises `NotAvailable` without sentencepiece, `WeightsError` where the tensor is no SentencePiece model.
    """

    def __init__(self, source: str, model: Tensor) -> None:
        try:
            from sentencepiece import SentencePieceProcessor
        except ImportError as error:
            raise NotAvailable(
                f"the tokenizer in {source} needs sentencepiece", "pip install -c constraints.txt '.[wan]'"
            ) from error
        if model.ndim != 1 or len(model) > LARGEST:
            raise WeightsError(f"{source}: {PACKED} is no SentencePiece model", "copy the file again")
        content = model.to(torch.uint8).numpy().tobytes()
        self._pieces = SentencePieceProcessor()
        try:
            self._pieces.LoadFromSerializedProto(content)
        except RuntimeError as error:
            raise WeightsError(f"{source}: {PACKED} is no SentencePiece model", "copy the file again") from error

    def __call__(
        self, texts: Sequence[str], padding: str, max_length: int, truncation: bool, return_tensors: str
    ) -> Tokens:
        """Texts cut to `max_length` with their end, and padded to it; the other arguments are those of transformers."""
        ids = torch.full((len(texts), max_length), PAD)
        mask = torch.zeros_like(ids)
        for row, text in enumerate(texts):
            pieces = [*self._pieces.Encode(text)[: max_length - 1], END]
            ids[row, : len(pieces)] = torch.tensor(pieces)
            mask[row, : len(pieces)] = 1
        return Tokens(ids, mask)
