"""Files of latents: what a VAE made of real videos, for statistics that a model's own noise cannot give.

Importing this module imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from harness.errors import WeightsError
from videomla_models.spec.latents import AXES

if TYPE_CHECKING:
    from torch import Tensor

LARGEST = 1 << 28
"""Numbers: a GiB in float32, some 13 minutes of Wan2.1's latents at 480x832."""
LARGEST_FILE = 8 * LARGEST + (1 << 20)
"""Bytes: so many numbers of the widest kind, and what a file says of them."""
FLOATING = "F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"
"""Kinds of a safetensors header that torch reads as numbers with a point."""


def latents_shape(path: Path) -> tuple[int, ...]:
    """Shape [batch, channel, frame, height, width] of the latents in a file; of a safetensors one its header is read.

    A `.pt` is mapped, which imports torch. Raises `WeightsError` as `read_latents` does, but for numbers.
    """
    _check_file(path)
    if path.suffix == ".safetensors":
        return _described(path)[1]
    return tuple(_unpickled(path).shape)


def read_latents(path: Path) -> Tensor:
    """Latents of a `.safetensors`, `.pt` or `.pth` file that holds one tensor [batch, channel, frame, height, width].

    Returns [batch, frames, channels, height, width] in float32 on the CPU. A pickle is read without running code.
    Raises `WeightsError` for any other content.
    """
    import torch

    _check_file(path)
    if path.suffix == ".safetensors":
        name, _ = _described(path)
        with safe_open(path, framework="pt") as file:
            stored: Tensor = file.get_tensor(name)
    else:
        stored = _unpickled(path)
    latents = stored.detach().float().transpose(1, 2).contiguous()
    if not bool(torch.isfinite(latents).all()):
        raise WeightsError(f"{path} holds numbers that are not finite", "make the latents anew")
    return latents


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise WeightsError(f"{path} is no file", f"give a file of latents {AXES}")
    if path.suffix not in (".safetensors", ".pt", ".pth"):
        raise WeightsError(f"{path} is neither .safetensors nor .pt", f"give a file of latents {AXES}")
    if (size := path.stat().st_size) > LARGEST_FILE:
        raise WeightsError(f"{path} has {size:,} bytes", f"give latents {AXES} of at most {LARGEST} numbers")


def _described(path: Path) -> tuple[str, tuple[int, ...]]:
    """Name and shape of the one tensor of a safetensors file, by its header."""
    try:
        with safe_open(path, framework="np") as file:
            names = list(file.keys())
            _check_count(path, len(names))
            tensor = file.get_slice(names[0])
            kind, shape = tensor.get_dtype(), tuple(tensor.get_shape())
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path} is truncated or no safetensors file ({error})", "copy or download it again"
        ) from error
    _check_tensor(path, kind, shape, floating=kind in FLOATING)
    return names[0], shape


def _unpickled(path: Path) -> Tensor:
    import torch

    from videomla_models.checkpoints.tensors import load_pickle

    content = load_pickle(path)
    if isinstance(content, dict):
        _check_count(path, len(content))
        (content,) = content.values()
    if not isinstance(content, torch.Tensor):
        raise WeightsError(f"{path} holds no tensor", f"give one tensor {AXES}")
    if content.layout != torch.strided or content.is_quantized or content.is_meta or content.is_nested:
        raise WeightsError(f"{path} holds no plain tensor", f"give one tensor {AXES}")
    kind = str(content.dtype).removeprefix("torch.")
    _check_tensor(path, kind, tuple(content.shape), floating=content.is_floating_point())
    return content


def _check_count(path: Path, count: int) -> None:
    if count != 1:
        raise WeightsError(f"{path} holds {count} entries", f"give a file with one tensor {AXES}")


def _check_tensor(path: Path, kind: str, shape: Sequence[int], *, floating: bool) -> None:
    if len(shape) != 5 or not floating or not 0 < prod(shape) <= LARGEST:
        raise WeightsError(
            f"{path} holds {kind} {list(shape)}",
            f"give floating-point latents {AXES} of at most {LARGEST} numbers",
        )
