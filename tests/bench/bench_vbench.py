"""VBench's seven quality dimensions: the package's own API and this project on the same clips, in turn.

    python tests/bench/bench_vbench.py [--clips 6] [--frames 48] [--size 416x240] [--dimensions NAME ...]

Random weights in true shapes, one thread, the built environment `vbench`. Both sides load their networks and score
every clip; a dimension at a time for the ratios of dimensions, then all seven together. Prints processor seconds, which
other work on the machine disturbs less than the clock's, and wall seconds, the largest difference of any number, and
peak memory; then this project's peak memory on a clip of `--frames` and on one of `--memory` frames.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
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


# ------------------------------------------------------------------------------- inside the environment


def upstream(request: Mapping[str, Any]) -> list[dict[str, float]]:
    """The package's API: VBench.evaluate on the folder, a dimension after the other."""
    from vbench import VBench

    found: dict[str, dict[str, float]] = {Path(path).name: {} for path in request["clips"]}
    with tempfile.TemporaryDirectory() as out:
        runner = VBench("cpu", "", out)
        folder = str(Path(request["clips"][0]).parent)
        runner.evaluate(folder, "run", [], list(request["dimensions"]), local=True, mode="custom_input")
        results = json.loads((Path(out) / "run_eval_results.json").read_text())
    for dimension, (_, rows) in results.items():
        for row in rows:
            value = float(row["video_results"]) / (100 if dimension == "imaging_quality" else 1)
            found[Path(row["video_path"]).name][dimension] = value
    return [found[Path(path).name] for path in request["clips"]]


def ours(request: Mapping[str, Any]) -> list[dict[str, float]]:
    """This project: one pass over each clip."""
    sys.path.append(str(PROJECT))
    from harness.metrics.vbench_inside.loading import Networks
    from harness.metrics.vbench_inside.scoring import score_clip

    networks = Networks(Path(os.environ["VBENCH_CACHE_DIR"]), "cpu")
    return [score_clip(networks, path, request["dimensions"], "", {}) for path in request["clips"]]


def child() -> None:
    """Score what standard input asks for; answer with the scores and what they cost."""
    import resource

    import torch

    torch.set_num_threads(1)
    request = json.load(sys.stdin)
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    wall, cpu = time.perf_counter(), time.process_time()
    with torch.random.fork_rng():
        scores = {"upstream": upstream, "ours": ours}[request["side"]](request)
    spent = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    json.dump({"scores": scores, "peak": peak, **spent}, answer)
    answer.close()


# --------------------------------------------------------------------------------------------- outside


def make_clips(folder: Path, count: int, frames: int, width: int, height: int) -> list[str]:
    """Textures that drift, each at a speed of its own, written as the harness writes clips."""
    sys.path.append(str(PROJECT))
    from harness.video import write

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


def run(python: Path, weights: Path, side: str, clips: Sequence[str], dimensions: Sequence[str]) -> dict[str, Any]:
    """One side in a process of its own."""
    settings = {
        **os.environ,
        "VBENCH_CACHE_DIR": str(weights),
        "TORCH_HOME": str(weights / "torch"),
        "OMP_NUM_THREADS": "1",
        "http_proxy": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
    }
    request = {"side": side, "clips": clips, "dimensions": dimensions}
    done = subprocess.run(
        [str(python), "-W", "ignore", str(HERE), "--child"],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        env=settings,
        check=False,
    )
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def compare(python: Path, weights: Path, clips: Sequence[str], dimensions: Sequence[str], label: str) -> None:
    """Run both sides in turn and print a row."""
    theirs = run(python, weights, "upstream", clips, dimensions)
    mine = run(python, weights, "ours", clips, dimensions)
    apart = max(
        abs(mine["scores"][i][name] - theirs["scores"][i][name]) for i in range(len(clips)) for name in dimensions
    )
    print(
        f"{label:24} {theirs['cpu']:9.1f} {mine['cpu']:9.1f} {theirs['cpu'] / mine['cpu']:6.2f}x"
        f" {theirs['wall']:9.1f} {mine['wall']:9.1f} {theirs['wall'] / mine['wall']:6.2f}x"
        f" {theirs['peak']:8.0f} {mine['peak']:8.0f} {apart:9.1e}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=6)
    parser.add_argument("--frames", type=int, default=48)
    parser.add_argument("--memory", type=int, default=192, help="frames of the long clip; 0 to leave it out")
    parser.add_argument("--size", default="416x240")
    parser.add_argument("--dimensions", nargs="+", choices=QUALITY, default=QUALITY)
    parser.add_argument("--weights", type=Path, help="folder to keep the random weights in")
    chosen = parser.parse_args()
    sys.path.append(str(PROJECT))
    from harness.envs.build import find

    python = find("vbench").python
    width, height = (int(part) for part in chosen.size.split("x"))
    with tempfile.TemporaryDirectory() as scratch:
        weights = chosen.weights or Path(scratch) / "weights"
        if not (weights / "complete").exists():
            maker = PROJECT / "tests" / "vbench" / "random_weights.py"
            request = json.dumps({"root": str(weights), "true_shapes": True, "quality_only": True})
            subprocess.run([str(python), "-W", "ignore", str(maker)], input=request, text=True, check=True)
            (weights / "complete").touch()
        (Path(scratch) / "clips").mkdir()
        clips = make_clips(Path(scratch) / "clips", chosen.clips, chosen.frames, width, height)
        print(f"{len(clips)} clips of {chosen.frames} frames, {chosen.size}, random weights in true shapes, 1 thread")
        print(f"{'':24} {'processor seconds':^27} {'wall seconds':^27} {'peak MiB':^17} {'largest':>9}")
        sides = f"{'package':>9} {'here':>9}"
        print(f"{'dimension':24} {sides} {'ratio':>7} {sides} {'ratio':>7} {'package':>8} {'here':>8} {'apart':>9}")
        for name in chosen.dimensions:
            compare(python, weights, clips, [name], name)
        if len(chosen.dimensions) > 1:
            compare(python, weights, clips, chosen.dimensions, "in all")
        if chosen.memory:
            (Path(scratch) / "long").mkdir()
            for frames in (chosen.frames, chosen.memory):
                path = make_clips(Path(scratch) / "long", 1, frames, width, height)
                peak = run(python, weights, "ours", path, chosen.dimensions)["peak"]
                print(f"peak memory here, one clip of {frames} frames: {peak:.0f} MiB", flush=True)


if __name__ == "__main__":
    child() if "--child" in sys.argv else main()
