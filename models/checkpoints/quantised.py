"""Weights in float8, with or without factors, as the numbers that they stand for.

ComfyUI's `fp8_scaled` files hold a factor beside each such weight: `X.scale_weight` or `X.weight_scale` for `X.weight`
(ComfyUI `comfy/utils.py`, `convert_old_quants`, and its QUANTIZATION.md). Other ways of quantising are refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from harness.errors import WeightsError

FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz)
"""Every finite value of these is one of bfloat16, too."""
FORMATS = ("float8_e4m3fn", "float8_e5m2")
"""ComfyUI's names for what is read here: a weight in float8 and one factor."""

_FACTORS = (".scale_weight", ".weight_scale")
# Of activations, for products in float8; the weights do not depend on them.
_INPUT_FACTORS = (".scale_input", ".input_scale")
_MARK = ".comfy_quant"
_FILE_MARK = "scaled_fp8"
_LARGEST_MARK = 1 << 12
_FOREIGN = {
    ".weight_scale_2": "NVFP4",
    ".weight_scale_inv": "float8 in blocks",
    ".weight_scalar": "MXFP8",
    ".qweight": "GPTQ or AWQ",
    ".wscales": "Nunchaku",
    ".weight.absmax": "bitsandbytes",
    ".weight._data": "Quanto",
}


class Quantisation:
    """What a file's names and metadata say of how its weights are quantised.

    Args:
        source: of the file, for messages. shapes: by stored name. metadata: of a safetensors header.
        read: a stored tensor by its name.

    Attributes:
        helpers: stored names that belong to the quantisation and to no module.

    Raises:
        WeightsError: a quantisation that is not read.
    """

    def __init__(
        self,
        source: str,
        shapes: Mapping[str, tuple[int, ...]],
        metadata: Mapping[str, str],
        read: Callable[[str], Tensor],
    ) -> None:
        self._source, self._shapes, self._read = source, shapes, read
        self._factors: dict[str, str] = {}
        self.helpers: set[str] = set()
        for name in shapes:
            stem, kind = _parted(name)
            if kind in _FOREIGN:
                raise self._refused(_FOREIGN[kind])
            if kind == _FILE_MARK or (kind and f"{stem}.weight" in shapes):
                self.helpers.add(name)
                self._take(name, f"{stem}.weight", kind)
        if text := metadata.get("_quantization_metadata"):
            layers = self._json(text).get("layers")
            for layer in layers.values() if isinstance(layers, dict) else ():
                self._check_format(layer)

    def _take(self, name: str, weight: str, kind: str) -> None:
        if kind == _MARK:
            shape = self._shapes[name]
            if len(shape) != 1 or shape[0] > _LARGEST_MARK:
                raise WeightsError(f"{self._source}: {name} is no description of a format", "copy it again")
            self._check_format(self._json(bytes(self._read(name).to(torch.uint8).tolist())))
        elif kind in _FACTORS:
            if weight in self._factors:
                raise WeightsError(f"{self._source} has two scales of {weight}", "keep one of them")
            self._factors[weight] = name

    def _json(self, text: bytes | str) -> dict[str, Any]:
        try:
            content = json.loads(text)
        except (ValueError, RecursionError):
            content = None
        if not isinstance(content, dict):
            raise WeightsError(f"{self._source} describes its quantisation in no JSON object", "copy it again")
        return content

    def _check_format(self, layer: object) -> None:
        form = layer.get("format") if isinstance(layer, dict) else layer
        if form not in FORMATS:
            raise self._refused(str(form)[:40])

    def _refused(self, form: str) -> WeightsError:
        return WeightsError(
            f"{self._source} is quantised as {form}, which is not read",
            f"give it in bfloat16, float16, float32 or float8 ({', '.join(FORMATS)})",
        )

    def apply(self, name: str, tensor: Tensor) -> Tensor:
        """`tensor` as stored under `name`: float8 as bfloat16, or times its factor in float32, others as they are.

        Raises `WeightsError` for a factor that does not fit, or for a dtype that is not read.
        """
        if tensor.is_quantized or tensor.layout != torch.strided:
            raise self._refused("a tensor of PyTorch that is quantised or sparse")
        factor = self._factors.get(name)
        if tensor.dtype in FLOAT8:
            return tensor.to(torch.bfloat16) if factor is None else self._scaled(name, tensor.float(), factor)
        kind = str(tensor.dtype).removeprefix("torch.")
        if factor is not None:
            raise WeightsError(f"{self._source}: {name} has a scale, but is {kind}", "give the file that is not scaled")
        if tensor.is_floating_point() and tensor.dtype.itemsize == 1:
            raise self._refused(kind)
        return tensor

    def _scaled(self, name: str, tensor: Tensor, factor_name: str) -> Tensor:
        factor = self._read(factor_name).float()
        rows = tensor.shape[0] if tensor.ndim else 1
        if factor.numel() != 1 and (factor.numel() != rows or factor.shape[0] != rows):
            shapes = " for ".join("x".join(map(str, shape)) for shape in (factor.shape, tensor.shape))
            raise WeightsError(f"{self._source}: {factor_name} is {shapes}", "one factor, or one a row, is read")
        return tensor * factor.reshape(-1, *(1 for _ in tensor.shape[1:]))


def _parted(name: str) -> tuple[str, str]:
    """A name as the stem of the weight that it belongs to and what it is; empty for a tensor of a module."""
    if name.rpartition(".")[2] == _FILE_MARK:
        return "", _FILE_MARK
    for kind in (*_FACTORS, *_INPUT_FACTORS, _MARK, *_FOREIGN):
        if name.endswith(kind):
            return name.removesuffix(kind), kind
    return name, ""
