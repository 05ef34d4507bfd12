"""Sizes of a transformer and settings of its sampler, as data; torch-free."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field

from harness.errors import OptionError, shown


@dataclass(frozen=True, slots=True)
class LatentSizes:
    """Widths of VideoMLA's attention (paper section 3; the defaults are its defaults).

    Attributes:
        d_c: cached content latent. d_q: query latent, not cached.
        d_nope, d_rope: content and positional channels of a head; values keep the full head width.
        pairs: complex rotary pairs for time, height and width; they sum to d_rope / 2.
    """

    d_c: int = 192
    d_q: int = 768
    d_nope: int = 96
    d_rope: int = 32
    pairs: tuple[int, int, int] = (6, 5, 5)

    @property
    def cached_scalars(self) -> int:
        """Numbers kept per token and layer: the latent and the head-shared rope key."""
        return self.d_c + self.d_rope


@dataclass(frozen=True, slots=True)
class TransformerConfig:
    """A causal, chunk-wise video transformer with Wan2.1's block (the defaults are Wan2.1-T2V-1.3B).

    Attributes:
        attention: `dense` (per-head keys and values), `latent` (VideoMLA) or `linear` (constant state).
        latent: widths of the latent form; ignored by the others.
        in_channels: channels of a latent frame; `patch` its (time, height, width) patch.
        text_width: of the text embeddings; text_tokens: their number after padding.
        rope_theta, rope_positions: base and length of the rotary table per axis.
    """

    dim: int = 1536
    heads: int = 12
    layers: int = 30
    ffn: int = 8960
    in_channels: int = 16
    patch: tuple[int, int, int] = (1, 2, 2)
    text_width: int = 4096
    text_tokens: int = 512
    freq_dim: int = 256
    eps: float = 1e-6
    rope_theta: float = 10000.0
    rope_positions: int = 1024
    attention: str = "dense"
    latent: LatentSizes = field(default_factory=LatentSizes)

    @property
    def head_dim(self) -> int:
        """Channels of a head."""
        return self.dim // self.heads

    @property
    def cached_scalars(self) -> int:
        """Numbers kept per token and layer; 0 for the linear form, whose state does not grow."""
        return {"dense": 2 * self.dim, "latent": self.latent.cached_scalars, "linear": 0}[self.attention]


LARGEST_SIZE = 1 << 20
"""Of any size of a network; the widest published one has 14,336."""


def check_sizes(config: TransformerConfig) -> None:
    """Raise `OptionError` for sizes that a file states and no network has, before memory is taken for them."""
    numbers = asdict(config)
    latent = numbers.pop("latent")
    kind, eps, theta = (numbers.pop(name) for name in ("attention", "eps", "rope_theta"))
    pairs, patch = latent.pop("pairs"), numbers.pop("patch")
    if kind not in ("dense", "latent", "linear") or len(pairs) != 3 or len(patch) != 3:
        raise OptionError(f"attention {kind!r:.40}, pairs {pairs!r:.40}, patch {patch!r:.40}: they are of no network")
    counted = {**numbers, **latent, **{f"patch {axis}": size for axis, size in enumerate(patch)}}
    counted |= {f"pairs {axis}": size + 1 if type(size) is int else size for axis, size in enumerate(pairs)}
    for name, size in counted.items():
        if type(size) is not int or not 1 <= size <= LARGEST_SIZE:
            raise OptionError(f"{name} is {size!r:.40}", f"a size is a whole number from 1 to {LARGEST_SIZE:,}")
    for name, number in (("eps", eps), ("rope_theta", theta)):
        if type(number) not in (int, float) or not 0 < number < math.inf:
            raise OptionError(f"{name} is {number!r:.40}", "give a number above 0")
    if config.dim % (2 * config.heads):
        raise OptionError(f"{config.heads} heads over a width of {config.dim}", "they divide it into even parts")


TRAIN_STEPS = 1000
"""Length of the noise schedule (Self-Forcing `utils/scheduler.py`)."""


@dataclass(frozen=True, slots=True)
class SamplerConfig:
    """How a chunk is denoised.

    Attributes:
        steps: denoising steps out of 1000, noisiest first. shift: warps the schedule towards noise.
        warp: whether `steps` are looked up in the shifted schedule (Self-Forcing) or used as they are (CausVid).
        guidance: classifier-free guidance scale; 1 is without.
        prediction: what the network's output means: the `flow`, or the clean latent (`clean`).
        clean_timestep: timestep of the pass that writes a finished chunk into the cache.
        first_steps: those of the first chunk of a clip (Causal Forcing++); as `steps` unless given.
    """

    steps: tuple[float, ...] = (1000, 750, 500, 250)
    shift: float = 5.0
    warp: bool = True
    guidance: float = 1.0
    prediction: str = "flow"
    clean_timestep: float = 0.0
    first_steps: tuple[float, ...] = ()


def evenly_spaced(count: int) -> tuple[float, ...]:
    """`count` steps from 1000 down, evenly spaced: 4 gives 1000, 750, 500, 250."""
    if not 1 <= count <= TRAIN_STEPS:
        raise OptionError(f"{count} denoising steps", f"choose 1 to {TRAIN_STEPS}")
    return tuple(round(TRAIN_STEPS * (count - i) / count) for i in range(count))


def check_sampler(config: SamplerConfig) -> None:
    """Raise `OptionError` where a sampler of `config` cannot run."""
    for name in ("steps", "first_steps") if config.first_steps else ("steps",):
        steps = list(getattr(config, name))
        possible = 0 < len(steps) <= TRAIN_STEPS and all(0 < step <= TRAIN_STEPS for step in steps)
        if not possible or steps != sorted(steps, reverse=True):
            raise OptionError(
                f"sampler.{name} {shown(str(steps), 80)} are not falling steps",
                f"give values from {TRAIN_STEPS} down to above 0",
            )
    if config.prediction not in ("flow", "clean"):
        raise OptionError(f"sampler.prediction is {config.prediction!r}", "choose flow or clean")
    if not config.shift > 0:
        raise OptionError(f"sampler.shift is {config.shift}", "choose a value above 0")
