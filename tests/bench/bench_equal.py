"""Whether a batch changes a bit: `python tests/bench/bench_equal.py [--batch 2 3 4 6 12 16] [--long 6]`.

Makes the toy suite's clips of both models (two seeds of each prompt with 21 frames, and `--long` prompts with 120)
one by one on all cores, and again in batches on one thread. Prints for each size how many clips have equal latents, in
every bit, and equal pixels. On this rests that batches of the small models share keys on a CPU (docs/concepts.md).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.contracts import Request, registry
from harness.system import devices
from videomla_models.rollout.codecs import PixelCodec
from videomla_models.small_world.presets import PATCH

PROMPTS = Path(__file__).resolve().parents[2] / "suites" / "prompts" / "toy_heldout.txt"
Clip = tuple[str, int, int]
"""Prompt, seed and frames."""


class Noting(PixelCodec):
    """Keeps the latents that it decodes."""

    def __init__(self) -> None:
        super().__init__(PATCH)
        self.seen: list[Tensor] = []

    def decode(self, latents: Tensor) -> Tensor:
        """As `PixelCodec.decode`."""
        self.seen.append(latents.clone())
        return super().decode(latents)


def made(model: Any, codec: Noting, clips: Sequence[Clip]) -> list[tuple[Tensor, np.ndarray]]:
    """Latents and pixels of clips of one length, from one request."""
    codec.seen.clear()
    prompts, seeds, frames = zip(*clips, strict=True)
    pixels = np.concatenate(list(model.stream(Request(prompts, seeds, frames[0]))), 1)
    return list(zip(torch.cat(codec.seen, 1), pixels, strict=True))


def parts(clips: Sequence[Clip], size: int) -> list[Sequence[Clip]]:
    """`clips` in batches."""
    return [clips[start : start + size] for start in range(0, len(clips), size)]


def main() -> None:
    """Print a line for each model and size."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch", type=int, nargs="+", default=[2, 3, 4, 6, 12, 16])
    parser.add_argument("--long", type=int, default=6)
    options = parser.parse_args()
    prompts = [line for line in PROMPTS.read_text(encoding="utf-8").splitlines() if line.strip()]
    short = [(prompt, seed, 21) for prompt in prompts for seed in (0, 1)]
    groups = [group for group in (short, [(prompt, 0, 120) for prompt in prompts[: options.long]]) if group]
    threads = torch.get_num_threads()
    print(
        f"{devices.describe('cpu')['name']}, torch {torch.__version__}, single clips on {threads} threads", flush=True
    )
    for name in ("toy/dense", "toy/videomla"):
        model: Any = registry.models.create(name, {})
        codec = Noting()
        model.load_codec = lambda device, codec=codec: codec
        model.load("cpu")
        torch.set_num_threads(threads)
        alone = {clip: made(model, codec, [clip])[0] for group in groups for clip in group}
        torch.set_num_threads(1)
        for size in options.batch:
            latents = pixels = 0
            for clips in (clips for group in groups for clips in parts(group, size)):
                for clip, (latent, picture) in zip(clips, made(model, codec, clips), strict=True):
                    latents += torch.equal(latent, alone[clip][0])
                    pixels += np.array_equal(picture, alone[clip][1])
            print(
                f"{name}, batch {size}: of {len(alone)} clips {latents} have equal latents, {pixels} equal pixels",
                flush=True,
            )


if __name__ == "__main__":
    main()
