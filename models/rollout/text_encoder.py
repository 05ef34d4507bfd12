"""Wan2.1's text conditioning: cleaned prompts through UMT5, padding zeroed, embeddings kept on disk.

transformers and ftfy are imported when a prompt is first encoded; a prompt already on disk needs neither the packages'
models nor the encoder's weights in memory.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from harness.errors import NotAvailable, WeightsError
from harness.system.digests import digest, file_sha256
from harness.system.files import cache_folder, write_atomic
from videomla_models.checkpoints.load import Checkpoint, load_into
from videomla_models.checkpoints.locate import Source, resolve
from videomla_models.checkpoints.parts import part_names
from videomla_models.checkpoints.tensors import TensorFile, open_tensors
from videomla_models.rollout.packed_tokenizer import PACKED, PackedTokenizer

PACKAGES = "pip install -c constraints.txt '.[wan]'"
_FORMAT = "1"  # of a cached embedding; changes with anything below that could change one
_TOKENIZER_FILES = ("tokenizer.json", "spiece.model", "tokenizer_config.json", "special_tokens_map.json")


def clean(text: str) -> str:
    """Wan's "whitespace" cleaning: mended encoding, HTML entities resolved twice, runs of white space made one.

    Source: Wan2.1 `tokenizers.py`. Raises `NotAvailable` without ftfy.
    """
    try:
        import ftfy
    except ImportError as error:
        raise NotAvailable("cleaning prompts as Wan does needs ftfy", PACKAGES) from error
    mended = html.unescape(html.unescape(ftfy.fix_text(text)))
    return re.sub(r"\s+", " ", mended).strip()


class TextEncoder:
    """Prompts to embeddings [batch, tokens, width], zero where a prompt is padded.

    Args:
        source: the encoder: a transformers folder (`config.json` beside the weights), the original
            `models_t5_umt5-xxl-enc-bf16.pth`, ComfyUI's single file (with float8 weights or without), or the folder or
            Hub id of a whole pipeline that holds one of the first two.
        tokenizer: folder of its tokenizer; found beside the encoder, or in ComfyUI's file, unless given.
        tokens: length after padding; longer prompts are cut.
        dtype, device: of the encoder and of what it gives.
        cache: folder for embeddings; `$VIDEOMLA_CACHE/text` unless given.

    Raises:
        WeightsError: damaged weights, or no tokenizer beside them. NotAvailable: weights or packages are not here.
    """

    def __init__(
        self,
        source: str | Path | Source,
        tokenizer: Path | None = None,
        tokens: int = 512,
        dtype: torch.dtype = torch.bfloat16,
        device: torch.device | str = "cpu",
        cache: Path | None = None,
    ) -> None:
        self.source = source if isinstance(source, Source) else resolve(source, component="text_encoder")
        self.tokenizer = tokenizer or _find_tokenizer(self.source)
        """Its folder; None where the encoder's own file holds it."""
        self.tokens = tokens
        self.dtype = dtype
        self.device = torch.device(device)
        self.cache = cache or cache_folder() / "text"
        self._model: nn.Module | None = None
        self._tokenizer: Any = None
        self._identity = ""

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Embeddings of `texts`, in order; each is encoded once ever and alone, so that no neighbour can change it."""
        rows = [self._embedding(clean(text)) for text in texts]
        result = torch.zeros(len(rows), self.tokens, rows[0].shape[1], dtype=self.dtype)
        for index, row in enumerate(rows):
            result[index, : len(row)] = row
        return result.to(self.device)

    def digests(self) -> dict[str, str]:
        """SHA-256 by file name, of weights and tokenizer."""
        files = [self.tokenizer / name for name in _TOKENIZER_FILES] if self.tokenizer else []
        return self.source.digests() | {path.name: file_sha256(path) for path in files if path.is_file()}

    def unload(self) -> None:
        """Free the encoder's weights; the next unknown prompt loads them again."""
        self._model = None

    def _embedding(self, text: str) -> Tensor:
        """One cleaned prompt's embedding without its padding, [n, width], from disk where it is there."""
        path = self.cache / f"{self._key(text)}.safetensors"
        try:
            return load(path.read_bytes())["embedding"]
        except (OSError, SafetensorError, KeyError):
            pass
        row = self._encode(text)
        write_atomic(path, save({"embedding": row.contiguous()}, {"text": text}))
        return row

    def _key(self, text: str) -> str:
        if not self._identity:
            parts = {"format": _FORMAT, "files": self.digests(), "tokens": self.tokens, "dtype": str(self.dtype)}
            self._identity = json.dumps(parts, sort_keys=True)
        return digest(f"{self._identity}\n{text}")

    @torch.no_grad()
    def _encode(self, text: str) -> Tensor:
        if self._model is None:
            self._model = load_umt5(self.source, self.dtype, self.device)
        if self._tokenizer is None:
            self._tokenizer = _load_tokenizer(self.tokenizer) if self.tokenizer else _packed_tokenizer(self.source)
        fed = self._tokenizer(
            [text], padding="max_length", max_length=self.tokens, truncation=True, return_tensors="pt"
        )
        ids, mask = fed.input_ids.to(self.device), fed.attention_mask.to(self.device)
        hidden: Tensor = self._model(input_ids=ids, attention_mask=mask).last_hidden_state
        return hidden[0, : int(mask.sum())].to("cpu", self.dtype)


