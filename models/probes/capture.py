"""A chunk's passes compiled block by block, or recorded as CUDA graphs: alike for every kind of attention."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from harness.errors import NotAvailable
from videomla_models.network.attention.context import AttendWindow, Context
from videomla_models.network.transformer import Block, Modulation, VideoTransformer
from videomla_models.spec.ring import Ring
from videomla_models.spec.window import WindowPolicy

if TYPE_CHECKING:
    from videomla_models.network.attention.dense import TextKeys

Recorded = tuple[Callable[[], None], Tensor]
"""What repeats the recorded launches, and where their result stands after each time."""
Record = Callable[[Callable[[], Tensor]], Recorded]


class _Apart:
    """One layer's context behind a seam that the compiler does not look through.

    Cache writes, rotation and the attention kernel are launched as without compilation, so that every arm runs the
    kernel and backend that its row names; and what changes from layer to layer and from chunk to chunk lies behind it,
    so that all blocks share their graphs.
    """

    def __init__(self, context: Context, layer: int) -> None:
        self.context, self.layer = context, layer

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def attend(
        self, layer: int, query: Tensor, positional: Tensor, content: Tensor, attend_window: AttendWindow
    ) -> Tensor:
        return self.context.attend(self.layer, query, positional, content, attend_window)


def compile_blocks(network: VideoTransformer, backend: str = "inductor") -> None:
    """Have `torch.compile` make every block's forward pass, in place, but for what its context does.

    Args:
        backend: of `torch.compile`.
    """
    # Graphs of a network that was compiled before count towards the limit at which the compiler gives up.
    torch._dynamo.reset()
    # Else a block that is compiled too often would run uncompiled from then on.
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    run = torch.compile(Block.forward, backend=backend, dynamic=False)

    def forward(
        block: Block, x: Tensor, modulation: Modulation, text: TextKeys, layer: int, context: Context
    ) -> Tensor:
        return run(block, x, modulation, text, 0, _Apart(context, layer))

    for block in network.blocks:
        assert isinstance(block, Block)
        block.forward = partial(forward, block)  # type: ignore[method-assign]


def compiled_graphs() -> int:
    """Graphs that `torch.compile` has made in this process."""
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])


def period(policy: WindowPolicy, chunk: int) -> int:
    """After how many chunks those of a full window stand in the same slots, at the same positions, again.

    Raises `NotAvailable` where that never happens.
    """
    ring, seen = Ring(policy.capacity(chunk), policy.sink), dict[Any, int]()
    plain = policy.sink_kind == "kept" and not (policy.average_rates or policy.front or policy.by_head)
    if policy.positions == "absolute" or not plain:
        raise NotAvailable(
            "no chunk repeats the launches of an earlier one: positions are absolute, or frames are averaged or chosen",
            "use compile: none or blocks, or a window with positions: relative and a kept sink",
        )
    index = 0
    while True:
        placement = ring.place(index * chunk, chunk)
        state = (tuple(ring.positions(policy.positions)), placement.runs)
        if len(ring.slots) == ring.capacity and state in seen:
            return index - seen[state]
        seen[state] = index
        index += 1


class Phases:
    """Chunks of a full window whose launches are recorded once for each place in the ring, and then repeated.

    Args:
        step: makes the next chunk, all of whose memory but the result's stays from chunk to chunk.
        period: after how many chunks the same launches come again. record: takes down the launches of a call.
    """

    def __init__(self, step: Callable[[], Tensor], period: int, record: Record) -> None:
        self.step, self.period, self.record = step, period, record
        self._recorded: list[Recorded] = []
        self._repeats = 0

    def next(self) -> Tensor:
        """The next chunk; its memory is written again `period` chunks later."""
        if len(self._recorded) < self.period:
            self._recorded.append(self.record(self.step))
        replay, out = self._recorded[self._repeats % self.period]
        self._repeats += 1
        replay()
        return out


def cuda_graph(step: Callable[[], Tensor], device: torch.device) -> Recorded:
    """Record on a CUDA device; the launches are not made until they are repeated."""
    with torch.cuda.device(device):
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = step()
    return graph.replay, out
