"""Denoising steps as data, torch-free."""

from __future__ import annotations

from dataclasses import dataclass

from harness.errors import OptionError

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
    """

    steps: tuple[float, ...] = (1000, 750, 500, 250)
    shift: float = 5.0
    warp: bool = True
    guidance: float = 1.0
    prediction: str = "flow"
    clean_timestep: float = 0.0


def evenly_spaced(count: int) -> tuple[float, ...]:
    """`count` steps from 1000 down, evenly spaced: 4 gives 1000, 750, 500, 250."""
    if not 1 <= count <= TRAIN_STEPS:
        raise OptionError(f"{count} denoising steps", f"choose 1 to {TRAIN_STEPS}")
    return tuple(round(TRAIN_STEPS * (count - i) / count) for i in range(count))
