"""VBench's seven quality dimensions: the package's own API and this project on the same clips, in turn.

    python tests/bench/bench_vbench.py [--clips 6] [--frames 48] [--size 416x240] [--dimensions NAME ...]

Random weights in true shapes, one thread, the built environment `vbench`. The package scores all clips dimension by
dimension, this project clip by clip on all dimensions, each in a process of its own; they take turns of a few seconds,
in which the other one is stopped, so that what disturbs one disturbs the other. The turns are as long as the aim says,
so that both end at about the same time. Both load their networks within the time. Prints processor seconds, which other
work on the machine disturbs less than the clock's, the largest difference of any number, and the seconds of all turns
and peak memory in all. Here a dimension is charged with what its scorer computes; frames resized for both CLIPs are
charged to the first that asks, and decoding, which the package does for each dimension anew, stands by itself. Then the
peak memory of both on one clip of `--frames` and on one of `--memory` frames, two processes at a time and with networks
of a few layers, since what grows with the clip is what is kept of its frames: this project on every dimension, the
package on background consistency alone.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve()
PROJECT = HERE.parents[2]
QUALITY = (
    "temporal_flickering",
    "background_consistency",
    "motion_smoothness",
    "imaging_quality",
    "subject_consistency",
    "dynamic_degree",
    "aesthetic_quality",
)
HUNGRIEST = "background_consistency"
"""The dimension for which the package holds all frames, and what every layer makes of them, at once."""


AIM = 1.3
"""How many times as fast as the package this project is to be."""
TURN = 2.0
"""Seconds of this project's turns."""


# ------------------------------------------------------------------------------- inside the environment


class Package:
    """The package's API: VBench.evaluate on the folder of clips."""

    def __init__(self) -> None:
        from vbench import VBench

        self.out = tempfile.mkdtemp()
        self.runner = VBench("cpu", "", self.out)

    def __call__(self, request: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, float]]:
        name = request["dimension"]
        self.runner.evaluate(request["folder"], name, [], [name], local=True, mode="custom_input")
        (_, rows) = json.loads((Path(self.out) / f"{name}_eval_results.json").read_text())[name]
        scale = 100 if name == "imaging_quality" else 1
        return {Path(row["video_path"]).name: {name: float(row["video_results"]) / scale} for row in rows}, {}


class Timed:
    """A scorer whose processor time is noted."""

    def __init__(self, make: Any, name: str, spent: dict[str, float]) -> None:
        self.name, self.spent = name, spent
        self.scorer = self.note(make)

    def note(self, call: Any, *given: Any) -> Any:
        """What `call` gives; its time is added."""
        before = time.process_time()
        answer = call(*given)
        self.spent[self.name] += time.process_time() - before
        return answer

    def push(self, *given: Any) -> None:
        self.note(self.scorer.push, *given)

    def finish(self) -> Any:
        return self.note(self.scorer.finish)


class Ours:
    """This project: one pass over a clip for every dimension."""

    def __init__(self) -> None:
        sys.path.append(str(PROJECT))
        import vbench  # noqa: F401  (the same start as the package's)

        from harness.metrics.vbench_job import scoring
        from harness.metrics.vbench_job.loading import Networks

        self.networks = Networks(Path(os.environ["VBENCH_CACHE_DIR"]), "cpu")
        self.scoring = scoring
        self.spent: dict[str, float] = defaultdict(float)
        make = scoring.scorer_for
        scoring.scorer_for = lambda name, *given: Timed(lambda: make(name, *given), name, self.spent)

    def __call__(self, request: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, float]]:
        self.spent.clear()
        scores = self.scoring.score_clip(self.networks, request["path"], request["dimensions"], "", {})
        return {Path(request["path"]).name: scores}, dict(self.spent)


def child(side: str) -> None:
    """Answer each line of standard input: the scores, and what they cost since the last answer."""
    import resource

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import torch

    torch.set_num_threads(1)
    scorer = Package() if side == "package" else Ours()
    cpu = 0.0
    scores: dict[str, Any] = {}
    spent: dict[str, float] = {}
    while True:
        now = time.process_time()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        cost = {"cpu": now - cpu, "peak": peak}
        answers.write(json.dumps({"scores": scores, "spent": spent, **cost}) + "\n")
        answers.flush()
        line = sys.stdin.readline()
        if not line:
            return
        cpu = time.process_time()
        scores, spent = scorer(json.loads(line))


