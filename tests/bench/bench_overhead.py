"""What a run costs above a bare loop over the same generator, at the cost of a small and of a full-size clip.

    python tests/bench/bench_overhead.py [clips [size]]

The model is a fake that waits as long per chunk as a real one computes, so that all other time is the harness's own.
Three loops, taken in turns: bare (`for chunk in model.stream(...)`), bare and then written to a file, and the run.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import yaml
from bench_plan import FAKES

from harness import plan, registry, suite, video
from harness.contracts import Request
from harness.execute import local
from harness.plan import Plan

CASES = {
    "32x32, 21 frames, 2 s a clip": {"height": 32, "width": 32, "chunk": 3, "chunk_seconds": 2 / 7, "frames": 21},
    "480x832, 81 frames, 12 s a clip": {
        "height": 480,
        "width": 832,
        "chunk": 12,
        "chunk_seconds": 12 / 7,
        "frames": 81,
    },
}


def make(folder: Path, case: dict[str, float], clips: int) -> Plan:
    options = {name: value for name, value in case.items() if name != "frames"}
    section = {"name": "short", "prompts": "p", "seeds": [0], "frames": case["frames"]}
    data = {
        "suite": "overhead",
        "models": [{"name": "fake/moving", "label": "a", "options": options}],
        "prompts": {"p": [f"prompt {number}" for number in range(clips)]},
        "generate": [section],
    }
    (folder / "s.yaml").write_text(yaml.safe_dump(data))
    return plan.make(suite.load(folder / "s.yaml"), "cpu")


def bare(made: Plan, folder: Path | None) -> None:
    """A loop over the generator; each clip is written to `folder` when it is given."""
    arm = made.arms[0]
    model = registry.models.create(arm.name, arm.options)
    for unit in made.units:
        request = Request((str(unit.spec["prompt"]),), (0,), int(str(unit.spec["frames"])))
        chunks = [chunk[0] for chunk in model.stream(request)]
        if folder is not None:
            video.write(folder / f"{unit.key}.mp4", chunks, 16.0, 8, "medium")


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds by the wall clock, and of processor time in all threads, that `work` takes."""
    wall, busy = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - busy


def main() -> None:
    clips = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    registry.load_plugin(FAKES)
    for name, case in CASES.items():
        if len(sys.argv) > 2 and not name.startswith(sys.argv[2]):
            continue
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            made = make(folder, case, clips)
            loop, loop_cpu = timed(partial(bare, made, None))
            after, after_cpu = timed(partial(bare, made, folder / "bare"))
            run, run_cpu = timed(partial(local.run, made, folder / "run"))
            assert local.run(made, folder / "run").found == clips
        print(f"{name} ({clips} clips)                  wall s  above bare      cpu s")
        print(f"  bare loop                        {loop:8.2f}              {loop_cpu:8.3f}")
        print(f"  bare loop, clips written after   {after:8.2f}  {100 * (after / loop - 1):+8.2f} %  {after_cpu:8.3f}")
        print(f"  run: clips and records written   {run:8.2f}  {100 * (run / loop - 1):+8.2f} %  {run_cpu:8.3f}")
        print(
            f"  run, encoding left out                     {100 * (run_cpu - after_cpu) / loop:+8.2f} % (by cpu time)"
        )


if __name__ == "__main__":
    main()
