"""Matrix products of a network's layers: by oneDNN on the CPUs where it is faster and gives the same bits.

PyTorch multiplies float32 by MKL, which uses half the width of the vectors of AMD's processors; oneDNN, which PyTorch
brings as well, uses all of it. Both add products in the order of their channels, MKL in equal parts of at most
`PART_CHANNELS`, whose sums it adds. So the same order gives the same bits. That is tried for every shape when it first
comes: where a single bit would differ, it stays with MKL.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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

_equal: dict[tuple[object, ...], bool] = {}
"""Whether both libraries give the same bits, by what is multiplied, its sizes, and threads."""


class Linear(nn.Linear):
    """`torch.nn.Linear` by `linear`."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias)
        self._parts: tuple[Tensor, tuple[int, int], Sequence[Tensor]] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] to [..., outputs]."""
        return linear(x, self.weight, self.bias, self)

    def parts(self) -> Sequence[Tensor]:
        """The weight by equal parts of its inputs, each contiguous; kept while it is frozen and stays what it is."""
        weight = self.weight
        if weight.requires_grad:
            return _parts(weight)
        state = weight.data_ptr(), weight._version
        if self._parts is None or self._parts[0] is not weight or self._parts[1] != state:
            self._parts = weight, state, _parts(weight)
        return self._parts[2]


class FeedForward(nn.Sequential):
    """A layer, a function of each number by itself, and another layer."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] to [..., outputs]; where the second layer adds in parts, what lies between is never whole."""
        first, function, second = self
        if isinstance(first, Linear) and isinstance(second, Linear) and _another_library(x):
            rows, hidden = x.numel() // x.shape[-1], first.out_features
            count = -(-hidden // PART_CHANNELS)
            # A vector of 16 numbers that was cut elsewhere could be rounded in another way.
            if count > 1 and hidden % (16 * count) == 0 and _try_both_layers(rows, first, second):
                return _in_parts(x, (first.weight, first.bias), function, second.parts(), second.bias)
        out: Tensor = second(function(first(x)))
        return out


@step("projections")
def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, layer: Linear | None = None) -> Tensor:
    """x weight^T + bias: [..., channels] to [..., outputs], with the bits of `torch.nn.functional.linear`.

    `layer` is whose weight it is, and keeps the parts of it.
    """
    if _another_library(x) and _try(x.numel() // x.shape[-1], len(weight), x.shape[-1], bias is None):
        parts = [weight] if x.shape[-1] <= PART_CHANNELS else _parts(weight) if layer is None else layer.parts()
        return _product(x, parts, bias)
    return F.linear(x, weight, bias)


def watched(x: Tensor) -> bool:
    """Whether somebody replaces, counts or records PyTorch's calls, and so has to see all those that he knows."""
    recorded = x.is_cuda and torch.cuda.is_current_stream_capturing()
    return has_torch_function_unary(x) or is_in_torch_dispatch_mode() or recorded


def _another_library(x: Tensor) -> bool:
    """Whether oneDNN may be faster for tokens `x`."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or not _wide():
        return False
    # Of rows that lie apart PyTorch adds the bias last.
    usual = x.is_cpu and x.dtype is torch.float32 and x.is_contiguous() and x.shape[-1] > 0
    return usual and x.numel() >= LEAST_ROWS * x.shape[-1] and not watched(x)


def _try(rows: int, outputs: int, channels: int, plain: bool) -> bool:
    """Whether numbers without any pattern, in one product of these sizes, come out the same both ways."""
    case = rows, outputs, channels, plain, torch.get_num_threads()
    if case not in _equal:
        x, weight, bias = _numbers((rows, channels), (outputs, channels), (outputs,))
        added = None if plain else bias
        _equal[case] = torch.equal(F.linear(x, weight, added), _product(x, _parts(weight), added))
    return _equal[case]


def _try_both_layers(rows: int, first: Linear, second: Linear) -> bool:
    """The same of two layers of these sizes."""
    sizes = first.in_features, first.out_features, second.out_features
    case = rows, sizes, first.bias is None, second.bias is None, torch.get_num_threads()
    if case not in _equal:
        x, weight, weight2 = _numbers((rows, sizes[0]), (sizes[1], sizes[0]), (sizes[2], sizes[1]))
        bias, bias2 = _numbers(sizes[1:2], sizes[2:])
        layers = (weight, None if first.bias is None else bias), (weight2, None if second.bias is None else bias2)
        usual = F.linear(F.linear(x, *layers[0]), *layers[1])
        _equal[case] = torch.equal(usual, _in_parts(x, layers[0], lambda y: y, _parts(weight2), layers[1][1]))
    return _equal[case]


def _numbers(*sizes: Sequence[int]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(*size, generator=generator) for size in sizes]


def _in_parts(
    x: Tensor,
    first: tuple[Tensor, Tensor | None],
    function: Callable[[Tensor], Tensor],
    parts: Sequence[Tensor],
    bias2: Tensor | None,
) -> Tensor:
    """As `FeedForward`, of weight and bias of one layer and parts and bias of the other, a part at a time."""
    out, count = None, len(parts)
    biases = [None] * count if first[1] is None else first[1].chunk(count)
    for part, weight, bias in zip(parts, first[0].chunk(count), biases, strict=True):
        out = _added(out, function(_added(None, x, weight, bias)), part, bias2)
    assert out is not None
    return out


def _product(x: Tensor, parts: Sequence[Tensor], bias: Tensor | None) -> Tensor:
    """By oneDNN, in the order of MKL."""
    if len(parts) == 1:
        return _added(None, x, parts[0], bias)
    out = None
    for some, part in zip(x.chunk(len(parts), -1), parts, strict=True):
        out = _added(out, some, part, bias)
    assert out is not None
    return out


@step("projections")
def _added(out: Tensor | None, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x weight^T and, to begin with, the bias, or what is there already."""
    # The package of operators makes its members when they are asked for, so it has no types.
    multiply: Any = torch.ops.mkldnn._linear_pointwise
    made: Tensor = (
        multiply.default(x, weight, bias, "none", (), "")
        if out is None
        else multiply.binary(x, out, weight, None, "add")
    )
    return made


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
