"""Train a small model on the small world by teacher forcing.

`python -m videomla_models.training.pretrain dense|videomla`

Steps, not seconds, decide when it ends, so a run can be repeated; it resumes from its last state, with the same result
as an unbroken run. Writes `<model>.safetensors` (float16, exponential average) and `<model>.json`, its record.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from harness.system.digests import file_sha256
from harness.system.files import write_atomic
from videomla_models.network.cache import Grid
from videomla_models.network.transformer import VideoTransformer
from videomla_models.small_world.presets import CHUNK, PATCH, WINDOW, network_config
from videomla_models.small_world.world import SIZE
from videomla_models.training.data import FIRST_TRAINING_SEED, ToyData
from videomla_models.training.loop import GENERATOR, Learner, Loop, Rate
from videomla_models.training.optimisers import initialise, muon
from videomla_models.training.parallel_pass import Clips
from videomla_models.training.teacher_forcing import Settings, TeacherForcing

log = logging.getLogger(__name__)

ATTENTION = {"dense": "dense", "videomla": "latent"}


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the result of a training.

    Attributes:
        steps, clips, chunks: optimiser steps, clips per step, chunks per clip.
        matrix_rate, other_rate: learning rates of Muon (matrices of the blocks) and AdamW (the rest).
        warmup: steps of linear rise. decay: share of the steps with linear fall to 0 at the end.
        average: decay of the exponential average that is saved.
        shift: of the noise levels. text_drop: share of clips without a prompt.
        context_noise: largest deviation of the clean copy; noisy_context: share of clips that get it.
        foreground: extra weight of pixels that belong to the shape.
        crosses: share of clips whose shape is exchanged for a cross, the one learned last; 0 leaves all as drawn.
        start: SHA-256 of the checkpoint that the weights start from; empty for random ones.
    """

    model: str
    steps: int = 2200
    clips: int = 8
    chunks: int = 4
    seed: int = 0
    matrix_rate: float = 2e-3
    other_rate: float = 1e-3
    warmup: int = 60
    decay: float = 0.4
    average: float = 0.995
    shift: float = 4.0
    text_drop: float = 0.08
    context_noise: float = 0.1
    noisy_context: float = 0.7
    foreground: float = 2.0
    crosses: float = 0.0
    start: str = ""


def data(recipe: Recipe) -> ToyData:
    """The clips that a recipe shows."""
    return ToyData(recipe.seed, recipe.clips, recipe.chunks, recipe.foreground, recipe.crosses)


def training(recipe: Recipe, start: dict[str, Tensor] | None = None) -> Loop:
    """Teacher forcing by `recipe`, from the weights `start` or from random ones."""
    torch.manual_seed(recipe.seed)
    network = VideoTransformer(network_config(ATTENTION[recipe.model]))
    initialise(network)
    if start is not None:
        network.load_state_dict(start)
    learner = Learner(network, muon(network, recipe.matrix_rate, recipe.other_rate), recipe.average)
    side = SIZE // PATCH // network.config.patch[1]
    clips = Clips(WINDOW, CHUNK, recipe.chunks, Grid(side, side))
    settings = Settings(recipe.shift, recipe.text_drop, recipe.context_noise, recipe.noisy_context)
    stage = TeacherForcing(learner, data(recipe), clips, settings, recipe.seed)
    return Loop(stage, Rate(recipe.steps, recipe.warmup, recipe.decay), asdict(recipe))


def write_checkpoint(trainer: Loop, folder: Path) -> dict[str, Any]:
    """Save the averaged weights as float16 and the record of how they came about; returns the record."""
    name = str(trainer.recipe["model"])
    path = folder / f"{name}.safetensors"
    weights = trainer.stage.learners[GENERATOR].result()
    save_file({n: t.to(torch.float16).contiguous() for n, t in weights.items()}, str(path))
    losses, window = trainer.losses[GENERATOR], 50
    record = {
        "model": f"toy/{name}",
        "recipe": trainer.recipe,
        "first_training_seed": FIRST_TRAINING_SEED,
        "parameters": sum(t.numel() for t in weights.values()),
        "steps": trainer.step,
        "seconds": round(trainer.seconds, 1),
        "loss_last_steps": round(float(np.mean(losses[-window:])), 5),
        "losses": [round(float(np.mean(losses[i : i + window])), 5) for i in range(0, len(losses), window)],
        "losses_are_means_of_steps": window,
        "sha256": file_sha256(path),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
    }
    write_atomic(folder / f"{name}.json", json.dumps(record, indent=1) + "\n")
    return record


def main() -> None:
    """Command line of the training."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", choices=sorted(ATTENTION))
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--seed", type=int, default=0, help="of the data, the noise and the first weights")
    parser.add_argument("--out", type=Path, default=Path("runs/training"), help="folder of state and checkpoint")
    parser.add_argument("--save-every", type=int, default=200, metavar="STEPS")
    parser.add_argument("--start", type=Path, metavar="CHECKPOINT", help="go on from these weights, with a fresh rate")
    parser.add_argument("--decay", type=float, default=Recipe.decay, help="share of the steps with falling rate")
    parser.add_argument("--crosses", type=float, default=0.0, help="share of clips shown with a cross instead")
    parser.add_argument("--threads", type=int, default=0, help="of the processor; 0 leaves the choice to torch")
    given = parser.parse_args()
    if given.steps < 1:
        parser.error("--steps must be at least 1")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if given.threads:
        torch.set_num_threads(given.threads)
    given.out.mkdir(parents=True, exist_ok=True)
    digest = file_sha256(given.start) if given.start else ""
    recipe = Recipe(
        given.model, steps=given.steps, seed=given.seed, decay=given.decay, crosses=given.crosses, start=digest
    )
    trainer = training(recipe, load_file(given.start) if given.start else None)
    trainer.run(given.out / f"{given.model}.state", given.save_every, log.info)
    record = write_checkpoint(trainer, given.out)
    log.info("%s: %d parameters, loss %.4f", record["model"], record["parameters"], record["loss_last_steps"])


if __name__ == "__main__":
    main()
