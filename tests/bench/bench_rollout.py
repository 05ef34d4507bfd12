"""How close a rollout comes to its own matrix products: `python tests/bench/bench_rollout.py [--rounds 3]`.

A float32 rollout of 15 latent frames (dim 768, 6 heads, 6 layers, 390 tokens a frame, window 6) is timed against the
same matrix products (with their bias, as one call) and fused attention calls on their own, shape by shape, in one
process. They take turns chunk by chunk, so that what else the machine does falls on both alike. Prints the ratio of the
two sums, and how far the rounds lie apart.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from models.build import random_embeddings, randomise
from models.cache import Grid
from models.config import LatentSizes, TransformerConfig
from models.rollout import Rollout, SeededNoise
from models.sampler_config import SamplerConfig
from models.transformer import VideoTransformer
from models.window import WindowPolicy

HEIGHT, WIDTH, FRAMES = 30, 52, 15
Call = tuple[str, tuple[torch.Size, ...]]


class Products(TorchFunctionMode):
    """Notes the shapes of every matrix product and fused attention call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def __torch_function__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if function is F.linear:
            self.calls.append(("linear", tuple(t.shape for t in args[:3] if t is not None)))
        elif function is F.scaled_dot_product_attention:
            self.calls.append(("attention", tuple(t.shape for t in args[:3])))
        return function(*args, **(kwargs or {}))


def rollout(
    network: VideoTransformer, prompt: list[tuple[Tensor, Tensor]], policy: WindowPolicy
) -> Iterator[tuple[int, Tensor]]:
    """One clip, chunk by chunk."""
    made = Rollout(network, policy, 3, SamplerConfig(), Grid(HEIGHT // 2, WIDTH // 2))
    noise = SeededNoise((0,), (16, HEIGHT, WIDTH), torch.device("cpu"), torch.float32)
    return made.run(noise, prompt, FRAMES)


def called(chunks: Iterator[object]) -> list[list[Call]]:
    """The products of each chunk; what follows the last one counts with it."""
    products = Products()
    each: list[list[Call]] = []
    with products:
        for _ in chunks:
            each.append(products.calls)
            products.calls = []
    each[-1] += products.calls
    return each


def replay(calls: list[Call], inputs: dict[Call, list[Tensor]]) -> float:
    """Seconds for the noted products alone."""
    started = time.perf_counter()
    with torch.inference_mode():
        for key in calls:
            if key[0] == "linear":
                F.linear(*inputs[key])
            else:
                F.scaled_dot_product_attention(*inputs[key])
    return time.perf_counter() - started


def in_turns(chunks: Iterator[object], each: list[list[Call]], inputs: dict[Call, list[Tensor]]) -> tuple[float, float]:
    """Seconds of one rollout, and of its products."""
    whole = alone = 0.0
    for calls in each:
        started = time.perf_counter()
        next(chunks)
        if calls is each[-1]:
            next(chunks, None)
        whole += time.perf_counter() - started
        alone += replay(calls, inputs)
    return whole, alone


def measure(name: str, config: TransformerConfig, policy: WindowPolicy, rounds: int) -> None:
    """Print one arm's ratio."""
    network = VideoTransformer(config).requires_grad_(False)
    randomise(network)
    text = random_embeddings(config.text_tokens, config.text_width)(("a prompt",))
    with torch.inference_mode():
        prompt = network.prompt(text)
    each = called(rollout(network, prompt, policy))
    inputs = {key: [torch.randn(shape) for shape in key[1]] for calls in each for key in calls}
    pairs = [in_turns(rollout(network, prompt, policy), each, inputs) for _ in range(rounds)]
    ratios = sorted(alone / whole for whole, alone in pairs)
    whole, alone = (sum(seconds) / rounds for seconds in zip(*pairs, strict=True))
    spread = f"{ratios[0]:.3f} to {ratios[-1]:.3f}"
    print(
        f"{name}: rollout {whole:.2f} s, its products alone {alone:.2f} s, "
        f"ratio {alone / whole:.3f} ({spread}, {rounds} rounds)",
        flush=True,
    )


def main() -> None:
    """Dense at write, dense at read, and VideoMLA."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    sizes = {"dim": 768, "heads": 6, "layers": 6, "ffn": 3072, "text_width": 512, "text_tokens": 128}
    at_read = WindowPolicy(6, 1, rotation="read", positions="relative")
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    measure("dense, keys rotated at write", TransformerConfig(**sizes), WindowPolicy(6, 1), rounds)  # type: ignore[arg-type]
    measure("dense, keys rotated at read", TransformerConfig(**sizes), at_read, rounds)  # type: ignore[arg-type]
    latent = TransformerConfig(**sizes, attention="latent", latent=LatentSizes(d_c=96, d_q=384))  # type: ignore[arg-type]
    measure("VideoMLA, expanded", latent, at_read, rounds)


if __name__ == "__main__":
    main()
