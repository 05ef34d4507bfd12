"""Seconds to plan a suite of 25,000, 50,000 and 100,000 units (clips and their scores), and to write its plan.json.

python tests/bench/bench_plan.py
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

from harness.contracts import registry
from harness.runs import plan
from harness.suite.load import load_suite

FAKES = Path(__file__).parents[1] / "data" / "fake_models.py"
SIZES = (25_000, 50_000, 100_000)
REPEATS = 3
SUITE = """\
suite: bench
models:
  - {name: fake/moving, label: a, grid: {chunk: [4, 8]}}
prompts:
  p: {file: prompts.txt}
generate:
  - {name: short, prompts: p, seeds: [0, 1, 2, 3, 4], frames: 81, metrics: [fake/brightness]}
"""


def main() -> None:
    registry.load_plugin(FAKES)
    print(f"best of {REPEATS}; at most 2 s to plan 100,000 units")
    print(f"{'units':>8} {'load s':>8} {'plan s':>8} {'cpu s':>8} {'cpu µs/unit':>12} {'json s':>8}")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "s.yaml").write_text(SUITE)
        for size in SIZES:
            prompts = size // 20
            lines = (f"prompt {number}: a red panda crosses a wooden bridge in the rain" for number in range(prompts))
            (folder / "prompts.txt").write_text("\n".join(lines))
            loads, plans, busy, dumps = [], [], [], []
            for _ in range(REPEATS):
                times = [time.perf_counter()]
                loaded = load_suite(folder / "s.yaml")
                times.append(time.perf_counter())
                cpu = time.process_time()
                made = plan.make(loaded, "cpu")
                busy.append(time.process_time() - cpu)
                times.append(time.perf_counter())
                json.dumps(plan.to_json(made))
                times.append(time.perf_counter())
                loads.append(times[1] - times[0])
                plans.append(times[2] - times[1])
                dumps.append(times[3] - times[2])
            count = len(made.units)
            cost = min(busy) / count * 1e6
            print(
                f"{count:>8} {min(loads):>8.3f} {min(plans):>8.3f} {min(busy):>8.3f} {cost:>12.2f} {min(dumps):>8.3f}"
            )
    if "torch" in sys.modules:
        sys.exit("planning imported torch")


if __name__ == "__main__":
    main()
