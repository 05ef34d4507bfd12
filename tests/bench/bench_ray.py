"""What a Ray run costs: two workers against one, and the driver beside many workers that only wait.

    python tests/bench/bench_ray.py [pairs] [many] [memory]

`pairs`: a model of the CPU, one thread a worker, one worker and two in turns; the rate is taken between the first
records and the last, so that starting processes does not count. `many`: workers that take no core and wait 50 ms a clip
in place of making it; the driver does all that it does in a real run. `memory`: the driver's peak against that of a
local run of the same plan.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"
sys.path.insert(0, str(DATA))

from road import FAKES, planned  # noqa: E402

from harness.contracts import registry  # noqa: E402
from harness.execute import ray_cluster  # noqa: E402
from harness.execute.outcome import Tick  # noqa: E402
from harness.execute.ray_actors import ClipTask, Done, Worker  # noqa: E402
from harness.execute.ray_engine import engine_of  # noqa: E402
from harness.execute.run import run_plan  # noqa: E402
from harness.execute.units import Result, record  # noqa: E402
from harness.system import devices  # noqa: E402
from harness.system.digests import digest  # noqa: E402

PAIRS = 3
CLIPS = 150
STEPS = 16
"""Denoising steps: the file of a clip is encoded beside the next clip, and one worker has a second core for that."""
TOGETHER_S = 0.02
"""Records that come closer than this are of one share."""
MANY, UNITS, AT_START, WAIT_S = 64, 20_000, 16_000, 0.05
"""Units that are counted, and those that may go by while the workers start."""
CONTENT = os.urandom(20_000)
"""In place of a clip: as many bytes as one of the small world."""
FACTS = {"bytes": len(CONTENT), "sha256": digest(CONTENT), "digest": digest(CONTENT), "frames": 21}
ENGINES = ("ray", "local")


class Waiting(Worker):
    """A worker that waits for each clip, and gives the same bytes for all."""

    def do(self, tasks: Sequence[ClipTask]) -> Done:
        """Wait, and answer as a worker does."""
        start = time.monotonic()
        units = [unit for task in tasks for unit in task.units]
        time.sleep(WAIT_S * len(units))
        facts = {**FACTS, "height": 64, "width": 64, "frame_rate": 16.0}
        made = []
        for unit in units:
            clip = {"path": f"clips/{unit.key[:2]}/{unit.key}.mp4", **facts}
            made.append((record(unit, self.setting, "ok", Result(clip=clip)), CONTENT))
        return Done(made, time.monotonic() - start)


def suite(prompts: int, model: str = "fake/moving", **options: Any) -> dict[str, Any]:
    """Clips of one model without scores."""
    return {
        "suite": "bench",
        "models": [{"name": model, "label": "a", "options": options}],
        "prompts": {"p": [f"a red circle moves right {number}" for number in range(prompts)]},
        "generate": [{"name": "clips", "prompts": "p", "seeds": [0], "frames": 21}],
    }


class Pace:
    """When records came."""

    def __init__(self, cluster: ray_cluster.Cluster, workers: int) -> None:
        self.cluster, self.workers = cluster, workers
        self.times: list[float] = []
        self.cpu: list[float] = []
        self.complete = 0

    def __call__(self, tick: Tick) -> None:
        if tick.record is not None:
            if not self.complete and sum(hand.ready for hand in self.cluster.hands) == self.workers:
                self.complete = len(self.times)
            self.times.append(time.monotonic())
            self.cpu.append(time.process_time())

    def rate(self, first: int, last: int | None = None) -> float:
        """Records a second from number `first` on."""
        times = self.times[first:last]
        return (len(times) - 1) / (times[-1] - times[0])


def rate_of(workers: int) -> float:
    """Clips a second of a CPU-bound model with one thread a worker."""
    with tempfile.TemporaryDirectory() as scratch, ray_cluster.connected(None, workers) as cluster:
        pace = Pace(cluster, workers)
        plan = planned(Path(scratch), suite(CLIPS, "toy/dense", steps=STEPS))
        outcome = run_plan(plan, Path(scratch) / "run", progress=pace, engine=engine_of(cluster))
        assert outcome.exit_code == 0
        # Records come in shares. From the end of one, by when every worker has loaded its model, to the last of all.
        times, first = pace.times, pace.complete + 2 * workers
        while times[first + 1] - times[first] < TOGETHER_S:
            first += 1
        return (len(times) - 1 - first) / (times[-1] - times[first])


def pairs() -> Iterator[str]:
    """Two workers against one, in turns."""
    # Ray has its workers yield to all other work of the machine, and other work would then decide the rates.
    os.environ |= {"OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"}
    ratios = []
    for _ in range(PAIRS):
        one, two = rate_of(1), rate_of(2)
        ratios.append(two / one)
        yield f"one worker {one:.2f} clips/s, two {two:.2f}: {two / one:.2f}"
    yield f"two workers on {devices.cores()} cores: {statistics.median(ratios):.2f} of one (median); aim 1.85"


def many() -> Iterator[str]:
    """The driver beside 64 workers that wait."""
    ray_cluster.ray_actors.ClipMaker = Waiting  # type: ignore[misc]
    with tempfile.TemporaryDirectory() as scratch, ray_cluster.connected("local", MANY, 600, cores=0) as cluster:
        pace = Pace(cluster, MANY)
        plan = planned(Path(scratch), suite(UNITS + AT_START))
        run_plan(plan, Path(scratch) / "run", progress=pace, engine=engine_of(cluster))
        # From the second on that all workers are at work, until some find nothing more to do.
        first, ideal = pace.complete + 20 * MANY, MANY / WAIT_S
        last = min(first + UNITS, len(pace.times) - 20 * MANY)
        step = (last - first) // 5
        for start, end in [*((first + part * step, first + (part + 1) * step) for part in range(5)), (first, last)]:
            cpu = 1000 * (pace.cpu[end - 1] - pace.cpu[start]) / (end - 1 - start)
            share = pace.rate(start, end) / ideal
            yield f"units {start - first:>6} to {end - first:>6}: {share:.3f} of the ideal, driver {cpu:.2f} ms a unit"
    yield f"aim: 0.9 of the ideal of {ideal:.0f}/s, at most 1.5 ms a unit, flat"


def memory() -> Iterator[str]:
    """The driver's peak against that of a local run, each in a process of its own."""
    peaks = {}
    for engine in ENGINES:
        answer = subprocess.run(
            [sys.executable, __file__, f"peak-{engine}"], capture_output=True, text=True, check=True
        )
        peaks[engine] = int(answer.stdout.split()[-1])
    yield f"peak of the driver {peaks['ray'] >> 20} MiB, of a local run {peaks['local'] >> 20} MiB: " + (
        f"{peaks['ray'] / peaks['local']:.2f} (aim at most 1.5)"
    )


def peak(engine: str) -> Iterator[str]:
    """Bytes that a run of 16 clips of the small world takes at most."""
    with tempfile.TemporaryDirectory() as scratch:
        plan = planned(Path(scratch), suite(16, "toy/dense"))
        if engine == "local":
            run_plan(plan, Path(scratch) / "run", processes=1)
        else:
            with ray_cluster.connected(None, 2) as cluster:
                run_plan(plan, Path(scratch) / "run", engine=engine_of(cluster))
    yield str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def main() -> None:
    registry.load_plugin(FAKES)
    parts = {"pairs": pairs, "many": many, "memory": memory}
    asked = sys.argv[1:] or list(parts)
    if asked[0].startswith("peak-"):
        print(*peak(asked[0].removeprefix("peak-")))
        return
    versions = {name: devices.versions()[name] for name in ("python", "torch")}
    print(json.dumps({"ray": ray_cluster.library().__version__, **versions, "machine": platform.machine()}))
    print(f"load average at the start {os.getloadavg()[0]:.1f} on {devices.cores()} cores")
    for name in asked:
        for line in parts[name]():
            print(line, flush=True)


if __name__ == "__main__":
    main()
