"""Compare a network's attention with the float64 reference while it works: a few queries of some calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from harness.contracts import Agreement, Json
from videomla_models.network.attention.context import AttendWindow
from videomla_models.network.attention.dense import CrossAttention, DenseAttention
from videomla_models.network.attention.latent import LatentAttention
from videomla_models.ops import reference
from videomla_models.ops.encoded import EncodedLatents, numbers
from videomla_models.ops.latent import Attention
from videomla_models.spec.limits import LIMITS, ROW_LIMIT

QUERIES = 16
"""Queries of a call that are compared, spread evenly over it; each attends by itself, whatever the others do."""


class Comparison:
    """What was compared so far: of each layer's calls of a shape the 1st, 2nd, 4th, 8th and so on.

    So early and late passes are seen, before and after frames have left the window; of a batch, one clip in turn.
    """

    def __init__(self, dtype: str) -> None:
        self.limit = LIMITS[dtype]
        self.compared = 0
        self.shapes: set[tuple[int, int]] = set()
        self._calls: Counter[tuple[int, torch.Size, torch.Size]] = Counter()
        self._errors: list[Tensor] = []

    def chosen(self, module: nn.Module, query: Tensor, keys: Tensor) -> tuple[slice, Tensor] | None:
        """Clip and queries to compare; None where this call is passed over."""
        call = id(module), query.shape, keys.shape
        self._calls[call] += 1
        if self._calls[call].bit_count() > 1:
            return None
        self.shapes.add((query.shape[1], keys.shape[1]))
        clip, last = self.compared % query.shape[0], query.shape[1] - 1
        rows = torch.linspace(0, last, min(QUERIES, last + 1), dtype=torch.float64, device=query.device).round().long()
        self.compared += 1
        return slice(clip, clip + 1), rows

    def add(self, out: Tensor, exact: Tensor) -> None:
        """Compare [1, queries, heads, width] with float64 of that shape; nothing waits for the device."""
        whole, row = reference.distance(out, exact)
        self._errors.append(torch.maximum(whole, row / ROW_LIMIT))

    def error(self) -> float:
        """The largest so far: of a call as a whole, or of a row over `ROW_LIMIT`. NaN where any is, or without one."""
        return float(torch.stack(self._errors).max()) if self._errors else float("nan")

    def agreement(self, details: dict[str, Json]) -> Agreement:
        """Everything that was compared."""
        lengths = [list(shape) for shape in sorted(self.shapes)]
        return Agreement(
            reference="float64 attention",
            error=self.error(),
            limit=self.limit,
            compared=self.compared,
            details={"queries_and_keys": lengths, "queries_compared": QUERIES, **details},
        )


class ComparingRunner(Attention):
    """A layer's runner of latent attention that also compares."""

    def __init__(self, module: LatentAttention, comparison: Comparison) -> None:
        inner = module.runner
        self.form, self.strict = inner.form, inner.strict
        self.inner, self.module, self.comparison = inner, module, comparison

    def expanded(self, query: Tensor, c: Tensor | EncodedLatents, r: Tensor, k_up: Tensor, v_up: Tensor) -> Tensor:
        """As the runner does, held against keys and values rebuilt in float64."""
        out = self.inner.expanded(query, c, r, k_up, v_up)
        if (chosen := self.comparison.chosen(self.module, query, r)) is not None:
            clip, rows = chosen
            q_nope, q_rope = torch.split(query[clip, rows], [k_up.shape[1], r.shape[2]], -1)
            c = numbers(c)
            self.comparison.add(
                out[clip, rows], reference.latent_attention(q_nope, q_rope, c[clip], r[clip], k_up, v_up)
            )
        return out

    def absorbed(self, query: Tensor, c: Tensor | EncodedLatents, r: Tensor, scale: float) -> Tensor:
        """As the runner does, held against attention on the latents in float64."""
        out = self.inner.absorbed(query, c, r, scale)
        if (chosen := self.comparison.chosen(self.module, query, r)) is not None:
            clip, rows = chosen
            c = numbers(c)
            q_latent, q_rope = torch.split(query[clip, rows], [c.shape[2], r.shape[2]], -1)
            self.comparison.add(
                out[clip, rows], reference.absorbed_attention(q_latent, q_rope, c[clip], r[clip], scale)
            )
        return out


def _dense(module: DenseAttention | CrossAttention, comparison: Comparison) -> AttendWindow:
    attend_window = module.attend_window

    def compared(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = attend_window(query, key, value)
        if (chosen := comparison.chosen(module, query, key)) is not None:
            clip, rows = chosen
            exact = reference.attention(query[clip, rows], key[clip], value[clip])
            comparison.add(out[clip, rows].view(exact.shape), exact)
        return out

    return compared


@contextmanager
def hold(networks: Sequence[nn.Module], dtype: str) -> Iterator[Comparison]:
    """Compare every dense, latent and cross-attention of `networks` while the context lasts; then all is as before."""
    comparison = Comparison(dtype)
    with ExitStack() as undo:
        for module in (module for network in networks for module in network.modules()):
            if isinstance(module, LatentAttention):
                undo.callback(setattr, module, "runner", module.runner)
                module.runner = ComparingRunner(module, comparison)
            elif isinstance(module, DenseAttention | CrossAttention):
                undo.callback(setattr, module, "attend_window", module.attend_window)
                module.attend_window = _dense(module, comparison)
        yield comparison
