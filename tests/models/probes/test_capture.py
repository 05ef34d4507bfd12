"""Chunks compiled block by block and recorded as graphs: the same numbers, few graphs, and refused where they cannot.

There is no CUDA graph without a device; in its place stands one of PyTorch's operators, which likewise repeats what was
launched, on the memory it was launched on, and nothing that the host decides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from test_kernel_chunks import CONFIG, setting
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from harness.errors import NotAvailable
from videomla_models.probes import capture, kernel_chunks
from videomla_models.probes.kernel_chunks import WINDOW, Chunk
from videomla_models.spec.window import WindowPolicy

FORMS = ["dense", "expanded", "absorbed"]


@pytest.mark.parametrize("name", FORMS)
def test_compiled_blocks_make_the_same_chunks_from_few_graphs(name: str) -> None:
    deep = replace(setting(), config=replace(CONFIG, layers=5))
    plain, compiled = Chunk(deep, name, 0), Chunk(replace(deep, compile="blocks", backend="eager"), name, 0)
    for made in (plain, compiled):
        torch.manual_seed(0)
        made._built()
    before = capture.compiled_graphs()
    assert torch.equal(compiled.next(), plain.next())
    graphs = capture.compiled_graphs() - before
    # Up to the context and from there on, of the attention and of the block: not for each of the five layers.
    assert 1 <= graphs <= 4
    for _ in range(4):
        assert torch.equal(compiled.next(), plain.next())
    case = compiled.case()[1]
    assert case.compiled is not None
    assert case.compiled() - before == graphs
    assert case.detail["compile"] == "blocks"
    assert case.staged is None


def test_a_block_that_is_compiled_too_often_does_not_go_on_uncompiled() -> None:
    network = Chunk(replace(setting(), compile="blocks", backend="eager"), "dense", 0)._built()
    modulation = tuple(torch.zeros(1, 1, 48) for _ in range(6))
    text = torch.zeros(1, 8, 2, 24), torch.zeros(1, 8, 2, 24)

    class Itself:
        def attend(self, layer: int, query: Tensor, positional: Tensor, content: Tensor, attend_window: Any) -> Tensor:
            out: Tensor = attend_window(query, positional, content)
            return out

    # pytest's monkeypatch would leave the setting hidden from whatever compiles later in this process.
    with torch.inference_mode(), torch._dynamo.config.patch(recompile_limit=1):
        network.blocks[0](torch.randn(1, 4, 48), modulation, text, 0, Itself())
        with pytest.raises(Exception, match="recompile_limit"):
            network.blocks[0](torch.randn(1, 5, 48), modulation, text, 0, Itself())


class Launches(TorchDispatchMode):
    """Takes down every operator with the memory that it reads and writes."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, made))
        return made

    @torch.inference_mode()
    def replay(self) -> None:
        for func, args, kwargs, made in self.calls:
            for place, fresh in zip(tree_leaves(made), tree_leaves(func(*args, **kwargs)), strict=True):
                if isinstance(place, Tensor) and place.data_ptr() != fresh.data_ptr():
                    place.copy_(fresh)


def record(step: Callable[[], Tensor]) -> capture.Recorded:
    with Launches() as taken:
        out = step()
    return taken.replay, out


def taking_down_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_chunks, "recorder", lambda device: record)


@pytest.mark.parametrize("name", FORMS)
def test_recorded_chunks_are_those_that_are_launched_one_by_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    taking_down_operators(monkeypatch)
    made = Chunk(replace(setting(), compile="graph"), name, 0)
    assert made.check().relative <= 1e-4
    assert made._repeated(made._built()).relative == 0
    first, second, third = made.next().clone(), made.next().clone(), made.next().clone()
    assert not torch.equal(first, second)
    assert not torch.equal(first, third)


def test_chunks_recorded_at_one_place_alone_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    taking_down_operators(monkeypatch)
    monkeypatch.setattr(capture, "period", lambda policy, chunk: 1)
    made = Chunk(replace(setting(), compile="graph"), "dense", 0)
    assert made.check().relative == float("inf")


@pytest.mark.parametrize(
    ("frames", "sink", "chunk", "period"),
    [(7, 1, 3, 2), (7, 1, 1, 6), (6, 0, 3, 2), (7, 1, 2, 3), (3, 0, 3, 1), (6, 1, 3, 5)],
)
def test_after_how_many_chunks_the_ring_stands_the_same(frames: int, sink: int, chunk: int, period: int) -> None:
    """A ring of r slots that takes c at a time is back where it was after r / gcd(r, c) chunks."""
    policy = WindowPolicy(frames, sink, rotation="read", positions="relative")
    assert capture.period(policy, chunk) == period


def test_what_never_repeats_is_refused() -> None:
    with pytest.raises(NotAvailable, match="positions are absolute"):
        capture.period(replace(WINDOW, positions="absolute"), 3)


def test_graphs_are_refused_without_a_device() -> None:
    made = Chunk(replace(setting(), compile="graph"), "dense", 0)
    for call in (made.check, made.next):
        with pytest.raises(NotAvailable, match="CUDA graphs need a CUDA device, not cpu"):
            call()
    assert made._network is None
