"""A run of many small units: what one costs in time and memory does not grow with those before it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from fault_cases import ALL, Tried
from road import FAKES, base, write

UNITS = 20_000 if ALL else 800
PARTS = 5

PROGRAM = """
import json, sys
from pathlib import Path
import psutil
from harness.contracts import registry
from harness.execute.run import run_plan
from harness.runs import plan
from harness.suite.load import load_suite
fakes, path, out, every = sys.argv[1:]
registry.load_plugin(Path(fakes))
me = psutil.Process()
def note(tick):
    if tick.record is not None and tick.finished % int(every) == 0:
        both = [me, *me.children()]
        seconds = [sum(process.cpu_times()[:2]) for process in both]
        print(json.dumps([seconds, [process.memory_info().rss for process in both]]), flush=True)
outcome = run_plan(plan.make(load_suite(Path(path)), "cpu"), Path(out), progress=note)
sys.exit(outcome.exit_code)
"""


def test_time_and_memory_of_a_unit_do_not_grow_with_those_before_it(tmp_path: Path, tried: Tried) -> None:
    section = {"name": "short", "prompts": "p", "seeds": list(range(UNITS // 100)), "frames": 1}
    suite = write(tmp_path, base(prompts={"p": [f"prompt {number}" for number in range(100)]}, generate=[section]))
    arguments = [str(FAKES), str(suite), str(tmp_path / "run"), str(UNITS // PARTS)]
    process = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    looks = [json.loads(line) for line in process.stdout.splitlines()]
    assert len(looks) == PARTS
    tried(UNITS)
    # The first part imports, and grows buffers to their size.
    for number in range(len(looks[0][0])):
        second = looks[2][0][number] - looks[1][0][number]
        last = looks[-1][0][number] - looks[-2][0][number]
        print(f"process {number}: {second:.2f} s of processor time for the third fifth, {last:.2f} s for the last")
        assert last < 1.5 * second + 0.5, "a unit takes longer than those before it"
        grown = [looks[to][1][number] - looks[since][1][number] for since, to in ((1, 2), (-2, -1))]
        print(f"process {number}: {grown} bytes more")
        assert grown[1] < 1.5 * max(grown[0], 0) + (8 << 20), "a unit takes more memory than those before it"
