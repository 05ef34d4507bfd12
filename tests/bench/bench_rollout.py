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
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

try:
    from videomla_models.network.build import random_embeddings, randomise
    from videomla_models.network.cache import Grid
    from videomla_models.network.transformer import VideoTransformer
    from videomla_models.rollout.rollout import Prompt, Rollout, SeededNoise
    from videomla_models.spec.config import LatentSizes, SamplerConfig, TransformerConfig
    from videomla_models.spec.window import WindowPolicy
except ImportError:  # another checkout, from before these names (0407059)
    from models.build import random_embeddings, randomise
    from models.cache import Grid
    from models.config import LatentSizes, TransformerConfig
    from models.sampler_config import SamplerConfig
    from models.transformer import VideoTransformer
    from models.window import WindowPolicy

    from models.rollout import Prompt, Rollout, SeededNoise

FRAMES = 15
WARM_UP = 5
"""Passes of either checkout before those that count."""
Call = Callable[[], Tensor]


class Products(TorchFunctionMode):
    """Notes every matrix product and fused attention call of a rollout, to be made again by the same library."""

    def __init__(self, rollout: Rollout) -> None:
        super().__init__()
        # Here, as an older checkout, whose passes this program times as well, has no such module.
        from videomla_models.ops.products import Linear, linear

        self.cache, self.multiply = rollout.cache, linear
        modules = rollout.network.modules()
        self.layers = {module.weight.data_ptr(): module for module in modules if isinstance(module, Linear)}
        self.calls: list[Call] = []
        self._tokens: dict[tuple[int, torch.Size], Tensor] = {}

    def _like(self, tokens: Tensor, place: int = 0) -> Tensor:
        entries = (entry for layer in self.cache.layers for entry in layer.entries())
        if any(tokens.untyped_storage().data_ptr() == entry.untyped_storage().data_ptr() for entry in entries):
            return tokens
        key = place, tokens.shape
        if key not in self._tokens:
            self._tokens[key] = torch.randn(tokens.shape)
        return self._tokens[key]

    def __torch_function__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if function is F.linear:
            weight, bias = args[1], args[2] if len(args) > 2 else None
            layer = self.layers.get(weight.data_ptr())
            self.calls.append(partial(self.multiply, self._like(args[0]), weight, bias, layer))
        elif function is F.scaled_dot_product_attention:
            self.calls.append(partial(F.scaled_dot_product_attention, *map(self._like, args[:3], range(3))))
        return function(*args, **(kwargs or {}))


@dataclass(frozen=True)
class Size:
    """Widths of the networks, and tokens of a latent frame."""

    widths: dict[str, int]
    latent: LatentSizes
    grid: Grid


MEDIUM = Size(
    {"dim": 768, "heads": 6, "layers": 6, "ffn": 3072, "text_width": 512, "text_tokens": 128},
    LatentSizes(d_c=96, d_q=384),
    Grid(15, 26),
)
SMALL = Size(
    {"dim": 192, "heads": 4, "layers": 5, "ffn": 576, "text_width": 64, "text_tokens": 16},
    LatentSizes(d_c=32, d_q=144, d_nope=24, d_rope=24, pairs=(4, 4, 4)),
    Grid(8, 8),
)
"""About the small world's, whose operators cost time beside their products."""


def begun(network: VideoTransformer, policy: WindowPolicy, size: Size) -> Rollout:
    """A rollout with an empty cache."""
    return Rollout(network, policy, 3, SamplerConfig(), size.grid)


def finish(rollout: Rollout, prompt: Prompt) -> None:
    """One clip."""
    grid = rollout.cache.grid
    noise = SeededNoise((0,), (16, 2 * grid.height, 2 * grid.width), torch.device("cpu"), torch.float32)
    for _ in rollout.run(noise, prompt, FRAMES):
        pass


def called(rollout: Rollout, prompt: Prompt) -> list[list[Call]]:
    """The products of each pass."""
    products = Products(rollout)
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


AT_READ = WindowPolicy(6, 1, rotation="read", positions="relative")
ARMS = {
    "write": ("dense, keys rotated at write", WindowPolicy(6, 1), ""),
    "read": ("dense, keys rotated at read", AT_READ, ""),
    "expanded": ("VideoMLA, expanded", AT_READ, "expanded"),
    "absorbed": ("VideoMLA, absorbed", AT_READ, "absorbed"),
}
USUAL = ("write", "read", "expanded")


