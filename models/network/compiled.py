"""A network's passes by torch.compile: block by block, or whole. Attention and cache stay as they are.

What the cache does with a chunk depends on host integers that change from chunk to chunk, so attention is one opaque
operator of the compiled code. Everything else of a pass has static shapes: each shape is compiled once.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

from harness.contracts import COUNTING
from harness.errors import NotAvailable, OptionError
from videomla_models.network.attention.context import AttendWindow, Context
from videomla_models.network.attention.dense import CrossAttention, TextKeys, by_preferred_alone, scaled_dot_product
from videomla_models.network.attention.latent import LatentAttention
from videomla_models.network.transformer import Block, Modulation, Modulations, VideoTransformer

Kind = Literal["blocks", "graph"]
BACKEND = "inductor"
"""Of torch.compile."""
PASS_LIMIT = 10.0
"""A whole pass may differ so many times as much from the uncompiled one as an attention from its reference, as the
rounding of its layers adds up; chosen here."""
REPLACED = ("forward", "fill")
"""Methods of a network in whose place compiled passes run, whole ones for `fill` as well."""
SHAPES = 64
"""Shapes of a pass that may be compiled: batches, prefixes and rebuilt windows each have their own."""

_operators: Any = torch.library.Library("videomla", "FRAGMENT")  # type: ignore[no-untyped-call]
_operators.define("attend(Tensor query, Tensor positional, Tensor content, int layer, int width) -> Tensor")
_operators.define("attend_text(Tensor query, Tensor key, Tensor value, bool strict) -> Tensor")


class _Pass:
    """The pass that runs now: what its attention sees, and the layer at work where the compiled code serves all."""

    context: Context
    windows: list[AttendWindow]
    layer: int


def _attend(query: Tensor, positional: Tensor, content: Tensor, layer: int, width: int) -> Tensor:
    layer = _Pass.layer if layer < 0 else layer
    # A copy: queries are rotated in place, and an operator must leave its inputs alone.
    out = _Pass.context.attend(layer, query.clone(), positional, content, _Pass.windows[layer])
    return out.contiguous()


def _attend_text(query: Tensor, key: Tensor, value: Tensor, strict: bool) -> Tensor:
    return scaled_dot_product(query, key, value, strict).contiguous()


_operators.impl("attend", _attend, "CompositeExplicitAutograd")
_operators.impl("attend_text", _attend_text, "CompositeExplicitAutograd")


def _like_attend(query: Tensor, positional: Tensor, content: Tensor, layer: int, width: int) -> Tensor:
    return query.new_empty(query.shape[0], query.shape[1], width)


def _like_attend_text(query: Tensor, key: Tensor, value: Tensor, strict: bool) -> Tensor:
    return query.new_empty(query.shape[0], query.shape[1], query.shape[2] * value.shape[3])


torch.library.register_fake("videomla::attend", _like_attend, lib=_operators)
torch.library.register_fake("videomla::attend_text", _like_attend_text, lib=_operators)


class _Seam:
    """The context as compiled code sees it: one operator."""

    def __init__(self, width: int) -> None:
        self.width = width

    def attend(
        self, layer: int, query: Tensor, positional: Tensor, content: Tensor, attend_window: AttendWindow
    ) -> Tensor:
        out: Tensor = torch.ops.videomla.attend(query, positional, content, layer, self.width)
        return out


def _text(query: Tensor, key: Tensor, value: Tensor, strict: bool = False) -> Tensor:
    """Attention to the prompt: one operator in compiled code, and elsewhere what it was."""
    if not torch.compiler.is_compiling():
        return scaled_dot_product(query, key, value, strict)
    out: Tensor = torch.ops.videomla.attend_text(query, key, value, strict)
    return out


def _text_strictly(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return _text(query, key, value, strict=True)


class CompiledPasses:
    """Runs the passes of `network`, which is frozen, in place of its own.

    Args:
        kind: `blocks` compiles one block, whose code serves them all; `graph` the whole pass.

    Raises `NotAvailable` on a CPU without a C++ compiler, and `OptionError` for linear attention.
    """

    def __init__(self, network: VideoTransformer, kind: Kind) -> None:
        import torch._dynamo.config as config

        _require(network)
        config.recompile_limit = max(config.recompile_limit, SHAPES)
        self.network, self.kind = network, kind
        self._errors: list[Tensor] | None = None
        self._calls = 0
        blocks: list[Any] = list(network.blocks)
        first = blocks[0].self_attn
        absorbed = isinstance(first, LatentAttention) and first.runner.form.name == "absorbed"
        self.seam = _Seam(first.heads * first.sizes.d_c if absorbed else network.config.dim)
        for block in blocks:
            if isinstance(block.self_attn, LatentAttention) and absorbed:
                block.self_attn.absorb()  # once, and not in every pass
            if isinstance(block.cross_attn, CrossAttention):
                strict = block.cross_attn.attend_window is by_preferred_alone
                block.cross_attn.attend_window = _text_strictly if strict else _text
        # A shape has one compiled form, whatever was compiled before it, so that a clip does not depend on history.
        settings: dict[str, Any] = {"dynamic": False, "fullgraph": True, "backend": BACKEND}
        self._block: Callable[..., Tensor] = torch.compile(Block.forward, **settings)
        self._whole: Callable[..., Tensor] = torch.compile(VideoTransformer.forward, **settings)
        self._take_over()

    def run(
        self,
        latents: Tensor,
        timesteps: Tensor,
        prompt: list[TextKeys],
        context: Context,
        kept: list[Modulations] | None = None,
    ) -> Tensor:
        """As `VideoTransformer.forward`. FLOPs are counted uncompiled, as compiled code shows none."""
        network, forward = self.network, VideoTransformer.forward
        if COUNTING.get() is not None:
            return forward(network, latents, timesteps, prompt, context, kept)
        _Pass.context = context
        _Pass.windows = [block.self_attn.attend_window for block in network.blocks]  # type: ignore[union-attr,misc]
        try:
            if self.kind == "graph":
                out = self._whole(network, latents, timesteps, prompt, self.seam)
            else:
                out = forward(network, latents, timesteps, prompt, context, kept, self._run_block)
        finally:
            del _Pass.context, _Pass.windows  # or the cache would live as long as the next pass lets it
        if self._errors is not None:
            self._calls += 1
            if self._calls.bit_count() == 1:
                # It writes the same entries over those that are there.
                exact = forward(network, latents, timesteps, prompt, context).double()
                self._errors.append((out.double() - exact).norm() / exact.norm())
        return out

    def _run_block(
        self, block: Block, x: Tensor, modulation: Modulation, text: TextKeys, layer: int, context: Context
    ) -> Tensor:
        _Pass.layer = layer
        return self._block(block, x, modulation, text, -1, self.seam)

    @contextmanager
    def off(self) -> Iterator[None]:
        """The network as it is without, while the context lasts."""
        for name in REPLACED:
            del vars(self.network)[name]
        try:
            yield
        finally:
            self._take_over()

    def _take_over(self) -> None:
        vars(self.network).update(dict.fromkeys(REPLACED, self.run))

    @contextmanager
    def compared(self) -> Iterator[list[Tensor]]:
        """Relative errors of the 1st, 2nd, 4th, 8th pass and so on against the uncompiled ones; none waits."""
        self._errors, self._calls = [], 0
        try:
            yield self._errors
        finally:
            self._errors = None


def _require(network: VideoTransformer) -> None:
    if network.config.attention == "linear":
        raise OptionError("linear attention is not compiled", "leave out `compile`")
    require_compiler(network.head.head.weight.device)


def require_compiler(device: torch.device) -> None:
    """Raise `NotAvailable` where nothing can compile for `device`."""
    compilers = [os.environ.get("CXX", "g++"), "g++", "clang++"]
    if BACKEND == "inductor" and device.type == "cpu" and not any(map(shutil.which, compilers)):
        raise NotAvailable("torch.compile needs a C++ compiler on a CPU, and none is here", "install g++")
