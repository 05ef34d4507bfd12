"""What a step of training costs at equal loss: `python tests/bench/bench_training.py --against PYTHON [--threads 1]`.

PYTHON is the interpreter of an environment in which another checkout of this project is installed. Both train the
toy world's dense and latent network from nothing on the same clips, in turns A B B A: the other build by
suites/training/small_models.yaml as it is, this one with `--set` (`fast` and bfloat16 unless given; alone, without
options, it says what the usual path costs). Each training runs in a process of its own, and steps that compile are left
out. Prints, for every round and as the median, seconds per step by the clock and of the processor, this over the
other's, and the mean loss of the last quarter of the steps of either. Beside other work only the processor's time means
something.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from harness.system import devices

RECIPE = Path(__file__).resolve().parents[2] / "suites" / "training" / "small_models.yaml"
FAST = ["base.fast=true", "base.precision=bfloat16"]
COMPILING = 3
"""Steps that are not timed: the first two compile, and the third is made while memory settles."""

TRAIN = """
import json, sys, time, torch
from pathlib import Path
try:
    from harness.suite.recipe import load_recipe
    from videomla_models.training.chain import _Run
    from videomla_models.training.loop import Loop, Rate
except ModuleNotFoundError:  # another checkout, from before these names (0407059)
    from harness.recipe import load as load_recipe
    from models.training.chain import _Run
    from models.training.loop import Loop, Rate

recipe, label, steps, skip, threads, *overrides = sys.argv[1:]
torch.set_num_threads(int(threads))
trainings = load_recipe(Path(recipe), overrides)[1]
(chain,) = [t.options for t in trainings if t.label == label]
run = _Run(chain, 0, Path("."), [], print, "cpu")
precision = torch.bfloat16 if chain.precision == "bfloat16" else None
stage = chain.stages[0]
loop = Loop(run._stage(), Rate(stage.steps, stage.warmup, stage.decay), {}, precision)
clock, processor, losses = [], [], []
for step in range(int(steps)):
    begun = time.perf_counter(), time.process_time()
    losses.append(loop.advance()["generator"])
    clock.append(time.perf_counter() - begun[0])
    processor.append(time.process_time() - begun[1])
timed = slice(int(skip), None)
median = lambda numbers: sorted(numbers)[len(numbers) // 2]
last = losses[-len(losses) // 4:]
print(json.dumps([median(clock[timed]), median(processor[timed]), sum(last) / len(last)]))
"""


def train(python: str, label: str, steps: int, threads: int, overrides: list[str]) -> np.ndarray:
    """Seconds per step by the clock and of the processor, and the last loss, of one training."""
    command = [python, "-P", "-c", TRAIN, str(RECIPE), label, str(steps), str(COMPILING), str(threads), *overrides]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if ended.returncode:
        raise SystemExit(f"{python}: {ended.stderr.strip().splitlines()[-1]}")
    return np.array(json.loads(ended.stdout.splitlines()[-1]))


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--against", required=True, metavar="PYTHON")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--arms", nargs="+", default=["dense", "videomla"])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2, help="of either; beside other work 1, or threads wait")
    parser.add_argument("--set", nargs="*", default=FAST, help="of this build alone")
    given = parser.parse_args()
    print(f"{devices.describe('cpu')['name']}, {devices.cores()} cores, load {os.getloadavg()[0]:.1f}", flush=True)
    for label in given.arms:
        pairs = []
        for number in range(given.rounds):
            sides = [(sys.executable, given.set), (given.against, [])]
            took = {}
            for place in (0, 1) if number % 2 == 0 else (1, 0):
                python, overrides = sides[place]
                took[place] = train(python, label, given.steps, given.threads, overrides)
            pairs.append([took[0], took[1]])
            print(f"round {number + 1}  {label:<9} {_line(took[0], took[1])}", flush=True)
        each = np.array(pairs)
        clock, processor, loss = np.median(each[:, 0] / each[:, 1], axis=0)
        print(f"{label:<9} median ratios: {clock:.3f} by the clock, {processor:.3f} of the processor, loss {loss:.4f}")


def _line(this: np.ndarray, other: np.ndarray) -> str:
    clock, processor, loss = this / other
    times = f"clock {this[0]:.3f} s, other {other[0]:.3f} s, ratio {clock:.3f}  processor {this[1]:.3f} s, other"
    return (
        f"{times} {other[1]:.3f} s, ratio {processor:.3f}  loss {this[2]:.4f}, other {other[2]:.4f}, ratio {loss:.4f}"
    )


if __name__ == "__main__":
    main()
