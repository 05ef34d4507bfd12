"""Teacher forcing: all chunks of a clip are denoised at once, each against clean earlier ones in its window.

Flow matching on the chunks of a clip, with the deployment's window and positions (VideoMLA paper, stage 1).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from videomla_models.network.attention.dense import TextKeys
from videomla_models.network.transformer import VideoTransformer
from videomla_models.training import sharding
from videomla_models.training.loop import GENERATOR, Learner, Stage
from videomla_models.training.options import TeacherForcingOptions
from videomla_models.training.parallel_pass import Clips, Data, TeacherForcingContext, denoised

SMALLEST_SIGMA = 0.1
"""Floor of the noise level that divides the flow of a network that predicts the clean latent."""


def shifted(uniform: Tensor, shift: float) -> Tensor:
    """Noise levels from uniform numbers: s u / (1 + (s - 1) u), as the sampler's schedule."""
    return shift * uniform / (1 + (shift - 1) * uniform)


def flow_matching_loss(
    network: VideoTransformer,
    context: TeacherForcingContext,
    latents: Tensor,
    prompt: list[TextKeys],
    sigmas: Tensor,
    noise: Tensor,
    weight: Tensor,
    context_noise: Tensor,
    prediction: str = "clean",
) -> Tensor:
    """Weighted squared error of the predicted flow.

    Args:
        network: predicts what `prediction` says, `clean` latents or their `flow`. context: for this clip length.
        latents: [B, F, C, H, W], whole chunks. prompt: from `network.prompt`.
        sigmas: noise level of every chunk, [B, chunks]. noise: as `latents`.
        weight: of each latent value, broadcast against `latents`.
        context_noise: added to the clean copy, as its frames [B, F - chunk, C, H, W].

    Returns:
        Scalar: mean of weight * ((predicted clean - clean) / max(sigma, SMALLEST_SIGMA))^2.
    """
    chunk = latents.shape[1] // sigmas.shape[1]
    wide = sigmas.repeat_interleave(chunk, dim=1)[:, :, None, None, None]
    noisy = torch.lerp(latents, noise, wide)
    past = latents[:, : latents.shape[1] - chunk] + context_noise
    predicted = denoised(network, context, past, noisy, sigmas, prompt, prediction)
    error = (predicted - latents) / wide.clamp_min(SMALLEST_SIGMA)
    loss: Tensor = (weight * error.square()).mean()
    return loss


class TeacherForcing(Stage):
    """Flow matching of `learner`'s network on `data`."""

    def __init__(self, learner: Learner, data: Data, clips: Clips, options: TeacherForcingOptions, seed: int) -> None:
        self.learners = {GENERATOR: learner}
        self.network, self.data, self.clips, self.options, self.seed = learner.network, data, clips, options, seed
        self.context = clips.context(learner.network)

    def losses(self, step: int) -> Iterator[tuple[str, Tensor]]:
        """One loss, over all noise levels."""
        options, batch = self.options, self.data.batch(step, self.options.text_drop)
        draw = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        latents, count = batch.latents, len(batch.latents)
        uniform = torch.rand(count, self.clips.chunks, generator=draw)
        noise = torch.randn(latents.shape, generator=draw)
        disturbed = torch.rand(count, generator=draw) < options.noisy_context
        size = options.context_noise * torch.rand(count, generator=draw) * disturbed
        clean = latents[:, : -self.clips.chunk]
        context_noise = size.view(-1, 1, 1, 1, 1) * torch.randn(clean.shape, generator=draw)
        sigmas = shifted(uniform, options.shift)
        tensors = (latents, batch.text, sigmas, noise, batch.weight, context_noise)
        latents, text, sigmas, noise, weight, context_noise = sharding.mine(tensors, self.network)
        prompt, kind = self.network.prompt(text), self.clips.prediction
        loss = flow_matching_loss(
            self.network, self.context, latents, prompt, sigmas, noise, weight, context_noise, prediction=kind
        )
        yield GENERATOR, loss
