"""Consistency distillation: the student learns at each of its few denoising steps where the teacher's path ends.

From a denoising step, a guided teacher is solved down to the next one; the student at the first must predict what the
averaged student predicts at the second, and the end of the path below the last (Song et al. 2023, discrete form; the
guided solver that skips noise levels is Luo et al. 2023's). Shift and guidance of the teacher fold into the student.

The pipeline that the VideoMLA paper names (Causal Forcing, arXiv 2602.02214, `model/naive_consistency.py`) differs, and
can be followed by options: it distils between 48 levels with one Euler step each, where here the default is between the
student's own steps with two; all frames of a batch stand at one level, where here each chunk has its own (`levels_per:
clip` gives all chunks of a clip the same). Below its last level it takes no step, where here the last target is the end
of the teacher's path. Its guidance, uncond + 3 (cond - uncond), is the one here.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from videomla_models.network.attention.dense import TextKeys
from videomla_models.network.transformer import VideoTransformer
from videomla_models.rollout.sampler import guided
from videomla_models.spec.config import TRAIN_STEPS
from videomla_models.training import sharding
from videomla_models.training.loop import GENERATOR, Learner, Stage
from videomla_models.training.options import ConsistencyOptions
from videomla_models.training.parallel_pass import Clips, Data, denoised
from videomla_models.training.teacher_forcing import shifted


class Consistency(Stage):
    """Distils `teacher` into `learner`, whose network starts from the teacher's weights.

    Args:
        teacher: frozen. target: a network of the student's sizes that holds the running average of its weights.
    """

    def __init__(
        self,
        learner: Learner,
        teacher: VideoTransformer,
        target: VideoTransformer,
        data: Data,
        clips: Clips,
        options: ConsistencyOptions,
        seed: int,
    ) -> None:
        self.learners = {GENERATOR: learner}
        self.student, self.teacher, self.target = learner.network, teacher, target
        # The average lives in the target's own parameters, so that both are always the same.
        learner.average = {name: p.detach() for name, p in target.named_parameters()}
        self.data, self.clips, self.options, self.seed = data, clips, options, seed
        self.context, self.teacher_context = clips.context(self.student), clips.context(teacher)
        self.levels = torch.tensor([*options.denoising, 0.0]) / TRAIN_STEPS
        if options.levels:
            self.levels = torch.linspace(1, 0, options.levels + 1)

    def losses(self, step: int) -> Iterator[tuple[str, Tensor]]:
        """One loss, each chunk, or each clip, at a level of its own."""
        batch = self.data.batch(step)
        draw = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        clips, chunks = len(batch.latents), self.clips.chunks
        drawn = torch.randint(len(self.levels) - 1, (clips, self.options.drawn_levels(chunks)), generator=draw)
        index = drawn.expand(clips, chunks)
        noise = torch.randn(batch.latents.shape, generator=draw)
        tensors = (batch.latents, batch.text, batch.weight, noise, self.levels[index], self.levels[index + 1])
        latents, text, weight, noise, here, there = sharding.mine(tensors, self.student)
        nothing = self.data.no_prompt(len(text)).to(text)
        past, kind = latents[:, : -self.clips.chunk], self.clips.prediction
        sigmas, lower = shifted(here, self.options.shift), shifted(there, self.options.shift)
        noisy = torch.lerp(latents, noise, self._wide(sigmas))
        with torch.no_grad():
            prompts = self.teacher.prompt(text), self.teacher.prompt(nothing)
            end = self._solve(past, noisy, here, there, *prompts)
            lower_estimate = denoised(self.target, self.context, past, end, lower, self.target.prompt(text), kind)
            target = torch.where(self._wide(lower) > 0, lower_estimate, end)
        estimate = denoised(self.student, self.context, past, noisy, sigmas, self.student.prompt(text), kind)
        yield GENERATOR, (weight * (estimate - target).square()).mean()

    def _solve(
        self, past: Tensor, x: Tensor, here: Tensor, there: Tensor, prompt: list[TextKeys], nothing: list[TextKeys]
    ) -> Tensor:
        """The guided teacher's path from the levels `here` down to `there`, both before the shift, by Euler steps."""
        options, network = self.options, self.teacher
        for part in range(options.substeps):
            now = shifted(torch.lerp(here, there, part / options.substeps), options.shift)
            then = shifted(torch.lerp(here, there, (part + 1) / options.substeps), options.shift)
            clean = denoised(network, self.teacher_context, past, x, now, prompt, self.clips.prediction)
            if options.guidance != 1:
                without = denoised(network, self.teacher_context, past, x, now, nothing, self.clips.prediction)
                clean = guided(clean, without, options.guidance)
            # On the straight line from clean to noise, x - clean shrinks with the level.
            x = torch.lerp(clean, x, self._wide(then / now))
        return x

    def _wide(self, levels: Tensor) -> Tensor:
        return levels.repeat_interleave(self.clips.chunk, dim=1)[:, :, None, None, None]
