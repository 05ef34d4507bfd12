"""What an encoded cache saves and costs: `python tests/bench/bench_codec.py [--rounds 5] [--tokens 96]`.

Bytes: one layer at the widths of the 1.3B model, 1,560 tokens a latent frame, is filled with a window and its storage
counted, in one run against a dense bfloat16 cache of the same window.

Time: a block of that width makes a chunk of five passes on a full window, on one thread, with an exact cache and with
encoded ones in turns; other work on the machine hardly touches processor time. With fewer tokens a frame than 1,560
attention is a smaller part of a pass, so that what encoding adds is a larger one. Two requests take turns beside two at
once.

Slope: peak bytes of live storage a request, of the whole 1.3B model at 480 x 832 in bfloat16 on PyTorch's meta device,
which allocates nothing and runs every call: counted call by call over a chunk on a full window, in batches of growing
size, against the arithmetic of what is kept; with all requests of a batch in one pass, and one after the other
(`at_once: 1`).
"""

from __future__ import annotations

import argparse
import os
import time
import weakref
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from harness.contracts import no_spans
from harness.system import devices
from videomla_models.network.build import random_embeddings, randomise
from videomla_models.network.cache import Grid, StreamCache
from videomla_models.network.transformer import VideoTransformer
from videomla_models.rollout.pipeline import Pipeline
from videomla_models.rollout.rollout import Rollout, SeededNoise
from videomla_models.spec import cost
from videomla_models.spec.config import SamplerConfig, TransformerConfig
from videomla_models.spec.storage import EXACT, Code, Storage
from videomla_models.spec.window import WindowPolicy

CHUNK = 3
CPU = torch.device("cpu")
AT_READ = {"rotation": "read", "positions": "relative"}
TOKENS = 1560


def both(kind: str, group: object = "channel", **rest: object) -> Storage:
    """Content and key in one code; a rope key of 32 channels has groups of at most 32."""
    content = Code(kind, group, **rest)  # type: ignore[arg-type]
    return Storage(content, replace(content, group=32) if group == 64 else content)


STORED: dict[str, tuple[str, Storage]] = {
    "dense, bf16": ("dense", EXACT),
    "dense, int8 by channel": ("dense", both("int8")),
    "dense, int4 by channel": ("dense", both("int4")),
    "VideoMLA, bf16": ("latent", EXACT),
    "VideoMLA, fp8_e4m3 by token": ("latent", both("fp8_e4m3", "token")),
    "VideoMLA, int8 by channel": ("latent", both("int8")),
    "VideoMLA, int8 by 64": ("latent", both("int8", 64)),
    "VideoMLA, int4 by channel": ("latent", both("int4")),
    "VideoMLA, int4 by 64, key by 32": ("latent", both("int4", 64)),
    "VideoMLA, int4 by 64, asymmetric": ("latent", both("int4", 64, symmetric=False)),
    "VideoMLA, int2 by channel, one residual round": ("latent", both("int2", rounds=1)),
}
TIMED = ("VideoMLA, int8 by channel", "VideoMLA, int4 by channel", "VideoMLA, int4 by 64, key by 32",
         "dense, int4 by channel")  # fmt: skip
SLOPES = ("VideoMLA, bf16", "VideoMLA, int8 by channel", "VideoMLA, int4 by channel", "dense, int4 by channel")


def measured_bytes(attention: str, storage: Storage, frames: int) -> int:
    """Storage of one layer's full window at full size, in bfloat16."""
    config = TransformerConfig(attention=attention)
    policy, grid = WindowPolicy(frames, 0, **AT_READ), Grid(30, 52)  # type: ignore[arg-type]
    table = VideoTransformer(replace(config, layers=0)).rotary_table()
    cache = StreamCache(1, policy, policy.capacity(CHUNK), grid, table, storage)
    heads = (config.heads, config.head_dim)
    for first in range(0, frames, CHUNK):
        context = cache.chunk(first, CHUNK, CPU)
        context.clean = True
        shapes = (heads, heads, heads) if attention == "dense" else ((12, 224), (32,), (192,))
        query, key, content = (torch.randn(1, CHUNK * TOKENS, *s, dtype=torch.bfloat16) for s in shapes)
        with torch.inference_mode():
            context.attend(0, query, key, content, lambda q, k, c: q)
    return cache.bytes()