def load_umt5(source: Source, dtype: torch.dtype, device: torch.device | str) -> nn.Module:
    """transformers' `UMT5EncoderModel` with the weights of `source`, in the layout of transformers, Wan2.1 or ComfyUI.

    Raises `NotAvailable` without transformers, `WeightsError` for weights that are damaged or do not fit.
    """
    try:
        from transformers import AutoConfig, UMT5EncoderModel
    except ImportError as error:
        raise NotAvailable(f"the text encoder needs transformers ({error})", PACKAGES) from error
    file = open_tensors(source)
    folder = source.files[0].parent
    names = _names(source, file)
    layout = "wan" if "token_embedding.weight" in names else "comfyui" if PACKED in names else "transformers"
    stored: dict[str, str] = {}
    for name, theirs in names.items():
        ours = umt5_name(name)
        if ours in stored:
            raise WeightsError(f"{source.name}: {stored[ours]} and {theirs} are both {ours}", "keep one of them")
        if name != PACKED:
            stored[ours] = theirs
    config: Any
    if layout != "transformers":
        config = _sized_config(source, {name: file.shapes[theirs] for name, theirs in stored.items()})
    elif (folder / "config.json").is_file():
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    else:
        raise WeightsError(
            f"{source.name}: no config.json beside it, and neither the original models_t5_umt5-xxl-enc-bf16.pth nor "
            "ComfyUI's file",
            "give the text_encoder folder of a diffusers repository, or one of these files",
        )
    build: Any = UMT5EncoderModel
    with torch.device("meta"):
        model: nn.Module = build(config)
    load_into(model, Checkpoint(source, file, stored, layout), dtype, device)
    return model.eval().requires_grad_(False)


_EMBEDDINGS = ("token_embedding.weight", "shared.weight", "encoder.embed_tokens.weight")
_SIZED = (
    "shared.weight",
    "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
    "encoder.block.0.layer.0.SelfAttention.q.weight",
    "encoder.block.0.layer.1.DenseReluDense.wi_1.weight",
)
_UMT5_BLOCK = {
    "norm1": "layer.0.layer_norm",
    "attn": "layer.0.SelfAttention",
    "pos_embedding.embedding": "layer.0.SelfAttention.relative_attention_bias",
    "norm2": "layer.1.layer_norm",
    "ffn.gate.0": "layer.1.DenseReluDense.wi_0",
    "ffn.fc1": "layer.1.DenseReluDense.wi_1",
    "ffn.fc2": "layer.1.DenseReluDense.wo",
}


def umt5_name(name: str) -> str:
    """transformers' name of a parameter of Wan2.1's `T5Encoder` (`t5.py`); an unknown one is returned unchanged."""
    top = {"token_embedding.weight": "shared.weight", "norm.weight": "encoder.final_layer_norm.weight"}
    if name in top:
        return top[name]
    match = re.fullmatch(r"blocks\.(\d+)\.(.+)", name)
    if match:
        for ours, theirs in _UMT5_BLOCK.items():
            if match[2].startswith(f"{ours}."):
                return f"encoder.block.{match[1]}.{theirs}{match[2].removeprefix(ours)}"
    return name


def _sized_config(source: Source, shapes: Mapping[str, tuple[int, ...]]) -> Any:
    """Sizes of an encoder by transformers' names, read off its shapes; what is fixed in UMT5 is fixed here."""
    from transformers import UMT5Config

    missing = [name for name in _SIZED if len(shapes.get(name, ())) != 2 or not all(shapes[name])]
    if missing:
        raise WeightsError(f"{source.name} lacks {', '.join(missing)}", "give the whole encoder")
    embedding, bias, query, feed_forward = (shapes[name] for name in _SIZED)
    return UMT5Config(
        vocab_size=embedding[0],
        d_model=embedding[1],
        d_kv=query[0] // bias[1],
        d_ff=feed_forward[0],
        num_layers=len({name.split(".")[2] for name in shapes if name.startswith("encoder.block.")}),
        num_heads=bias[1],
        relative_attention_num_buckets=bias[0],
        relative_attention_max_distance=128,
        feed_forward_proj="gated-gelu",
        layer_norm_epsilon=1e-6,
    )


def _find_tokenizer(source: Source) -> Path | None:
    """The tokenizer's folder: the encoder's own, `tokenizer/` of a diffusers pipeline, or Wan2.1's google/umt5-xxl.

    None where it is a tensor of the encoder's file. Raises `WeightsError` where it is nowhere.
    """
    folder = source.files[0].parent
    places = (folder, folder.parent / "tokenizer", folder / "google" / "umt5-xxl")
    for place in places:
        if any((place / name).is_file() for name in _TOKENIZER_FILES):
            return place
    if PACKED in _names(source, open_tensors(source)):
        return None
    raise WeightsError(
        f"{source.name}: no tokenizer in {', '.join(str(place) for place in places)}", "name the tokenizer's folder"
    )


def _names(source: Source, file: TensorFile) -> dict[str, str]:
    """The encoder's names without a pipeline's prefix, each with its name in the file."""
    return part_names(source.name, file.shapes, _EMBEDDINGS) or {name: name for name in file.shapes}


def _packed_tokenizer(source: Source) -> PackedTokenizer:
    file = open_tensors(source)
    return PackedTokenizer(source.name, file.read(_names(source, file)[PACKED]))


def _load_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    load_from: Any = AutoTokenizer.from_pretrained
    try:
        return load_from(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise WeightsError(
            f"{folder} holds no tokenizer that transformers reads ({reason})", "copy it again"
        ) from error