# --------------------------------------------------------------------------------------------- outside


def make_clips(folder: Path, count: int, frames: int, width: int, height: int) -> list[str]:
    """Textures that drift, each at a speed of its own, written as the harness writes clips."""
    from harness.system.video import write

    paths = []
    for number in range(count):
        rng = np.random.default_rng(number)
        tile = rng.integers(0, 256, (height // 8 + 12, width // 8 + 12, 3)).astype(np.uint8)
        picture = np.kron(tile, np.ones((8, 8, 1), np.uint8))
        moves = [(i * number % 64, i * (number + 1) % 64) for i in range(frames)]
        pixels = np.stack([picture[y : y + height, x : x + width] for y, x in moves])
        path = folder / f"clip {number}-0.mp4"
        write(path, [pixels], Fraction(16), 18, "medium")
        paths.append(str(path))
    return paths


class Side:
    """A child process that scores, and what it has cost so far."""

    def __init__(self, python: Path, weights: Path, side: str) -> None:
        settings = {
            **os.environ,
            "VBENCH_CACHE_DIR": str(weights),
            "TORCH_HOME": str(weights / "torch"),
            "OMP_NUM_THREADS": "1",
            "http_proxy": "http://127.0.0.1:9",
            "https_proxy": "http://127.0.0.1:9",
        }
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the process
        command = [str(python), "-W", "ignore", str(HERE), "--child", side]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self.log}
        self.process = subprocess.Popen(command, text=True, env=settings, **pipes)
        self.scores: dict[str, dict[str, float]] = defaultdict(dict)
        self.spent: dict[str, float] = defaultdict(float)
        self.cpu = self.peak = 0.0
        began = time.perf_counter()
        self._answer("starting")
        self.wall = time.perf_counter() - began

    def ask(self, label: str, **request: Any) -> None:
        """Score; the time goes to `label`, except what the child charges to a dimension."""
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        self._answer(label)

    def _answer(self, label: str) -> None:
        line = self.process.stdout.readline()
        if not line:
            self.log.seek(0)
            sys.exit(self.log.read()[-3000:])
        answer = json.loads(line)
        for name, scores in answer["scores"].items():
            self.scores[name] |= scores
        for name, seconds in answer["spent"].items():
            self.spent[name] += seconds
        self.spent[label] += answer["cpu"] - sum(answer["spent"].values())
        self.cpu += answer["cpu"]
        self.peak = answer["peak"]
        print(f"  {label}: {answer['cpu']:.0f} s", file=sys.stderr, flush=True)

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
        self.log.close()


def in_turns(work: Sequence[tuple[Side, Callable[[], None], float]]) -> None:
    """Do the work of each side while the others are stopped, so many seconds at a time; adds up its turns."""
    waiting: list[tuple[Side, Future[None], float]] = []
    with ThreadPoolExecutor(len(work)) as pool:
        for side, job, seconds in work:
            side.process.send_signal(signal.SIGSTOP)
            waiting.append((side, pool.submit(job), seconds))
        while waiting:
            side, doing, seconds = waiting.pop(0)
            side.process.send_signal(signal.SIGCONT)
            began = time.perf_counter()
            wait([doing], seconds)
            side.wall += time.perf_counter() - began
            if not doing.done():
                side.process.send_signal(signal.SIGSTOP)
                waiting.append((side, doing, seconds))
            elif doing.exception():
                for other, *_ in waiting:
                    other.process.kill()
                doing.result()


def compare(python: Path, weights: Path, clips: Sequence[str], dimensions: Sequence[str]) -> None:
    """Both sides in turn, and a row for each dimension."""
    package, ours = Side(python, weights, "package"), Side(python, weights, "ours")

    def by_dimension() -> None:
        for name in dimensions:
            package.ask(name, dimension=name, folder=str(Path(clips[0]).parent))

    def by_clip() -> None:
        for path in clips:
            ours.ask("decoding", path=path, dimensions=list(dimensions))

    in_turns([(package, by_dimension, AIM * TURN), (ours, by_clip, TURN)])
    package.close()
    ours.close()
    print(f"{'processor seconds':24} {'package':>9} {'here':>9} {'ratio':>7} {'largest difference':>19}")
    for name in ("starting", *dimensions, "decoding"):
        row = f"{name:24} {package.spent[name]:9.1f} {ours.spent[name]:9.1f}"
        if name in dimensions:
            apart = max(abs(ours.scores[clip][name] - package.scores[clip][name]) for clip in ours.scores)
            row += f" {package.spent[name] / ours.spent[name]:6.2f}x {apart:19.1e}"
        print(row)
    print(f"{'in all':24} {package.cpu:9.1f} {ours.cpu:9.1f} {package.cpu / ours.cpu:6.2f}x")
    print(f"{'wall seconds in all':24} {package.wall:9.1f} {ours.wall:9.1f} {package.wall / ours.wall:6.2f}x")
    print(f"{'peak MiB':24} {package.peak:9.0f} {ours.peak:9.0f}", flush=True)


def peak_memory(
    python: Path, weights: Path, clips: Mapping[int, str], dimensions: Sequence[str]
) -> Iterable[tuple[str, int, float]]:
    """Side, frames and peak MiB for every clip, each in a process of its own."""

    def one(job: tuple[str, int]) -> tuple[str, int, float]:
        side, frames = job
        process = Side(python, weights, side)
        if side == "package":
            process.ask(HUNGRIEST, dimension=HUNGRIEST, folder=str(Path(clips[frames]).parent))
        else:
            process.ask("all", path=clips[frames], dimensions=list(dimensions))
        process.close()
        return side, frames, process.peak

    with ThreadPoolExecutor(2) as pool:
        yield from pool.map(one, [(side, frames) for frames in clips for side in ("package", "ours")])


def arguments() -> argparse.Namespace:
    """What the user chose."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=6)
    parser.add_argument("--frames", type=int, default=48)
    parser.add_argument("--memory", type=int, default=192, help="frames of the long clip; 0 to leave memory out")
    parser.add_argument("--size", default="416x240")
    parser.add_argument("--dimensions", nargs="+", choices=QUALITY, default=QUALITY)
    parser.add_argument("--weights", type=Path, help="folder to keep the random weights in")
    return parser.parse_args()


def make_weights(python: Path, root: Path, true_shapes: bool) -> Path:
    """Random weights of the seven dimensions below `root`, unless they are there."""
    from harness.environments.worker.client import Worker
    from harness.metrics.vbench import VBench, VBenchOptions

    if not (root / "complete").exists():
        metric = VBench(VBenchOptions(dimensions=QUALITY))
        assert metric.drawing
        worker = Worker(python, "vbench")
        options = {**metric.drawing_options(), "true_shapes": true_shapes}
        worker.setup("drawing", metric.drawing, options, root, "cpu")
        worker.stop()
        (root / "complete").touch()
    return root


def main() -> None:
    chosen = arguments()
    from harness.environments.build import find

    python = find("vbench").python
    width, height = (int(part) for part in chosen.size.split("x"))
    with tempfile.TemporaryDirectory() as scratch:
        kept = chosen.weights or Path(scratch) / "weights"
        print(f"{chosen.clips} clips of {chosen.frames} frames, {chosen.size}, random weights in true shapes, 1 thread")
        if chosen.clips:
            folder = Path(scratch) / "clips"
            folder.mkdir()
            weights = make_weights(python, kept / "true", true_shapes=True)
            compare(python, weights, make_clips(folder, chosen.clips, chosen.frames, width, height), chosen.dimensions)
        clips = {}
        for frames in (chosen.frames, chosen.memory) if chosen.memory else ():
            folder = Path(scratch) / str(frames)
            folder.mkdir()
            (clips[frames],) = make_clips(folder, 1, frames, width, height)
        if clips:
            small = make_weights(python, kept / "small", true_shapes=False)
            for side, frames, peak in peak_memory(python, small, clips, chosen.dimensions):
                what = f"the package, {HUNGRIEST}" if side == "package" else "here, all dimensions"
                print(f"peak MiB, {what}, networks of few layers, one clip of {frames} frames: {peak:.0f}", flush=True)


if __name__ == "__main__":
    if "--child" in sys.argv:
        child(sys.argv[-1])
    else:
        sys.path.append(str(PROJECT))
        main()