def print_bytes() -> None:
    """One layer's bytes at two windows, and how many times fewer than a dense bfloat16 cache's they are."""
    for frames in (6, 21):
        dense = measured_bytes("dense", EXACT, frames)
        print(f"window of {frames} frames, one layer of one request, 1,560 tokens a frame, measured storage:")
        for name, (attention, storage) in STORED.items():
            count = measured_bytes(attention, storage, frames)
            config = TransformerConfig(attention=attention)
            assert count == storage.layer_bytes(config, TOKENS, frames, 2)
            bits = storage.effective_bits(config, TOKENS, frames, 2)
            print(f"  {name}: {count} bytes, 1/{dense / count:.2f} of the dense bf16 cache, {bits:.3f} bits a number")


def rollout_of(attention: str, storage: Storage, tokens: int, batch: int) -> tuple[Rollout, SeededNoise]:
    """A rollout at the 1.3B model's widths with a window of 21 frames."""
    config = TransformerConfig(attention=attention, layers=1)
    network = VideoTransformer(config).requires_grad_(False)
    randomise(network)
    policy, grid = WindowPolicy(21, 0, **AT_READ), Grid(tokens // 12, 12)  # type: ignore[arg-type]
    rollout = Rollout(network, policy, CHUNK, SamplerConfig(), grid, storage=storage)
    noise = SeededNoise(tuple(range(batch)), (16, 2 * grid.height, 2 * grid.width), CPU, torch.float32)
    return rollout, noise


def chunk_seconds(arms: dict[str, tuple[str, Storage]], tokens: int, rounds: int) -> dict[str, list[float]]:
    """Processor seconds of a chunk on a full window, the arms in turns."""
    runs = {}
    for name, (attention, storage) in arms.items():
        rollout, noise = rollout_of(attention, storage, tokens, 1)
        texts = random_embeddings(512, 4096)(("a",))
        with torch.inference_mode():
            prompt = rollout.network.prompt(texts)
        latents = torch.randn(1, 21, 16, 2 * rollout.cache.grid.height, 2 * rollout.cache.grid.width)
        # A prefix fills the window by clean passes alone.
        runs[name] = rollout.run(noise, prompt, (rounds + 1) * CHUNK, prefix=latents)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            started = time.process_time()
            next(run)
            if turn:
                seconds[name].append(time.process_time() - started)
    return seconds


def print_times(tokens: int, rounds: int) -> None:
    """Processor time of a chunk with encoded caches over that with exact ones."""
    exact = {name: STORED[name] for name in ("VideoMLA, bf16", "dense, bf16")}
    seconds = chunk_seconds(exact | {name: STORED[name] for name in TIMED}, tokens, rounds)
    print(f"a chunk of five passes of one block, window 21, {tokens} tokens a frame, float32, {rounds} rounds:")
    for name in TIMED:
        usual = seconds["VideoMLA, bf16" if STORED[name][0] == "latent" else "dense, bf16"]
        ratios = [own / other for own, other in zip(seconds[name], usual, strict=True)]
        print(
            f"  {name}: {median(seconds[name]):.2f} s of processor time, exact {median(usual):.2f} s, ratio "
            f"{median(ratios):.3f} (from {min(ratios):.3f} to {max(ratios):.3f})"
        )


def print_turns(tokens: int, rounds: int) -> None:
    """Processor time of a chunk of two requests that take turns over that of both at once."""
    unused: Any = None
    config = TransformerConfig(attention="latent", layers=1)
    network = VideoTransformer(config).requires_grad_(False)
    randomise(network)
    policy, size = WindowPolicy(21, 0, **AT_READ), (2 * tokens // 12, 24)  # type: ignore[arg-type]
    stored = STORED["VideoMLA, int4 by channel"][1]
    latents, texts = torch.randn(2, 21, 16, *size), random_embeddings(512, 4096)(("a", "b"))
    runs, seconds = {}, {}
    for at_once in (0, 1):
        pipeline = Pipeline(network, unused, unused, policy, SamplerConfig(), CHUNK, size, CPU, stored, at_once=at_once)
        with torch.inference_mode():
            prompts = [network.prompt(texts[part]) for part in pipeline.parts(2)]
        noise = SeededNoise((0, 1), (16, *size), CPU, torch.float32)
        rollouts = pipeline.rollouts(2, no_spans, 0)
        runs[at_once] = pipeline.run(rollouts, noise, prompts, (rounds + 1) * CHUNK, prefix=latents)
        seconds[at_once] = list[float]()
    for turn in range(rounds + 1):
        for at_once, run in runs.items() if turn % 2 else reversed(runs.items()):
            started = time.process_time()
            next(run)
            if turn:
                seconds[at_once].append(time.process_time() - started)
    ratios = [own / other for own, other in zip(seconds[1], seconds[0], strict=True)]
    print(
        f"two requests, VideoMLA int4 by channel: in turns {median(seconds[1]):.2f} s of processor time, at once "
        f"{median(seconds[0]):.2f} s, ratio {median(ratios):.3f} (from {min(ratios):.3f} to {max(ratios):.3f})"
    )


class Live(TorchDispatchMode):
    """Bytes of all storages that calls made and that are still alive, and the most there were."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor.is_meta:
                self._see(tensor.untyped_storage())
        return out

    def _see(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            self.bytes += size
            self.peak = max(self.peak, self.bytes)
            weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.bytes -= size


def peak_bytes(attention: str, storage: Storage, batch: int, at_once: int) -> int:
    """Peak of live storage, in bytes, while a chunk is made on a full window; weights are there before.

    Args:
        at_once: requests that pass through the network together; 0 for all.
    """
    meta = torch.device("meta")
    with meta:
        network = VideoTransformer(TransformerConfig(attention=attention)).bfloat16().requires_grad_(False)
    policy = WindowPolicy(21, 0, **AT_READ)  # type: ignore[arg-type]
    noise = SeededNoise(tuple(range(batch)), (16, 60, 104), meta, torch.bfloat16)
    tracker = Live()
    unused: Any = None
    pipeline = Pipeline(
        network, unused, unused, policy, SamplerConfig(), CHUNK, (60, 104), meta, storage, at_once=at_once
    )
    with torch.inference_mode(), tracker:
        sizes = [part.stop - part.start for part in pipeline.parts(batch)]
        texts = [torch.empty(size, 512, 4096, dtype=torch.bfloat16, device=meta) for size in sizes]
        prompts = [network.prompt(texts.pop(0)) for _ in sizes]
        prefix = torch.empty(batch, 21, 16, 60, 104, dtype=torch.bfloat16, device=meta)
        next(pipeline.run(pipeline.rollouts(batch, no_spans, 0), noise, prompts, CHUNK, prefix=prefix))
    return tracker.peak


def print_slopes(batches: tuple[int, ...], at_once: int) -> None:
    """Memory a request against cache, keys of the prompt, what a layer makes, and a pass's own tensors."""
    listed = ", ".join(map(str, batches))
    passing = f"{at_once or 'all'} at once"
    print(
        f"peak of live storage over batches of {listed}, {passing}, the 1.3B model, window 21, bfloat16, expanded form:"
    )
    for name in SLOPES:
        attention, storage = STORED[name]
        config = TransformerConfig(attention=attention)
        policy = WindowPolicy(21, 0, **AT_READ)  # type: ignore[arg-type]
        work = cost.workload(config, policy, CHUNK, SamplerConfig(), 60, 104)
        peaks = [peak_bytes(attention, storage, batch, at_once) for batch in batches]
        slope = float(np.polyfit(batches, peaks, 1)[0])
        cache = cost.cache_bytes(config, work, 2, False, storage)
        beside = sum(cost.kept_bytes(config, policy, work, SamplerConfig(), 2).values())
        made = sum(cost.transient_bytes(config, policy, work, "expanded", 2, False, storage).values())
        own = CHUNK * TOKENS * (config.ffn + 2 * config.dim) * 2
        print(
            f"  {name}: {slope / 1e6:.1f} MB a request; cache {cache / 1e6:.1f}, prompt {beside / 1e6:.1f}, "
            f"a layer's own window {made / 1e6:.1f}, a pass's hidden tensors {own / 1e6:.1f}; over cache and prompt "
            f"{slope / (cache + beside):.2f}, with the layer's window {slope / (cache + beside + made):.2f}, with all "
            f"{slope / (cache + beside + made + own):.2f}"
        )


def main() -> None:
    """Print all figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    load = os.getloadavg()[0]
    print(f"{devices.describe('cpu')['name']}, {devices.cores()} cores, load {load:.1f}, torch {torch.__version__}")
    if arguments.rounds:
        print_bytes()
        print_times(arguments.tokens, arguments.rounds)
        print_turns(arguments.tokens, arguments.rounds)
    for at_once in (0, 1):
        print_slopes(tuple(arguments.batches), at_once)


if __name__ == "__main__":
    main()