def built(arm: str, size: Size) -> tuple[VideoTransformer, WindowPolicy, Prompt]:
    """One arm's network with random weights, its window, and a prompt."""
    _, policy, form = ARMS[arm]
    config = TransformerConfig(**size.widths, attention="latent" if form else "dense", latent=size.latent)  # type: ignore[arg-type]
    network = VideoTransformer(config).requires_grad_(False)
    randomise(network)
    if form == "absorbed":
        network.use_form("absorbed")
    text = random_embeddings(config.text_tokens, config.text_width)(("a prompt",))
    with torch.inference_mode():
        return network, policy, network.prompt(text)


def measure(arm: str, size: Size, rounds: int) -> None:
    """Print one arm's ratios."""
    network, policy, prompt = built(arm, size)
    each = called(begun(network, policy, size), prompt)
    times = torch.tensor([in_turns(begun(network, policy, size), prompt, each) for _ in range(rounds)])
    (whole, alone), (least, least_alone) = times.sum((0, 1)) / rounds, times.amin(0).sum(0)
    print(
        f"{ARMS[arm][0]}: rollout {whole:.2f} s, its products alone {alone:.2f} s, ratio {alone / whole:.3f}; "
        f"fastest of {rounds} a pass {least:.2f} s and {least_alone:.2f} s, ratio {least_alone / least:.3f}",
        flush=True,
    )


# ------------------------------------------------------------------------------------- another checkout


def serve(arm: str, size: Size) -> None:
    """Make rollouts for ever, one pass for each line read.

    Writes where this code lies, and then for each pass its seconds by the clock and of the processor.
    """
    network, policy, prompt = built(arm, size)
    print(Path(sys.modules[Rollout.__module__].__file__ or "").resolve(), flush=True)
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
        finish(begun(network, policy, size), prompt)


class Served:
    """A process that works on the code in `tree`, whose packages links in `folder` put before the installed ones."""

    def __init__(self, tree: Path, arm: str, size: Size, folder: Path) -> None:
        command = [sys.executable, __file__, "--serve", arm, *(["--small"] if size is SMALL else [])]
        folder.mkdir()
        for package, place in (("videomla_models", "models"), ("models", "models"), ("harness", "harness")):
            (folder / package).symlink_to(tree / place)
        environment = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=tree, env=environment
        )
        if tree not in Path(self._line()).parents:
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

    def stop(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()


def against(tree: Path, arm: str, size: Size, rounds: int) -> None:
    """Print the time of the checkout `tree` over that of this one."""
    passes = FRAMES // 3 * (len(SamplerConfig().steps) + 1)
    with ExitStack() as undo:
        links = Path(undo.enter_context(TemporaryDirectory()))
        own = Served(Path(__file__).resolve().parents[2], arm, size, links / "own")
        undo.callback(own.stop)
        other = Served(tree.resolve(), arm, size, links / "other")
        undo.callback(other.stop)
        for served in (own, other) * WARM_UP:
            served.seconds()
        pairs = []
        for number in range(rounds * passes):
            turn = [(served is other, served.seconds()) for served in ((own, other) if number % 2 else (other, own))]
            pairs.append([seconds for _, seconds in sorted(turn)])
    times = torch.tensor(pairs, dtype=torch.float64).view(rounds, passes, 2, 2)
    for name, seconds in (("by the clock", times[..., 0]), ("of the processor", times[..., 1])):
        (mine, theirs), (least, least_theirs) = seconds.sum((0, 1)) / rounds, seconds.amin(0).sum(0)
        print(
            f"{ARMS[arm][0]}: {mine:.3f} s a clip {name}, {theirs:.3f} s there, ratio {theirs / mine:.3f}; "
            f"median ratio of a pass {(seconds[..., 1] / seconds[..., 0]).median():.3f}; "
            f"fastest of {rounds} a pass {least:.3f} s and {least_theirs:.3f} s, ratio {least_theirs / least:.3f}",
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
    parser.add_argument("--small", action="store_true", help="networks of about the small world's size")
    options = parser.parse_args()
    size = SMALL if options.small else MEDIUM
    if options.serve:
        serve(options.serve, size)
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}", flush=True)
    for arm in options.arm or USUAL:
        if options.against:
            against(options.against, arm, size, options.rounds)
        else:
            measure(arm, size, options.rounds)


if __name__ == "__main__":
    main()
