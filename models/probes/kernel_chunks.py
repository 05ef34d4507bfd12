"""Whole chunks of the network as the kernels probe times them: every pass, over a full window, beside their truth."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from harness.contracts import Json, Spans
from harness.contracts.kernels import Case, Compile, Dtype, Error, Shape
from harness.errors import NotAvailable
from videomla_models.ops.choice import Form
from videomla_models.spec import cost
from videomla_models.spec.config import SamplerConfig, TransformerConfig
from videomla_models.spec.window import WindowPolicy

if TYPE_CHECKING:
    from torch import Tensor

    from videomla_models.network.transformer import VideoTransformer
    from videomla_models.probes.capture import Record

LIMITS = {"bfloat16": 5e-2, "float16": 1e-2, "float32": 1e-4}
"""Relative error allowed to the latents of a chunk, by dtype. Every layer rounds its activations, and every pass its
latents, to steps of 2^-9 in bfloat16; measured on random networks it comes to a few of these."""

WINDOW = WindowPolicy(7, 1, rotation="read", positions="relative")
"""VideoMLA's window as its text counts it: a sink frame, and six more with the chunk among them."""

ENDLESS = 10**9
"""Chunks, more than anyone times."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What a chunk is made of.

    Attributes:
        config: sizes; its kind of attention is set by the form. grid: latent height and width.
        policy: window. chunk: latent frames. sampler: denoising steps.
        choose: form of latent attention by its name and shape.
        compile: how the passes run, the same for every form. backend: of `torch.compile`.
    """

    config: TransformerConfig
    dtype: Dtype
    device: str
    choose: Callable[[str, Shape], Form]
    grid: tuple[int, int] = (60, 104)
    policy: WindowPolicy = WINDOW
    chunk: int = 3
    sampler: SamplerConfig = SamplerConfig()  # noqa: RUF009 (frozen)
    compile: Compile = "none"
    backend: str = "inductor"

    def cases(self, seed: int) -> Iterator[tuple[Shape, Case]]:
        """Dense, expanded and absorbed, with the same sizes, window, noise and steps."""
        for name in ("dense", "expanded", "absorbed"):
            yield Chunk(self, name, seed).case()

    def work(self, config: TransformerConfig) -> cost.Workload:
        """The geometry, by arithmetic."""
        return cost.workload(config, self.policy, self.chunk, self.sampler, *self.grid)


