"""What a run costs above a bare loop over the same generator.

    python tests/bench/bench_overhead.py [--clips 4] [--rounds 2] [--case NAME ...]

`device` and `small` wait as long per chunk as a model on a device of its own computes, so that all other time is the
harness's: encoding, digests, records, the disk. Their frames are a drifting picture with grain, which costs the encoder
what footage does. `toy` is the shipped model, which computes on the cores that the encoder also wants.

Bare loop (`for chunk in model.stream(...)`) and run take turns, A B B A; each loads its model anew, and a run starts in
an empty folder. Medians. `per clip` compares the time from the start of one clip to that of the next; `once` is what a
run of any length costs beside its clips: looking at machine and code before the first one, and encoding and recording
the end of the last. `cpu` is processor time in all threads above the bare loop's, and `noise` the interquartile range
of the bare loop's clips, below which no difference means anything.

`process` is what the process of its own costs in which a run makes clips: a run that makes them itself and one as it is
started take turns, for 8 and for 408 clips of 6 frames of 16x16 that a model has at once. `start s` is what the process
adds to a run of any length, and `ms/clip` what it adds to each clip, by the line through the two; medians.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np
import yaml
from bench_plan import FAKES

from harness.contracts import Frames, ModelCard, Options, Request, Spans, VideoModel, no_spans, registry
from harness.execute.run import run_plan
from harness.runs import plan
from harness.runs.plan import Plan
from harness.suite.load import load_suite

CASES: Mapping[str, tuple[str, str, dict[str, Any], int]] = {
    "small": ("32x32, 21 frames in 2 s", "bench/waits", {"height": 32, "width": 32, "chunk": 3, "seconds": 2.0}, 21),
    "device": (
        "480x832, 81 frames in 12 s",
        "bench/waits",
        {"height": 480, "width": 832, "chunk": 12, "seconds": 12.0},
        81,
    ),
    "toy": ("toy/videomla, 21 frames", "toy/videomla", {}, 21),
    "process": ("a process that makes clips: 6 frames of 16x16", "fake/moving", {}, 6),
}
"""By name: what it is, the model, its options, and the frames of a clip."""

PROCESS, FEW, MANY = "process", 8, 408
"""The case of the process that makes clips, and the clips of its runs."""

streams: list[float] = []
"""When each clip was begun."""

WATCHED: set[type[VideoModel]] = set()
"""Models whose streams note their start."""


class Waiting(Options):
    """Size of the clips, frames of a chunk, and how long a clip of `clip_frames` takes."""

    height: int
    width: int
    chunk: int
    seconds: float
    clip_frames: int


@cache
def footage(frames: int, height: int, width: int) -> Frames:
    """A picture that drifts, with grain."""
    rng = np.random.default_rng(0)
    tall, wide = height + frames, width + 2 * frames
    picture = np.full((tall, wide, 3), 128.0)
    for size in (64, 16, 4):
        tiles = rng.normal(0, size**0.7, (tall // size + 1, wide // size + 1, 3))
        picture += np.kron(tiles, np.ones((size, size, 1)))[:tall, :wide]
    grain = rng.integers(-3, 4, (tall, wide, 3))
    views = [
        picture[n : n + height, 2 * n : 2 * n + width] + np.roll(grain, 7 * n, (0, 1))[:height, :width]
        for n in range(frames)
    ]
    return np.stack([view.clip(0, 255).astype(np.uint8) for view in views])


@registry.models.register("bench/waits")
class Waits(VideoModel):
    """Footage whose chunks take as long as those of a real model."""

    schema = Waiting

    def describe(self) -> ModelCard:
        options: Waiting = self.options
        return ModelCard("waits", options.height, options.width, 16.0, options.chunk)

    def load(self, device: str) -> None:
        options: Waiting = self.options
        self.frames = footage(options.clip_frames, options.height, options.width)[None]

    def stream(self, request: Request, spans: Spans = no_spans) -> Iterator[Frames]:
        options: Waiting = self.options
        wait = options.seconds * options.chunk / options.clip_frames
        for start in range(0, request.frames, options.chunk):
            time.sleep(wait * min(1, (request.frames - start) / options.chunk))
            yield self.frames[:, start : start + options.chunk]


@dataclass(frozen=True)
class Timing:
    """Seconds of a loop over clips, of its processor time, and from the start of each clip to that of the next."""

    wall: float
    cpu: float
    periods: tuple[float, ...]


def make(folder: Path, case: str, clips: int) -> Plan:
    """The plan of a case, its suite in `folder`."""
    _, model, options, frames = CASES[case]
    if model == "bench/waits":
        options = {**options, "clip_frames": frames}
    data = {
        "suite": "overhead",
        "models": [{"name": model, "label": "a", "options": options}],
        "prompts": {"p": ["a red circle moves slowly to the left on a navy background"]},
        "generate": [{"name": "short", "prompts": "p", "seeds": list(range(clips)), "frames": frames}],
    }
    (folder / "s.yaml").write_text(yaml.safe_dump(data))
    return plan.make(load_suite(folder / "s.yaml"), "cpu")


def watched(cls: type[VideoModel]) -> None:
    """Have the streams of `cls` note their start, once each."""
    if cls in WATCHED:
        return
    WATCHED.add(cls)
    real = cls.stream

    def stream(self: VideoModel, request: Request, spans: Spans = no_spans) -> Iterator[Frames]:
        streams.append(time.perf_counter())
        return real(self, request, spans)

    cls.stream = stream  # type: ignore[method-assign]


def bare(made: Plan) -> None:
    """The loop that a run is compared with: it makes every chunk and keeps none."""
    arm = made.arms[0]
    model = registry.models.create(arm.name, arm.options)
    model.load(made.device)
    for unit in made.units:
        spec: Any = unit.preimage
        for _ in model.stream(Request((spec["prompt"],), (spec["seed"],), spec["frames"])):
            pass
    model.unload()


def timed(work: Callable[[], object]) -> Timing:
    """What `work` takes."""
    streams.clear()
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    periods = tuple(later - first for first, later in pairwise(streams))
    return Timing(time.perf_counter() - wall, time.process_time() - cpu, periods)


def measure(case: str, clips: int, rounds: int) -> None:
    """Print a line for a case."""
    loops: list[Timing] = []
    runs: list[Timing] = []
    with tempfile.TemporaryDirectory() as scratch:
        made = make(Path(scratch), case, clips)
        watched(registry.models.get(made.arms[0].name))
        bare(make(Path(scratch), case, 1))
        for number in range(rounds):
            run = partial(run_plan, made, Path(scratch) / f"run {number}", processes=0)
            pair = ((loops, partial(bare, made)), (runs, run))
            for kept, work in reversed(pair) if number % 2 else pair:
                kept.append(timed(work))
            assert run().already_done == clips
    loop, each = median(loop.wall for loop in loops), [period for loop in loops for period in loop.periods]
    whole, kept_each = median(run.wall for run in runs), [period for run in runs for period in run.periods]
    once = median(run.wall - sum(run.periods) for run in runs) - median(each)
    low, _, high = quantiles(each, n=4)
    cpu = median(run.cpu for run in runs) - median(loop.cpu for loop in loops)
    print(
        f"{case:8} {clips:>5} {loop:>8.2f} {whole:>8.2f} {100 * (whole / loop - 1):>8.2f} "
        f"{100 * (median(kept_each) / median(each) - 1):>10.2f} {once:>8.3f} {cpu / clips:>10.3f} "
        f"{100 * (high - low) / median(each):>8.2f}",
        flush=True,
    )


def measure_process(rounds: int) -> None:
    """Print what the process that makes clips adds to a run."""
    registry.load_plugin(FAKES)
    took: dict[tuple[int, int], list[float]] = {(clips, apart): [] for clips in (FEW, MANY) for apart in (0, 1)}
    with tempfile.TemporaryDirectory() as scratch:
        plans = {}
        for clips in (FEW, MANY):
            (folder := Path(scratch) / str(clips)).mkdir()
            plans[clips] = make(folder, PROCESS, clips)
        run_plan(plans[FEW], Path(scratch) / "first", processes=0)
        for number in range(rounds):
            for clips, apart in reversed(took) if number % 2 else took:
                start = time.perf_counter()
                outcome = run_plan(plans[clips], Path(scratch) / f"{number} {clips} {apart}", processes=apart)
                took[clips, apart].append(time.perf_counter() - start)
                assert outcome.done_now == clips
    seconds = {case: median(each) for case, each in took.items()}
    each = [(seconds[MANY, apart] - seconds[FEW, apart]) / (MANY - FEW) for apart in (0, 1)]
    start_s = seconds[FEW, 1] - seconds[FEW, 0] - FEW * (each[1] - each[0])
    print(f"{'case':8} {'clips':>5} {'itself s':>8} {'apart s':>8} {'start s':>8} {'ms/clip':>8}")
    print(
        f"{PROCESS:8} {MANY:>5} {seconds[MANY, 0]:>8.2f} {seconds[MANY, 1]:>8.2f} {start_s:>8.2f} "
        f"{1000 * (each[1] - each[0]):>8.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES))
    chosen = parser.parse_args()
    for case in chosen.case:
        print(f"{case}: {CASES[case][0]}")
    loops = [case for case in chosen.case if case != PROCESS]
    print(f"medians of {chosen.rounds} rounds" + ("; at most 1 % above the bare loop" if loops else ""))
    if loops:
        print(
            f"{'case':8} {'clips':>5} {'bare s':>8} {'run s':>8} {'above %':>8} {'per clip %':>10} {'once s':>8} "
            f"{'cpu s/clip':>10} {'noise %':>8}"
        )
    for case in loops:
        measure(case, chosen.clips, chosen.rounds)
    if PROCESS in chosen.case:
        measure_process(chosen.rounds)


if __name__ == "__main__":
    main()
