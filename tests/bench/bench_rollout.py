"""How close a rollout comes to its own matrix products: `python tests/bench/bench_rollout.py`.

A float32 rollout of 15 latent frames (dim 768, 6 heads, 6 layers, 390 tokens a frame, window 6) is timed against the
same matrix products (with their bias, as one call) and fused attention calls on their own, shape by shape, in turn in
one process. Prints the ratio.
"""

from __future__ import annotations

import statistics
import time

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
ROUNDS = 2


class Products(TorchFunctionMode):
    """Notes the shapes of every matrix product and fused attention call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, tuple[torch.Size, ...]]] = []

    def __torch_function__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if function is F.linear:
            self.calls.append(("linear", tuple(t.shape for t in args[:3] if t is not None)))
        elif function is F.scaled_dot_product_attention:
            self.calls.append(("attention", tuple(t.shape for t in args[:3])))
        return function(*args, **(kwargs or {}))


def rollout(network: VideoTransformer, prompt: list[tuple[Tensor, Tensor]], policy: WindowPolicy) -> None:
    """One clip."""
    made = Rollout(network, policy, 3, SamplerConfig(), Grid(HEIGHT // 2, WIDTH // 2))
    noise = SeededNoise((0,), (16, HEIGHT, WIDTH), torch.device("cpu"), torch.float32)
    for _ in made.run(noise, prompt, FRAMES):
        pass


def replay(calls: list[tuple[str, tuple[torch.Size, ...]]]) -> float:
    """Seconds for the noted products alone, inputs made outside."""
    inputs = {key: [torch.randn(shape) for shape in key[1]] for key in set(calls)}
    started = time.perf_counter()
    with torch.inference_mode():
        for key in calls:
            if key[0] == "linear":
                F.linear(*inputs[key])
            else:
                F.scaled_dot_product_attention(*inputs[key])
    return time.perf_counter() - started


def measure(name: str, config: TransformerConfig, policy: WindowPolicy) -> None:
    """Print one arm's ratio."""
    network = VideoTransformer(config).requires_grad_(False)
    randomise(network)
    text = random_embeddings(config.text_tokens, config.text_width)(("a prompt",))
    with torch.inference_mode():
        prompt = network.prompt(text)
    products = Products()
    with products:
        rollout(network, prompt, policy)
    whole, alone = [], []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        rollout(network, prompt, policy)
        whole.append(time.perf_counter() - started)
        alone.append(replay(products.calls))
    ratios = sorted(b / a for a, b in zip(whole, alone, strict=True))
    a, b, ratio = statistics.median(whole), statistics.median(alone), statistics.median(ratios)
    spread = f"{ratios[0]:.3f} to {ratios[-1]:.3f}"
    print(f"{name}: rollout {a:.2f} s, its products alone {b:.2f} s, ratio {ratio:.3f} ({spread}, {ROUNDS} rounds)")


def main() -> None:
    """Dense at write, dense at read, and VideoMLA."""
    sizes = {"dim": 768, "heads": 6, "layers": 6, "ffn": 3072, "text_width": 512, "text_tokens": 128}
    at_read = WindowPolicy(6, 1, rotation="read", positions="relative")
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    measure("dense, keys rotated at write", TransformerConfig(**sizes), WindowPolicy(6, 1))  # type: ignore[arg-type]
    measure("dense, keys rotated at read", TransformerConfig(**sizes), at_read)  # type: ignore[arg-type]
    latent = TransformerConfig(**sizes, attention="latent", latent=LatentSizes(d_c=96, d_q=384))  # type: ignore[arg-type]
    measure("VideoMLA, expanded", latent, at_read)


if __name__ == "__main__":
    main()
