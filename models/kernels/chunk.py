"""Whole chunks of the network as the kernels probe times them: every pass, over a full window, beside their truth."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from harness.contracts import Json
from harness.probes.kernel_bench import Case, Dtype, Error, Shape
from models import cost
from models.config import TransformerConfig
from models.kernels.forms import Form
from models.sampler_config import SamplerConfig
from models.window import WindowPolicy

if TYPE_CHECKING:
    from torch import Tensor

    from models.transformer import VideoTransformer

LIMITS = {"bfloat16": 5e-2, "float16": 1e-2, "float32": 1e-4}
"""Relative error allowed to the latents of a chunk, by dtype. Every layer rounds its activations, and every pass its
latents, to steps of 2^-9 in bfloat16; measured on random networks it comes to a few of these."""

WINDOW = WindowPolicy(7, 1, rotation="read", positions="relative")
"""VideoMLA's window as its text counts it: a sink frame, and six more with the chunk among them."""

ENDLESS = 10**9
"""Chunks, more than anyone times."""

ELEMENT = {"bfloat16": 2, "float16": 2, "float32": 4}


@dataclass(frozen=True, slots=True)
class Setting:
    """What a chunk is made of.

    Attributes:
        config: sizes; its kind of attention is set by the form. grid: latent height and width.
        policy: window. chunk: latent frames. sampler: denoising steps.
        choose: form of latent attention by its name and shape.
    """

    config: TransformerConfig
    dtype: Dtype
    device: str
    choose: Callable[[str, Shape], Form]
    grid: tuple[int, int] = (60, 104)
    policy: WindowPolicy = WINDOW
    chunk: int = 3
    sampler: SamplerConfig = SamplerConfig()  # noqa: RUF009 (frozen)

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
        self._stream: Iterator[Tensor] | None = None

    def case(self) -> tuple[Shape, Case]:
        """For the probe. FLOPs are those that the form needs; bytes are the weights, once a pass."""
        setting = self.setting
        work, steps = setting.work(self.config), len(setting.sampler.steps)
        form = "expanded" if self.name == "dense" else self.name
        flops = cost.flops_per_chunk(self.config, setting.policy, work, steps, form)["total"]
        moved = cost.parameters(self.config) * ELEMENT[setting.dtype] * work.forwards
        detail: dict[str, Json] = {"passes": work.forwards, "window_frames": work.window}
        if self.form is not None:
            detail |= {key: value for key, value in self.form.identity().items() if key != "form"}
        limit = LIMITS[setting.dtype]
        made = Case(f"chunk:{self.name}", float(flops), float(moved), self.next, self.check, limit, 4 * limit, detail)
        return self.shape, made

    def next(self) -> Tensor:
        """One more chunk, [1, chunk, C, H, W]."""
        if self._stream is None:
            self._stream = self._run(self._built(), self.setting.chunk * ENDLESS)
            for _ in range(self.filling):
                next(self._stream)
        return next(self._stream)

    def check(self) -> Error:
        """A chunk over a full window against the same weights in float64, latent attention by its equations.

        Both are made on the past of the latter, so that the chunk's own passes are judged and not those before.
        """
        import torch

        from models.transformer import VideoTransformer

        network, frames = self._built(), self.setting.chunk * (self.filling + 1)
        with torch.device(self.setting.device):
            exact = VideoTransformer(self.config).double().eval().requires_grad_(False)
        exact.load_state_dict(network.state_dict())
        exact.use_form("reference")
        truth = torch.cat(list(self._run(exact, frames)), 1)
        del exact
        made = torch.cat(list(self._run(network, frames, truth)), 1)
        last = slice(frames - self.setting.chunk, None)
        return _error(made[:, last].double(), truth[:, last].double())

    def _built(self) -> VideoTransformer:
        from models.build import build
        from models.kernels.dispatch import Attention

        if self._network is None:
            network = build(self.config, None, self.setting.dtype, self.setting.device).eval().requires_grad_(False)
            if self.form is not None:
                network.use_form(Attention(self.form, strict=self.form.engine == "triton"))
            self._network = network
        return self._network

    def _run(self, network: VideoTransformer, frames: int, past: Tensor | None = None) -> Iterator[Tensor]:
        """Chunks of `network`, on its own past or on `past`; noise and text are those of the timed dtype."""
        import torch

        from models.cache import Grid
        from models.rollout import Rollout

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
        return rollout.run(noise, prompt, frames, history=None if past is None else past.to(kind))


@dataclass(frozen=True, slots=True)
class _Noise:
    """The same numbers for every chunk, on the device already: drawing them is no part of a chunk's passes."""

    first: Tensor
    fresh: Tensor

    def start(self, first: int, count: int) -> Tensor:
        return self.first

    def renoise(self, count: int) -> Tensor:
        return self.fresh


def _error(made: Tensor, truth: Tensor) -> Error:
    """By norms, over everything and over single latent frames."""
    if not bool(made.isfinite().all()):
        return Error(math.inf, math.inf)
    apart, size = (made - truth).flatten(2).norm(dim=-1), truth.flatten(2).norm(dim=-1)
    return Error(float(apart.norm() / size.norm()), float((apart / size).max()))
