"""Float32 in the order of operations of the recorded VideoMLA rollouts, for replays that must not drift from them.

A sum of floats depends on its order, and those rollouts multiply such differences a hundredfold from chunk to chunk.
Here the order is fixed, whatever the machine's matrix library does: that of the library which made the recordings.
The network, its cache and its sampler are the usual ones; only the arithmetic beneath them is replaced. Slow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from videomla_models.network.attention.context import AttendWindow
from videomla_models.network.attention.dense import RMSNorm
from videomla_models.network.cache import ChunkContext, StreamCache
from videomla_models.network.transformer import InplaceGELU
from videomla_models.ops import reference
from videomla_models.spec.ring import Placement

BLOCK = 128
"""Products that are summed before they are added to what stands in the result, the bias at first."""

FEW_ROWS, GROUP = 8, 4
"""With fewer than `FEW_ROWS` rows, those that fill no group of `GROUP` are summed by `lanes`."""


def fused(x: Tensor, weight: Tensor) -> Tensor:
    """x weight^T with one running sum for each entry, in order of the index, each step rounded once.

    Takes [..., M, K] and [..., N, K], gives [..., M, N]. The product of two float32 is exact in float64; rounding the
    sum there and then to float32 differs from a true fused multiply-add about once in 2^29.
    """
    total = x.new_zeros(*x.shape[:-1], weight.shape[-2])
    for k in range(x.shape[-1]):
        total = (total.double() + x[..., k : k + 1].double() * weight[..., None, :, k].double()).float()
    return total


def lanes(x: Tensor, weight: Tensor) -> Tensor:
    """As `fused`, with four interleaved sums whose products are rounded too."""
    sums = [x.new_zeros(*x.shape[:-1], weight.shape[-2]) for _ in range(4)]
    for k in range(x.shape[-1]):
        sums[k % 4] = sums[k % 4] + x[..., k : k + 1] * weight[..., None, :, k]
    return (sums[0] + sums[2]) + (sums[1] + sums[3])


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear` of float32."""
    rows = x.reshape(-1, x.shape[-1])
    few = rows.shape[0] % GROUP if rows.shape[0] < FEW_ROWS else 0
    many = rows.shape[0] - few
    out = x.new_zeros(many, weight.shape[0]) if bias is None else bias.expand(many, -1)
    for first in range(0, x.shape[-1], BLOCK):
        part = slice(first, first + BLOCK)
        out = out + fused(rows[:many, part], weight[:, part])
    if few:
        remainder = lanes(rows[many:], weight)
        out = torch.cat([out, remainder if bias is None else remainder + bias])
    return out.view(*x.shape[:-1], -1)


def prompt_attention(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Attention to the prompt: [B, H, L, d] each; weights are divided by their sum after the mix."""
    scores = lanes(query, key) * scale
    # Rounded once from float64, since exponentials of float32 differ between machines in their last bit.
    weights = (scores - scores.amax(-1, keepdim=True)).double().exp().float()
    return fused(weights, value.transpose(-1, -2)) * (1 / weights.sum(-1, keepdim=True))


def exact_attention(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Self-attention in float64, rounded at the end: [B, H, L, d] each."""
    q, k, v = (t.transpose(1, 2) for t in (query, key, value))
    return reference.attention(q, k, v, scale).transpose(1, 2).float()


class RecordedNorm(RMSNorm):
    """RMSNorm with the mean of the squares taken as such."""

    def __init__(self, norm: RMSNorm) -> None:
        super().__init__(norm.weight.shape[0], norm.eps)
        self.weight = norm.weight

    def forward(self, x: Tensor) -> Tensor:
        """[..., dim] to [..., dim]."""
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


class RecordedOrder(TorchFunctionMode):
    """While it lasts, float32 products, sums and attention are computed as the recordings were."""

    def __init__(self) -> None:
        super().__init__()
        self.in_self_attention = False
        self._instead: dict[Any, Callable[..., Tensor]] = {
            F.linear: linear,
            torch.addcmul: lambda x, a, b, out: x + a * b,
            # Rounded once (Self-Forcing converts the flow in float64), and mixed without fused steps.
            torch.sub: lambda x, y, alpha=1: (x.double() - alpha * y.double()).float(),
            torch.lerp: lambda x, y, share: (1 - share) * x + share * y,
            F.scaled_dot_product_attention: self._attention,
        }

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Replace what the table names, leave the rest."""
        return self._instead.get(func, func)(*args, **(kwargs or {}))

    def _attention(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        return (exact_attention if self.in_self_attention else prompt_attention)(query, key, value, scale)

    @staticmethod
    def prepare(network: nn.Module) -> None:
        """Replace the norms and GELUs of `network`, and give it a timestep for every frame, as when it was recorded."""
        for module in list(network.modules()):
            for name, child in module.named_children():
                if isinstance(child, RMSNorm):
                    setattr(module, name, RecordedNorm(child))
                elif isinstance(child, InplaceGELU):
                    setattr(module, name, nn.GELU("tanh"))

        def for_every_frame(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            latents, timesteps, prompt, context = args[:4]
            return latents, timesteps.expand(latents.shape[:2]), prompt, context

        network.register_forward_pre_hook(for_every_frame)

    def cache(self, usual: StreamCache) -> StreamCache:
        """An empty cache like `usual`, whose keys stay unrotated and are rotated in float64 when they are read."""
        return _Cache(self, usual)


class _Cache(StreamCache):
    def __init__(self, order: RecordedOrder, usual: StreamCache) -> None:
        super().__init__(
            len(usual.layers), usual.policy, usual.ring.capacity, usual.grid, usual.table, usual.storage, usual.spare
        )
        self.order = order

    def _context(self, placement: Placement, first: int, count: int, device: torch.device) -> ChunkContext:
        return _Context(self, placement, first, count, device)


class _Context(ChunkContext):
    cache: _Cache

    def attend(
        self, layer: int, query: Tensor, positional: Tensor, content: Tensor, attend_window: AttendWindow
    ) -> Tensor:
        """Write the entries as they are, rotate the window, attend."""
        cache, grid = self.cache, self.cache.grid
        entries = cache.layers[layer]
        written = entries.allocated(positional, content, cache.rows)
        entries.write(written, self.placement.runs, positional, content, grid.tokens)
        keys, contents = (tensor[:, : self.filled * grid.tokens] for tensor in written)
        own, window = (cache.table.angles(at, grid.height, grid.width) for at in (self.own, self.positions))
        width = 2 * own.shape[1]
        query = torch.cat([query[..., :-width], reference.rotate(query[..., -width:], own).float()], -1)
        cache.order.in_self_attention = True
        try:
            return attend_window(query, reference.rotate(keys, window).float(), contents)
        finally:
            cache.order.in_self_attention = False
