"""Matrix products of a network's layers: by oneDNN on the CPUs where it is faster and gives the same bits.

PyTorch multiplies float32 by MKL, which uses half the width of the vectors of AMD's processors; oneDNN, which PyTorch
brings as well, uses all of it. Both add products in the order of their channels, MKL in equal parts of at most
`PART_CHANNELS`, whose sums it adds. So the same order gives the same bits. That is tried for every shape when it first
comes: where a single bit would differ, it stays with MKL.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import has_torch_function_unary
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from harness.system import devices
from videomla_models.ops.step import step

PART_CHANNELS = 192
"""Channels whose products MKL adds in one go with vectors of 256 bits."""
LEAST_ROWS = 16
"""Rows of a product below which starting it is what takes the time."""

Shape = tuple[int, int, int, bool, int]
"""Rows, outputs, channels, whether there is a bias, threads."""

_equal: dict[Shape, bool] = {}


class Linear(nn.Linear):
    """`torch.nn.Linear` by `linear`."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias)
        self._parts: tuple[tuple[int, int], Sequence[Tensor]] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] to [..., outputs]."""
        return linear(x, self.weight, self.bias, self)

    def parts(self) -> Sequence[Tensor]:
        """The weight in its `parts`, each contiguous; anew after the weight has changed."""
        state = self.weight.data_ptr(), self.weight._version
        if self._parts is None or self._parts[0] != state:
            self._parts = state, _parts(self.weight)
        return self._parts[1]


@step("projections")
def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, layer: Linear | None = None) -> Tensor:
    """x weight^T + bias: [..., channels] to [..., outputs], with the bits of `torch.nn.functional.linear`.

    `layer` is whose weight it is, and keeps the parts of it.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or not _wide():
        return F.linear(x, weight, bias)
    if not x.is_cpu or x.dtype is not torch.float32:
        return F.linear(x, weight, bias)
    channels = x.shape[-1]
    rows = x.numel() // channels
    # Of rows that lie apart PyTorch adds the bias last. Who replaces or counts its functions sees the one they know.
    if rows < LEAST_ROWS or not x.is_contiguous() or has_torch_function_unary(x) or is_in_torch_dispatch_mode():
        return F.linear(x, weight, bias)
    shape = rows, len(weight), channels, bias is None, torch.get_num_threads()
    if shape not in _equal:
        _equal[shape] = _gives_equal_bits(*shape[:4])
    return _product(x, weight, bias, layer) if _equal[shape] else F.linear(x, weight, bias)


def _gives_equal_bits(rows: int, outputs: int, channels: int, plain: bool) -> bool:
    """Whether numbers without any pattern, in one product of these sizes, come out the same both ways."""
    numbers = torch.Generator().manual_seed(0)
    x, weight, bias = (
        torch.randn(size, generator=numbers) for size in ((rows, channels), (outputs, channels), outputs)
    )
    added = None if plain else bias
    return torch.equal(F.linear(x, weight, added), _product(x, weight, added, None))


def _product(x: Tensor, weight: Tensor, bias: Tensor | None, layer: Linear | None) -> Tensor:
    """By oneDNN, in the order of MKL."""
    multiply: Any = torch.ops.mkldnn._linear_pointwise.default
    channels = x.shape[-1]
    if channels <= PART_CHANNELS:
        out: Tensor = multiply(x, weight, bias, "none", (), "")
        return out
    add: Any = torch.ops.mkldnn._linear_pointwise.binary
    parts = _parts(weight) if layer is None else layer.parts()
    first, *others = torch.split(x, parts[0].shape[1], -1)
    out = multiply(first, parts[0], bias, "none", (), "")
    for some, part in zip(others, parts[1:], strict=True):
        out = add(some, out, part, None, "add")
    return out


def _parts(weight: Tensor) -> Sequence[Tensor]:
    channels = weight.shape[1]
    count = -(-channels // PART_CHANNELS)
    return [part.contiguous() for part in torch.split(weight.detach(), -(-channels // count), 1)]


@cache
def _wide() -> bool:
    """Whether this CPU has wide vectors that MKL leaves unused."""
    libraries: tuple[Any, Any] = torch.backends.mkl, torch.backends.mkldnn
    wide = torch.backends.cpu.get_cpu_capability() == "AVX512" and "AMD" in str(devices.describe("cpu")["name"])
    return wide and all(library.is_available() for library in libraries)
