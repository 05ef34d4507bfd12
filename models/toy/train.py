"""Trains a small model on the small world by teacher forcing: `python -m models.toy.train dense|videomla`.

Steps, not seconds, decide when it ends, so a run can be repeated; it resumes from its last state, with the same result
as an unbroken run. Writes `<model>.safetensors` (float16, exponential average) and `<model>.json`, its record.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import math
import os
import platform
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from models.cache import Grid
from models.codec import PixelCodec
from models.toy.presets import CHUNK, PATCH, WINDOW, network_config
from models.toy.text import NULL_PROMPT, embed
from models.toy.world import BACKGROUNDS, SIZE, Caption, held_out, render_batch, training_captions
from models.training.muon import Muon
from models.training.teacher_forcing import TeacherForcingContext, flow_matching_loss, shifted
from models.transformer import VideoTransformer

log = logging.getLogger(__name__)

ATTENTION = {"dense": "dense", "videomla": "latent"}
FIRST_TRAINING_SEED = 2**20
"""Training clips draw their seeds from here on; evaluation uses smaller ones."""


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


def batch(recipe: Recipe, step: int) -> tuple[Tensor, list[str], Tensor]:
    """The clips of one step, a function of the seed and the step alone.

    Returns:
        Latents [clips, frames, C, h, w], texts (some empty), and weights of the loss, as the latents.
    """
    rng = np.random.default_rng([recipe.seed, step])
    known = training_captions()
    captions = [_crossed(recipe, step, i, known[j]) for i, j in enumerate(rng.integers(len(known), size=recipe.clips))]
    seeds = [int(s) for s in rng.integers(FIRST_TRAINING_SEED, 2**31, size=recipe.clips)]
    clips = render_batch(captions, seeds, recipe.chunks * CHUNK)
    papers = np.array([BACKGROUNDS[c.background] for c in captions], np.uint8)[:, None, None, None, :]
    shape = (clips != papers).any(-1, keepdims=True)
    codec = PixelCodec(PATCH)
    mask = codec.encode(torch.from_numpy(np.where(shape, 255, 0).astype(np.uint8).repeat(3, -1)))
    texts = [NULL_PROMPT if rng.random() < recipe.text_drop else str(c) for c in captions]
    return codec.encode(torch.from_numpy(clips)), texts, 1 + recipe.foreground * (mask + 1) / 2


def _crossed(recipe: Recipe, step: int, index: int, caption: Caption) -> Caption:
    """The caption with a cross for its shape, in a share of the clips; never a held-out one."""
    if np.random.default_rng([recipe.seed, step, index]).random() >= recipe.crosses:
        return caption
    cross = replace(caption, shape="cross")
    return caption if cross in held_out() else cross


def rate(recipe: Recipe, step: int) -> float:
    """Share of the full learning rate: rise, plateau, fall."""
    left = (recipe.steps - step) / max(1.0, recipe.decay * recipe.steps)
    return min(1.0, (step + 1) / recipe.warmup, left)


class Trainer:
    """Network, optimisers and average, and the state that a resumed training starts from."""

    def __init__(self, recipe: Recipe, start: dict[str, Tensor] | None = None) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.step, self.losses = recipe, 0, list[float]()
        self.seconds = 0.0
        config = network_config(ATTENTION[recipe.model])
        self.network = VideoTransformer(config)
        initialise(self.network)
        if start is not None:
            self.network.load_state_dict(start)
        self.average = {name: p.detach().clone() for name, p in self.network.named_parameters()}
        matrices = [p for n, p in self.network.named_parameters() if n.startswith("blocks.") and p.dim() == 2]
        others = [p for n, p in self.network.named_parameters() if not (n.startswith("blocks.") and p.dim() == 2)]
        self.optimisers: list[torch.optim.Optimizer] = [
            Muon(matrices, lr=recipe.matrix_rate),
            torch.optim.AdamW(others, lr=recipe.other_rate, betas=(0.9, 0.99), weight_decay=0.0),
        ]
        side = SIZE // PATCH // config.patch[1]
        self.context = TeacherForcingContext(
            WINDOW, CHUNK, recipe.chunks, Grid(side, side), self.network.rotary_table(), torch.device("cpu")
        )

    def _loss(self, latents: Tensor, text: Tensor, *rest: Tensor) -> Tensor:
        return flow_matching_loss(self.network, self.context, latents, self.network.prompt(text), *rest)

    def advance(self) -> float:
        """One step; returns its loss. Raises `ArithmeticError` when the loss is not finite."""
        recipe, started = self.recipe, time.perf_counter()
        latents, texts, weight = batch(recipe, self.step)
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + self.step)
        uniform = torch.rand(recipe.clips, recipe.chunks, generator=generator)
        noise = torch.randn(latents.shape, generator=generator)
        disturbed = torch.rand(recipe.clips, generator=generator) < recipe.noisy_context
        size = recipe.context_noise * torch.rand(recipe.clips, generator=generator) * disturbed
        clean = latents[:, :-CHUNK]
        context_noise = size.view(-1, 1, 1, 1, 1) * torch.randn(clean.shape, generator=generator)
        sigmas = shifted(uniform, recipe.shift)
        loss = self._loss(latents, embed(texts), sigmas, noise, weight, context_noise)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise ArithmeticError(f"the loss is {value} at step {self.step}; the last saved state is kept")
        loss.backward()  # type: ignore[no-untyped-call]
        self._update()
        self.step += 1
        self.losses.append(value)
        self.seconds += time.perf_counter() - started
        return value

    def _update(self) -> None:
        share = rate(self.recipe, self.step)
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        for optimiser, full in zip(self.optimisers, (self.recipe.matrix_rate, self.recipe.other_rate), strict=True):
            for group in optimiser.param_groups:
                group["lr"] = full * share
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        weights = [p.detach() for p in self.network.parameters()]
        decay = min(self.recipe.average, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(list(self.average.values()), weights, 1 - decay)

    def save(self, path: Path) -> None:
        """Write the whole state so that a crash leaves the old one or the new one."""
        state = {
            "recipe": asdict(self.recipe),
            "step": self.step,
            "seconds": self.seconds,
            "losses": self.losses,
            "network": self.network.state_dict(),
            "average": self.average,
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
        }
        temporary = path.with_suffix(".tmp")
        torch.save(state, temporary)
        os.replace(temporary, path)

    def resume(self, path: Path) -> None:
        """Go on from a saved state. Raises `ValueError` when it belongs to another recipe."""
        state = torch.load(path, weights_only=True)
        if state["recipe"] != asdict(self.recipe):
            raise ValueError(f"{path} was made by another recipe; delete it or choose another --out")
        self.step, self.seconds, self.losses = state["step"], state["seconds"], state["losses"]
        self.network.load_state_dict(state["network"])
        self.average = state["average"]
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)


def initialise(network: VideoTransformer) -> None:
    """Open gates and a silent output: every layer counts from the first step, and the prediction starts at 0."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("modulation") or name.startswith("head.head") or name.startswith("time_projection.1"):
                parameter.zero_()
            if name.startswith("blocks.") and name.endswith(".modulation"):
                parameter[:, (2, 5)] = 1.0


