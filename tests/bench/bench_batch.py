"""What batches and processes save: `python tests/bench/bench_batch.py --against PYTHON [--rounds 2] [--clips 192]`.

PYTHON is the interpreter of an environment in which another checkout of this project is installed. Both run the toy
world's models on the same cores, in turns A B B A, each from its own suite file. Prints, for every round and as the
median, this build's time over the other's: per clip of 21 frames, which is what `--clips` more of them add to `harness
run`, for either model, and for the whole of `harness run suites/toy.yaml` (`quickstart.yaml` in older builds); `--what`
leaves some of these out. By the clock, and of the processor in all processes; `fastest` compares the least of either.
Says too how many clips that both made have the same frames, and how busy the machine was before. Beside other work only
the processor's time means something, and of a build whose threads wait for each other not even that.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml

from harness.system import devices

FEW = 24
"""Clips whose time is taken off, as that of starting, loading and ending."""
UNFINISHED = 1
"""Exit status of a run some units of which failed, as a measurement may that takes too long beside other work."""
WHAT = ["dense", "videomla", "first run"]
WHERE = "import harness, pathlib; print(pathlib.Path(harness.__file__).parents[1])"


Times = np.ndarray
"""Seconds by the clock, and of the processor."""


def _processor() -> float:
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ended.ru_utime + ended.ru_stime


class Build:
    """One checkout, run by the interpreter that sees it."""

    def __init__(self, python: str) -> None:
        self.python = python
        # The folder of this program would come first on the path, and hide the installed checkout.
        self.tree = Path(subprocess.check_output([python, "-P", "-c", WHERE], text=True).strip())
        toy = self.tree / "suites" / "toy.yaml"
        self.toy = toy if toy.is_file() else toy.with_name("quickstart.yaml")

    def seconds(self, suite: Path, out: Path) -> Times:
        """Of one `harness run`."""
        command = [self.python, "-P", "-m", "harness", "run", str(suite), "--out", str(out)]
        start, before = time.perf_counter(), _processor()
        ended = subprocess.run(
            command, cwd=self.tree, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False
        )
        if ended.returncode not in (0, UNFINISHED):
            raise SystemExit(f"{' '.join(command)} ended with {ended.returncode}")
        return np.array([time.perf_counter() - start, _processor() - before])

    def suite(self, folder: Path, arm: str, clips: int) -> Path:
        """The toy suite's short clips of one arm alone, so many of them, without metrics."""
        data = yaml.safe_load(self.toy.read_text(encoding="utf-8"))
        section = next(section for section in data["generate"] if section["name"] == "short")
        prompts = self.toy.parent / data["prompts"]["heldout"]["file"]
        section |= {"seeds": list(range(clips // FEW)), "metrics": []}
        small = {
            "suite": "clips",
            "device": "cpu",
            "models": [model for model in data["models"] if model["label"] == arm],
            "prompts": {"heldout": {"file": str(prompts), "limit": FEW}},
            "generate": [section],
        }
        path = folder / f"{arm}-{clips}.yaml"
        path.write_text(yaml.safe_dump(small), encoding="utf-8")
        return path

    def per_clip(self, folder: Path, arm: str, clips: int) -> Times:
        """What a clip adds."""
        more = clips // FEW * FEW
        few, many = (self.seconds(self.suite(folder, arm, n), folder / f"{arm}-{n}") for n in (FEW, FEW + more))
        return (many - few) / more

    def first_run(self, folder: Path) -> Times:
        """Of the whole suite."""
        return self.seconds(self.toy, folder / "first")


def digests(folder: Path) -> dict[str, str]:
    """Of the frames of every clip below `folder`, by key."""
    lines = [json.loads(line) for path in folder.rglob("records.jsonl") for line in path.open(encoding="utf-8")]
    return {line["key"]: line["clip"]["digest"] for line in lines if line["kind"] == "generate" and line["clip"]}


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--against", required=True, metavar="PYTHON")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--clips", type=int, default=192)
    parser.add_argument("--what", nargs="+", choices=WHAT, default=WHAT)
    given = parser.parse_args()
    builds = [Build(sys.executable), Build(given.against)]
    names = given.what
    times: dict[str, list[list[Times]]] = {name: [] for name in names}
    print(f"{devices.describe('cpu')['name']}, {devices.cores()} cores, load {os.getloadavg()[0]:.1f}", flush=True)
    for number in range(given.rounds):
        order = (0, 1) if number % 2 == 0 else (1, 0)
        with tempfile.TemporaryDirectory() as scratch:
            folders = [Path(scratch) / which for which in ("this", "other")]
            for name in names:
                took: dict[int, Times] = {}
                for place in order:
                    folders[place].mkdir(exist_ok=True)
                    build, folder = builds[place], folders[place]
                    whole = name == "first run"
                    took[place] = build.first_run(folder) if whole else build.per_clip(folder, name, given.clips)
                times[name].append([took[0], took[1]])
                print(f"round {number + 1}  {name:<10} {_line(took[0], took[1])}", flush=True)
            this, other = map(digests, folders)
            same = sum(this[key] == other.get(key) for key in this)
            print(f"round {number + 1}  {same} of {len(this)} clips have the other's frames", flush=True)
    for name, pairs in times.items():
        each = np.array(pairs)
        print(f"{name:<10} median ratio {_two(np.median(each[:, 0] / each[:, 1], 0))}; fastest {_line(*each.min(0))}")


def _line(this: Times, other: Times) -> str:
    by = zip(("clock", "processor"), this, other, strict=True)
    return "  ".join(f"{name} {a:.3f} s, other {b:.3f} s, ratio {a / b:.3f}" for name, a, b in by)


def _two(ratios: Times) -> str:
    return f"{ratios[0]:.3f} by the clock, {ratios[1]:.3f} of the processor"


if __name__ == "__main__":
    main()