class Chunk:
    """A rollout of random weights that is always about to make a chunk with its window full."""

    def __init__(self, setting: Setting, name: str, seed: int) -> None:
        self.setting, self.name, self.seed = setting, name, seed
        self.config = replace(setting.config, attention="dense" if name == "dense" else "latent")
        work = setting.work(self.config)
        self.shape = Shape(1, work.chunk * work.tokens, work.window * work.tokens)
        self.form = None if name == "dense" else setting.choose(name, self.shape)
        self.filling = -(-work.window // work.chunk)
        self._network: VideoTransformer | None = None
        self._next: Callable[[], Tensor] | None = None

    def case(self) -> tuple[Shape, Case]:
        """For the probe. FLOPs are those that the form needs; bytes are the weights, once a pass."""
        setting = self.setting
        work, steps = setting.work(self.config), len(setting.sampler.steps)
        form = "expanded" if self.name == "dense" else self.name
        flops = cost.flops_per_chunk(self.config, setting.policy, work, steps, form)["total"]
        moved = cost.parameters(self.config) * cost.ELEMENT_BYTES[setting.dtype] * work.forwards
        detail: dict[str, Json] = {
            "passes": work.forwards,
            "window_frames": work.window,
            "layers": self.config.layers,
            "compile": setting.compile,
        }
        if self.form is not None:
            detail |= {key: value for key, value in self.form.identity().items() if key != "form"}
        limit = LIMITS[setting.dtype]
        case = Case(
            f"chunk:{self.name}", float(flops), float(moved), self.next, self.check, limit, 4 * limit, detail,
            staged=self.staged if setting.compile == "none" else None,
            compiled=_compiled_graphs if setting.compile == "blocks" else None,
        )  # fmt: skip
        return self.shape, case

    def next(self) -> Tensor:
        """One more chunk, [1, chunk, C, H, W], which may be overwritten when the window has gone round once more."""
        if self._next is None:
            self._next = self._steady(self._built())
        return self._next()

    def staged(self, spans: Spans) -> Tensor:
        """`next`, with its steps named."""
        from videomla_models.probes.stages import named

        with named(spans):
            return self.next()

    def _steady(self, network: VideoTransformer) -> Callable[[], Tensor]:
        """What makes chunk after chunk of a window that is full."""
        if self.setting.compile != "graph":
            return self._filled(network)
        from videomla_models.probes import capture

        record, period = recorder(self.setting.device), self._period()
        return capture.Phases(self._filled(network, period), period, record).next

    def _period(self) -> int:
        from videomla_models.probes import capture

        return capture.period(self.setting.policy, self.setting.chunk)

    def _filled(self, network: VideoTransformer, more: int = 0) -> Callable[[], Tensor]:
        """Chunks on their own past, the first of a full window and `more` of them made already."""
        stream = self._run(network, self.setting.chunk * ENDLESS)
        for _ in range(self.filling + more):
            next(stream)
        return stream.__next__

    def check(self) -> Error:
        """A chunk over a full window against the same weights in float64, latent attention by its equations.

        Both are made on the past of the latter, so that the chunk's own passes are judged and not those before. Of
        recorded chunks the repeated ones are judged as well, by chunks that are launched one by one.
        """
        import torch

        from videomla_models.network.transformer import VideoTransformer

        network, frames = self._built(), self.setting.chunk * (self.filling + 1)
        repeated = self._repeated(network) if self.setting.compile == "graph" else Error(0.0, 0.0)
        with torch.device(self.setting.device):
            exact = VideoTransformer(self.config).double().eval().requires_grad_(False)
        exact.load_state_dict(network.state_dict())
        exact.use_form("reference")
        truth = torch.cat(list(self._run(exact, frames)), 1)
        del exact
        latents = torch.cat(list(self._run(network, frames, truth)), 1)
        last = slice(frames - self.setting.chunk, None)
        return Error.worst([_error(latents[:, last].double(), truth[:, last].double()), repeated])

    def _repeated(self, network: VideoTransformer) -> Error:
        """The worst error of the chunks of three times round.

        Infinite where one lies as far from what it should be as half of the way to the chunk before: the past changes
        the chunks of a random network so little that one made on a wrong past would pass for rounded.
        """
        recorded, period = self._steady(network), self._period()
        launched = self._filled(network, period)
        before, errors = None, list[Error]()
        for _ in range(3 * period):
            latents, truth = recorded().double(), launched().double()
            errors.append(_error(latents, truth))
            if before is not None and (latents - truth).norm() > (truth - before).norm() / 2:
                errors.append(Error(math.inf, math.inf))
            before = truth
        return Error.worst(errors)

    def _built(self) -> VideoTransformer:
        from videomla_models.network.attention.dense import insist
        from videomla_models.network.build import build
        from videomla_models.ops.latent import Attention

        if self.setting.compile == "graph":
            recorder(self.setting.device)
        if self._network is None:
            network = build(self.config, None, self.setting.dtype, self.setting.device).eval().requires_grad_(False)
            insist(network)
            if self.form is not None:
                network.use_form(Attention(self.form, strict=self.form.engine == "triton"))
            if self.setting.compile == "blocks":
                from videomla_models.network.attention.latent import LatentAttention
                from videomla_models.probes import capture

                # The absorbed maps are made at first use, which would be a second thing to compile.
                for layer in network.modules() if self.name == "absorbed" else ():
                    if isinstance(layer, LatentAttention):
                        layer.absorb()
                capture.compile_blocks(network, self.setting.backend)
            self._network = network
        return self._network

    def _run(self, network: VideoTransformer, frames: int, past: Tensor | None = None) -> Iterator[Tensor]:
        """Chunks of `network`, on its own past or on `past`; noise and text are those of the timed dtype."""
        import torch

        from videomla_models.network.cache import Grid
        from videomla_models.rollout.rollout import Rollout

        setting, config = self.setting, self.config
        kind = network.patch_embedding.weight.dtype
        generator = torch.Generator(setting.device).manual_seed(self.seed)

        def normal(*size: int) -> Tensor:
            drawn = torch.randn(size, generator=generator, device=setting.device)
            return drawn.to(getattr(torch, setting.dtype)).to(kind)

        latents = (1, setting.chunk, config.in_channels, *setting.grid)
        noise = _Noise(normal(*latents), normal(*latents))
        with torch.inference_mode():
            prompt = network.prompt(normal(1, config.text_tokens, config.text_width))
        grid = Grid(setting.grid[0] // config.patch[1], setting.grid[1] // config.patch[2])
        rollout = Rollout(network, setting.policy, setting.chunk, setting.sampler, grid)
        if setting.compile == "graph":
            # Recording stops at a table that is copied from the host; of each phase there are the window's and the
            # chunk's own.
            rollout.cache.table.capacity = max(rollout.cache.table.capacity, 2 * self._period())
        return rollout.run(noise, prompt, frames, history=None if past is None else past.to(kind))


def recorder(device: str) -> Record:
    """What records launches on `device`. Raises `NotAvailable` for all but CUDA."""
    if not device.startswith("cuda"):
        raise NotAvailable(f"CUDA graphs need a CUDA device, not {device}", "use compile: none or blocks")
    import torch

    from videomla_models.probes import capture

    return partial(capture.cuda_graph, device=torch.device(device))


def _compiled_graphs() -> int:
    from videomla_models.probes import capture

    return capture.compiled_graphs()


@dataclass(frozen=True, slots=True)
class _Noise:
    """The same numbers for every chunk, on the device already: drawing them is no part of a chunk's passes."""

    first: Tensor
    fresh: Tensor

    def start(self, first: int, count: int) -> Tensor:
        return self.first

    def renoise(self, count: int) -> Tensor:
        return self.fresh


def _error(latents: Tensor, truth: Tensor) -> Error:
    """By norms, over everything and over single latent frames."""
    if not bool(latents.isfinite().all()):
        return Error(math.inf, math.inf)
    apart, size = (latents - truth).flatten(2).norm(dim=-1), truth.flatten(2).norm(dim=-1)
    return Error(float(apart.norm() / size.norm()), float((apart / size).max()))