def write_checkpoint(trainer: Trainer, folder: Path) -> dict[str, Any]:
    """Save the averaged weights as float16 and the record of how they came about; returns the record."""
    name = trainer.recipe.model
    path = folder / f"{name}.safetensors"
    save_file({n: t.to(torch.float16).contiguous() for n, t in trainer.average.items()}, str(path))
    losses, window = trainer.losses, 50
    record = {
        "model": f"toy/{name}",
        "recipe": asdict(trainer.recipe),
        "first_training_seed": FIRST_TRAINING_SEED,
        "parameters": sum(t.numel() for t in trainer.average.values()),
        "steps": trainer.step,
        "seconds": round(trainer.seconds, 1),
        "loss_last_steps": round(float(np.mean(losses[-window:])), 5),
        "losses": [round(float(np.mean(losses[i : i + window])), 5) for i in range(0, len(losses), window)],
        "losses_are_means_of_steps": window,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
    }
    (folder / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
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
    digest = hashlib.sha256(given.start.read_bytes()).hexdigest() if given.start else ""
    recipe = Recipe(
        given.model, steps=given.steps, seed=given.seed, decay=given.decay, crosses=given.crosses, start=digest
    )
    trainer = Trainer(recipe, load_file(given.start) if given.start else None)
    state = given.out / f"{given.model}.state"
    if state.exists():
        trainer.resume(state)
    while trainer.step < given.steps:
        trainer.advance()
        if trainer.step % 50 == 0:
            mean, pace = float(np.mean(trainer.losses[-50:])), trainer.seconds / trainer.step
            left = pace * (given.steps - trainer.step) / 60
            log.info("step %d  loss %.4f  %.2f s a step  %.0f min left", trainer.step, mean, pace, left)
        if trainer.step % given.save_every == 0:
            trainer.save(state)
    trainer.save(state)
    record = write_checkpoint(trainer, given.out)
    log.info("%s: %d parameters, loss %.4f", record["model"], record["parameters"], record["loss_last_steps"])


if __name__ == "__main__":
    main()
