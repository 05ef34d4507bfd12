"""How close a rollout comes to its own matrix products: `python tests/bench/bench_rollout.py [--rounds 5]`.

A float32 rollout of 15 latent frames (dim 768, 6 heads, 6 layers, 390 tokens a frame, window 6) is timed against the
same matrix products (with their bias, as one call) and fused attention calls on their own, in one process: in the same
order, with the same weights and cached entries, on other tokens, which lie side by side in memory. They take turns pass
by pass, so that what else the machine does falls on both alike. Prints the ratio of the two sums, and that of the sums
of each pass's fastest time, which is what is left where other work comes and goes within seconds.

With `--against TREE` the rollout is timed against that of another checkout instead: a process each, which take turns
pass by pass. Prints the other's time over this one's, so that 1.02 is two per cent faster; of processor time as well,
which other work on the machine hardly touches.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from videomla_models.network.build import random_embeddings, randomise
from videomla_models.network.cache import Grid, StreamCache
from videomla_models.network.transformer import VideoTransformer
from videomla_models.rollout.rollout import Prompt, Rollout, SeededNoise
from videomla_models.spec.config import LatentSizes, SamplerConfig, TransformerConfig
from videomla_models.spec.window import WindowPolicy

HEIGHT, WIDTH, FRAMES = 30, 52, 15
WARM_UP = 5
"""Passes of either checkout before those that count."""
Call = Callable[[], Tensor]


class Products(TorchFunctionMode):
    """Notes every matrix product and fused attention call over `cache`, to be made again."""

    def __init__(self, cache: StreamCache) -> None:
        super().__init__()
        self.cache = cache
        self.calls: list[Call] = []
        self._tokens: dict[tuple[int, torch.Size], Tensor] = {}

    def _like(self, tokens: Tensor, place: int = 0) -> Tensor:
        entries = (entry for layer in self.cache.layers for entry in (layer.key, layer.rest) if entry is not None)
        if any(tokens.untyped_storage().data_ptr() == entry.untyped_storage().data_ptr() for entry in entries):
            return tokens
        key = place, tokens.shape
        if key not in self._tokens:
            self._tokens[key] = torch.randn(tokens.shape)
        return self._tokens[key]

    def __torch_function__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if function is F.linear:
            self.calls.append(partial(F.linear, self._like(args[0]), *args[1:]))
        elif function is F.scaled_dot_product_attention:
            self.calls.append(partial(F.scaled_dot_product_attention, *map(self._like, args[:3], range(3))))
        return function(*args, **(kwargs or {}))


def begun(network: VideoTransformer, policy: WindowPolicy) -> Rollout:
    """A rollout with an empty cache."""
    return Rollout(network, policy, 3, SamplerConfig(), Grid(HEIGHT // 2, WIDTH // 2))


def finish(rollout: Rollout, prompt: Prompt) -> None:
    """One clip."""
    noise = SeededNoise((0,), (16, HEIGHT, WIDTH), torch.device("cpu"), torch.float32)
    for _ in rollout.run(noise, prompt, FRAMES):
        pass


def called(rollout: Rollout, prompt: Prompt) -> list[list[Call]]:
    """The products of each pass."""
    products = Products(rollout.cache)
    each: list[list[Call]] = []

    def passed(*_: object) -> None:
        each.append(products.calls)
        products.calls = []

    hook = rollout.network.register_forward_hook(passed)
    with products:
        finish(rollout, prompt)
    hook.remove()
    return each


def replay(calls: list[Call]) -> float:
    """Seconds for the noted products alone."""
    started = time.perf_counter()
    with torch.inference_mode():
        for call in calls:
            call()
    return time.perf_counter() - started


def in_turns(rollout: Rollout, prompt: Prompt, each: list[list[Call]]) -> list[tuple[float, float]]:
    """Seconds of each pass of a rollout, with what lies between it and the one before, and of its products."""
    pairs: list[tuple[float, float]] = []
    resumed = time.perf_counter()

    def passed(*_: object) -> None:
        nonlocal resumed
        seconds = time.perf_counter() - resumed
        pairs.append((seconds, replay(each[len(pairs)])))
        resumed = time.perf_counter()

    hook = rollout.network.register_forward_hook(passed)
    finish(rollout, prompt)
    hook.remove()
    return pairs


SIZES = {"dim": 768, "heads": 6, "layers": 6, "ffn": 3072, "text_width": 512, "text_tokens": 128}
AT_READ = WindowPolicy(6, 1, rotation="read", positions="relative")
ARMS = {
    "write": ("dense, keys rotated at write", WindowPolicy(6, 1), ""),
    "read": ("dense, keys rotated at read", AT_READ, ""),
    "expanded": ("VideoMLA, expanded", AT_READ, "expanded"),
    "absorbed": ("VideoMLA, absorbed", AT_READ, "absorbed"),
}
USUAL = ("write", "read", "expanded")


def built(arm: str) -> tuple[VideoTransformer, WindowPolicy, Prompt]:
    """One arm's network with random weights, its window, and a prompt."""
    _, policy, form = ARMS[arm]
    config = TransformerConfig(**SIZES)  # type: ignore[arg-type]
    if form:
        config = TransformerConfig(**SIZES, attention="latent", latent=LatentSizes(d_c=96, d_q=384))  # type: ignore[arg-type]
    network = VideoTransformer(config).requires_grad_(False)
    randomise(network)
    if form == "absorbed":
        network.use_form("absorbed")
    text = random_embeddings(config.text_tokens, config.text_width)(("a prompt",))
    with torch.inference_mode():
        return network, policy, network.prompt(text)


