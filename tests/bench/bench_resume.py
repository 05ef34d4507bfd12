"""Seconds to scan 25,000, 50,000 and 100,000 records, and for a whole run that finds everything done.

    python tests/bench/bench_resume.py

The records have the size of real ones, and every clip has a file, whose length is compared as in any run.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from bench_plan import FAKES, SIZES, SUITE

from harness.contracts import registry
from harness.execute.run import run_plan
from harness.execute.units import Result, Setting, record
from harness.runs import plan
from harness.runs.folder import clip_name
from harness.runs.line import encode
from harness.runs.plan import Plan
from harness.runs.records import RecordFile
from harness.suite.load import load_suite
from harness.system import devices

REPEATS = 3


def fill(made: Plan, run: Path) -> int:
    """Write a finished run of `made` without making its clips; the bytes of the records."""
    setting = Setting(devices.describe("cpu"), devices.versions(), {"commit": "0" * 40, "dirty": False, "of": "code"})
    sizes = {"bytes": 1, "sha256": "0" * 64, "frames": 81, "height": 480, "width": 832, "frame_rate": 16.0}
    encoder = {"codec": "libx264", "core": "165", "pix_fmt": "yuv420p", "crf": 8, "preset": "medium", "pyav": "18.1.0"}
    run.mkdir()
    with (run / "records.jsonl").open("wb") as file:
        for unit in made.units:
            if unit.kind == "generate":
                path = clip_name(unit.key)
                (run / path).parent.mkdir(parents=True, exist_ok=True)
                (run / path).write_bytes(b"x")
                result = Result(clip={"path": path, **sizes, "digest": unit.key, "encoder": encoder})
            else:
                result = Result({"brightness": 0.5, "spread": 0.25}, clip={"digest": unit.context["of"]})
            file.write(encode(record(unit, setting, "ok", result)))
    return (run / "records.jsonl").stat().st_size


def main() -> None:
    registry.load_plugin(FAKES)
    print(f"best of {REPEATS}; at most 2 s to scan 100,000 records")
    print(f"{'records':>8} {'MB':>6} {'scan s':>8} {'cpu s':>8} {'cpu µs/record':>14} {'run s':>8} {'cpu s':>8}")
    for size in SIZES:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            (folder / "s.yaml").write_text(SUITE)
            lines = (f"prompt {n}: a red panda crosses a wooden bridge in the rain" for n in range(size // 20))
            (folder / "prompts.txt").write_text("\n".join(lines))
            made = plan.make(load_suite(folder / "s.yaml"), "cpu")
            written = fill(made, folder / "run")
            scans: list[tuple[float, float]] = []
            runs: list[tuple[float, float]] = []
            for _ in range(REPEATS):
                start, cpu = time.perf_counter(), time.process_time()
                index = RecordFile(folder / "run" / "records.jsonl").newest()
                scans.append((time.perf_counter() - start, time.process_time() - cpu))
                start, cpu = time.perf_counter(), time.process_time()
                outcome = run_plan(made, folder / "run")
                runs.append((time.perf_counter() - start, time.process_time() - cpu))
                assert outcome.already_done == len(index) == len(made.units)
            (scan, scan_cpu), (run, run_cpu) = (tuple(map(min, zip(*pair, strict=True))) for pair in (scans, runs))
            cost = scan_cpu / len(index) * 1e6
            line = f"{len(index):>8} {written / 1e6:>6.0f} {scan:>8.3f} {scan_cpu:>8.3f} {cost:>14.2f}"
            print(f"{line} {run:>8.3f} {run_cpu:>8.3f}")


if __name__ == "__main__":
    main()
