"""Few-step flow matching: the shifted schedule, the flow-to-clean conversion, and re-noising between steps."""

from __future__ import annotations

import torch
from torch import Tensor

from videomla_models.spec.config import TRAIN_STEPS, SamplerConfig, check_sampler


class Schedule:
    """Noise levels of a shifted flow schedule: sigma = s u / (1 + (s - 1) u), u linear from 1 to 0 without its end.

    `timesteps` and `sigmas` of the denoising steps are host floats, so that no pass reads the device.
    """

    def __init__(self, config: SamplerConfig) -> None:
        check_sampler(config)
        steps = config.steps
        u = torch.linspace(1, 0, TRAIN_STEPS + 1)[:-1]
        self.table = config.shift * u / (1 + (config.shift - 1) * u)
        times = self.table * TRAIN_STEPS
        if config.warp:
            # A step that rounds to 0 lies one past the table's end.
            padded = torch.cat([times, torch.zeros(1)])
            chosen = [padded[TRAIN_STEPS - round(s)] for s in steps]
        else:
            chosen = [torch.tensor(float(s)) for s in steps]
        self.config = config
        # The level of the nearest of the thousand steps, as the public samplers look it up.
        self.timesteps = [float(t) for t in chosen]
        self.sigmas = [float(self.table[(times - t).abs().argmin()]) for t in chosen]

    def __len__(self) -> int:
        return len(self.timesteps)

    def clean(self, noisy: Tensor, output: Tensor, sigma: float) -> Tensor:
        """The clean latent that `output` predicts, in the dtype of `noisy`: x_t - sigma * flow, or the output itself.

        Where products alone are of a narrower dtype, as in training, what the noise is mixed with is not.
        """
        if self.config.prediction == "clean":
            return output.to(noisy.dtype)
        return torch.sub(noisy, output, alpha=sigma)

    @staticmethod
    def noisy(clean: Tensor, noise: Tensor, sigma: float) -> Tensor:
        """(1 - sigma) clean + sigma noise."""
        return torch.lerp(clean, noise, sigma)


def guided(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance: unconditional + scale (conditional - unconditional)."""
    return torch.lerp(unconditional, conditional, scale)