def measure(arm: str, rounds: int) -> None:
    """Print one arm's ratios."""
    network, policy, prompt = built(arm)
    each = called(begun(network, policy), prompt)
    times = torch.tensor([in_turns(begun(network, policy), prompt, each) for _ in range(rounds)])
    (whole, alone), (least, least_alone) = times.sum((0, 1)) / rounds, times.amin(0).sum(0)
    print(
        f"{ARMS[arm][0]}: rollout {whole:.2f} s, its products alone {alone:.2f} s, ratio {alone / whole:.3f}; "
        f"fastest of {rounds} a pass {least:.2f} s and {least_alone:.2f} s, ratio {least_alone / least:.3f}",
        flush=True,
    )


# ------------------------------------------------------------------------------------- another checkout


def serve(arm: str) -> None:
    """Make rollouts for ever, one pass for each line read.

    Writes where this code lies, and then for each pass its seconds by the clock and of the processor.
    """
    network, policy, prompt = built(arm)
    print(Path(sys.modules["videomla_models.network.cache"].__file__ or "").resolve().parents[1], flush=True)
    sys.stdin.readline()
    resumed = time.perf_counter(), time.process_time()

    def passed(*_: object) -> None:
        nonlocal resumed
        print(time.perf_counter() - resumed[0], time.process_time() - resumed[1], flush=True)
        if not sys.stdin.readline():
            raise SystemExit
        resumed = time.perf_counter(), time.process_time()

    network.register_forward_hook(passed)
    while True:
        finish(begun(network, policy), prompt)


class Served:
    """A process that works on the code in `tree`."""

    def __init__(self, tree: Path, arm: str) -> None:
        command = [sys.executable, __file__, "--serve", arm]
        environment = os.environ | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=tree, env=environment
        )
        if self._line() != str(tree):
            raise SystemExit(f"{tree} holds no `models` that this bench can run")

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def seconds(self) -> tuple[float, float]:
        """Of one more pass: by the clock, and of the processor."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        clock, processor = map(float, self._line().split())
        return clock, processor


def against(tree: Path, arm: str, rounds: int) -> None:
    """Print the time of the checkout `tree` over that of this one."""
    passes = FRAMES // 3 * (len(SamplerConfig().steps) + 1)
    own, other = (Served(place, arm) for place in (Path(__file__).resolve().parents[2], tree.resolve()))
    try:
        for served in (own, other) * WARM_UP:
            served.seconds()
        pairs = []
        for number in range(rounds * passes):
            turn = [(served is other, served.seconds()) for served in ((own, other) if number % 2 else (other, own))]
            pairs.append([seconds for _, seconds in sorted(turn)])
    finally:
        for served in (own, other):
            served.process.kill()
            served.process.wait()
    times = torch.tensor(pairs, dtype=torch.float64).view(rounds, passes, 2, 2)
    for name, found in (("by the clock", times[..., 0]), ("of the processor", times[..., 1])):
        (mine, theirs), (least, least_theirs) = found.sum((0, 1)) / rounds, found.amin(0).sum(0)
        print(
            f"{ARMS[arm][0]}: {mine:.2f} s a clip {name}, {theirs:.2f} s there, ratio {theirs / mine:.3f}; "
            f"median ratio of a pass {(found[..., 1] / found[..., 0]).median():.3f}; "
            f"fastest of {rounds} a pass {least:.2f} s and {least_theirs:.2f} s, ratio {least_theirs / least:.3f}",
            flush=True,
        )


def main() -> None:
    """Dense at write, dense at read, and VideoMLA."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--arm", choices=ARMS, action="append", help=f"may be repeated; {', '.join(USUAL)} unless given"
    )
    parser.add_argument("--against", type=Path, metavar="TREE", help="another checkout of this project")
    parser.add_argument("--serve", choices=ARMS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(given.serve)
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}", flush=True)
    for arm in given.arm or USUAL:
        if given.against:
            against(given.against, arm, given.rounds)
        else:
            measure(arm, given.rounds)


if __name__ == "__main__":
    main()
