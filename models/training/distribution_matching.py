"""Distribution matching: the generator is trained on its own rollouts, so that their distribution is the teacher's.

The gradient at a generated clip is the difference of two scores there, that of a frozen guided teacher and that of a
critic which follows the generator (Yin et al. 2024; on rollouts with the cache: Self-Forcing, Huang et al. 2025).
Both score each chunk given the clean generated ones before it, as the teacher was trained to.

Beside the pipeline that the VideoMLA paper names (Causal Forcing, arXiv 2602.02214, `model/dmd.py`):

- noise levels are uniform, shifted, then clamped to [.02, .98], and all chunks of a rollout stop at the same step, as
  here;
- all frames of a clip are scored at one level there, here each chunk at its own, unless `levels_per: clip`;
- guidance is cond + 3 (cond - uncond) there, which is `guidance` 4 here, the default;
- the teacher is Wan2.1-14B there and scores whole clips in both directions, here it is the causal one of stage 1.

A stage of n steps updates the critic n times and the generator n / `updates` times.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from videomla_models.network.attention.context import PassContext
from videomla_models.network.transformer import VideoTransformer
from videomla_models.rollout.rollout import Prompt, Rollout, SeededNoise
from videomla_models.rollout.sampler import guided
from videomla_models.spec.config import SamplerConfig
from videomla_models.training import sharding
from videomla_models.training.loop import GENERATOR, Learner, Stage
from videomla_models.training.options import MatchingOptions
from videomla_models.training.parallel_pass import Clips, Data, denoised
from videomla_models.training.teacher_forcing import flow_matching_loss, shifted

CRITIC = "critic"
LOWEST, HIGHEST = 0.02, 0.98
"""Noise levels, after the shift, between which scores are compared (Self-Forcing)."""


def score_levels(uniform: Tensor, shift: float, chunks: int) -> Tensor:
    """Noise levels [clips, chunks] from numbers in [0, 1), [clips, chunks] or with 1 for the chunks."""
    return shifted(uniform, shift).clamp(LOWEST, HIGHEST).expand(-1, chunks)


class SelfRollout(Rollout):
    """A rollout that stops each chunk after denoising step `last` and can be differentiated through that step alone.

    The earlier steps and the clean pass, which fills the cache, carry no gradient (Self-Forcing, section 3.2).
    """

    learning: bool = False

    def _clean(self, x: Tensor, step: int, prompt: Prompt, context: PassContext) -> Tensor:
        with torch.set_grad_enabled(self.learning and step == self.last):
            return super()._clean(x, step, prompt, context)

    @torch.no_grad()
    def _clean_pass(self, latents: Tensor, prompt: Prompt, context: PassContext) -> None:
        super()._clean_pass(latents.detach(), prompt, context)


class DistributionMatching(Stage):
    """Trains a generator by the scores of `teacher` and of a critic; a generator update every `updates` steps.

    Args:
        generator: starts from the distilled student. critic: starts from the teacher; keeps no average.
        teacher: frozen; its sizes need not be the generator's.
    """

    def __init__(
        self,
        generator: Learner,
        critic: Learner,
        teacher: VideoTransformer,
        data: Data,
        clips: Clips,
        options: MatchingOptions,
        seed: int,
    ) -> None:
        self.learners = {GENERATOR: generator, CRITIC: critic}
        self.generator, self.critic, self.teacher = generator.network, critic.network, teacher
        self.data, self.clips, self.options, self.seed = data, clips, options, seed
        self.critic_context, self.teacher_context = clips.context(self.critic), clips.context(teacher)
        self.sampler = SamplerConfig(options.denoising, options.shift, prediction=clips.prediction)

    def losses(self, step: int) -> Iterator[tuple[str, Tensor]]:
        """The generator's loss in every `updates`-th step, and then the critic's on a rollout of its own."""
        batch = self.data.batch(step)
        draw = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        for name in (GENERATOR, CRITIC):
            last = int(torch.randint(len(self.options.denoising), (), generator=draw))
            seeds = torch.randint(2**62, (len(batch.latents),), generator=draw)
            uniform = torch.rand(len(seeds), self.options.drawn_levels(self.clips.chunks), generator=draw)
            levels = score_levels(uniform, self.options.shift, self.clips.chunks)
            noise = torch.randn(batch.latents.shape, generator=draw)
            if name == GENERATOR and step % self.options.updates:
                continue
            tensors = (batch.text, seeds, levels, noise)
            text, seeds, sigmas, noise = sharding.mine(tensors, self.generator)
            latents = self.rollout(text, seeds.tolist(), last, batch.latents.shape, learning=name == GENERATOR)
            loss = self._match if name == GENERATOR else self._follow
            yield name, loss(latents, text, sigmas, noise)

    def rollout(self, text: Tensor, seeds: list[int], last: int, shape: torch.Size, learning: bool) -> Tensor:
        """Clips of the generator in its weights' dtype, [B, *shape[1:]], each chunk after denoising step `last`."""
        weight = self.generator.patch_embedding.weight
        rollout = SelfRollout(self.generator, self.clips.policy, self.clips.chunk, self.sampler, self.clips.grid)
        rollout.last, rollout.learning = last, learning
        noise = SeededNoise(seeds, (shape[2], shape[3], shape[4]), weight.device, weight.dtype)
        with torch.set_grad_enabled(learning):
            prompt = self.generator.prompt(text)
            return torch.cat(list(rollout.chunks(noise, prompt, shape[1])), dim=1).to(weight)

    def _match(self, latents: Tensor, text: Tensor, sigmas: Tensor, noise: Tensor) -> Tensor:
        """A loss whose gradient at the clip is the critic's prediction less the teacher's, over the size of its error.

        Yin et al. 2024, equations 7 and 8, with clean latents in place of scores.
        """
        kind, frames = self.clips.prediction, latents.detach()
        with torch.no_grad():
            past = frames[:, : -self.clips.chunk]
            noisy = torch.lerp(frames, noise, sigmas.repeat_interleave(self.clips.chunk, dim=1)[:, :, None, None, None])
            theirs = denoised(self.critic, self.critic_context, past, noisy, sigmas, self.critic.prompt(text), kind)
            context, network = self.teacher_context, self.teacher
            real = denoised(network, context, past, noisy, sigmas, network.prompt(text), kind)
            if self.options.guidance != 1:
                nothing = network.prompt(self.data.no_prompt(len(text)).to(text))
                without = denoised(network, context, past, noisy, sigmas, nothing, kind)
                real = guided(real, without, self.options.guidance)
            size = (frames - real).abs().mean(dim=(1, 2, 3, 4), keepdim=True).clamp_min(1e-6)
            target = frames - (theirs - real) / size
        return 0.5 * (latents - target).square().mean()

    def _follow(self, latents: Tensor, text: Tensor, sigmas: Tensor, noise: Tensor) -> Tensor:
        """Flow matching of the critic on generated clips."""
        past = torch.zeros_like(latents[:, : -self.clips.chunk])
        one, kind = latents.new_ones(()), self.clips.prediction
        prompt = self.critic.prompt(text)
        return flow_matching_loss(
            self.critic, self.critic_context, latents, prompt, sigmas, noise, one, past, prediction=kind
        )
