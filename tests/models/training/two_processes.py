"""What torchrun runs in the test of FSDP: a stage for some steps; the first process writes losses and weights."""

from __future__ import annotations

import sys
from pathlib import Path

import small_world
import torch
from safetensors.torch import save_file

from videomla_models.training import sharding
from videomla_models.training.distribution_matching import CRITIC, DistributionMatching
from videomla_models.training.loop import GENERATOR, Learner, Loop, Rate, Stage
from videomla_models.training.optimisers import adamw
from videomla_models.training.options import MatchingOptions, TeacherForcingOptions
from videomla_models.training.teacher_forcing import TeacherForcing


def stage(name: str) -> Stage:
    network = sharding.shard(small_world.network(silent=False))
    learner = Learner(network, adamw(network, 1e-3, (0.9, 0.99)), 0.9)
    data, clips = small_world.data(4), small_world.clips()
    if name == "teacher_forcing":
        forcing = TeacherForcingOptions(
            stage="teacher_forcing", steps=4, shift=4.0, text_drop=0.2, context_noise=0.1, noisy_context=0.5
        )
        return TeacherForcing(learner, data, clips, forcing, 1)
    critic = sharding.shard(small_world.network(small_world.DENSE, silent=False))
    follows = Learner(critic, adamw(critic, 1e-3, (0.9, 0.99)))
    teacher = sharding.shard(small_world.network(small_world.DENSE, seed=1, silent=False)).requires_grad_(False)
    matching = MatchingOptions(stage="distribution_matching", steps=4, updates=2)
    return DistributionMatching(learner, follows, teacher, data, clips, matching, 1)


def main(name: str, folder: Path) -> None:
    with sharding.processes(torch.device("cpu")):
        broken = Loop(stage(name), Rate(4), {"of": name})
        for _ in range(2):
            broken.advance()
        broken.save(folder / "state")
        loop = Loop(stage(name), Rate(4), {"of": name})
        loop.run(folder / "state", report_every=99)
        weights = loop.stage.learners[GENERATOR].result()
        rank, size = sharding.world()
        if rank == 0:
            losses = {f"loss {n}": torch.tensor(v) for n, v in loop.losses.items() if n in (GENERATOR, CRITIC)}
            save_file({**weights, **losses}, folder / f"{name}-{size}.safetensors")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], Path(sys.argv[2]))
