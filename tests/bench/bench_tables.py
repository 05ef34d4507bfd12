"""Seconds from a run folder to its table at three sizes: python tests/bench/bench_tables.py [RECORDS]."""

import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))

import run_folders  # noqa: F401  registers the fake model and metric

from harness.report.render import markdown
from harness.report.tables import build
from harness.runs.line import Record, encode
from harness.runs.plan import make, to_json
from harness.runs.records import load_run
from harness.suite.schema import Suite

ARMS, SEEDS = 5, 5


def write(folder: Path, records: int) -> int:
    """A run of `records` score records, and as many planned clips; the records of clips are left out."""
    prompts = records // (ARMS * SEEDS)
    body = {
        "suite": "bench",
        "models": [{"name": "fake/card", "label": f"arm {n}", "options": {"label": f"{n}"}} for n in range(ARMS)],
        "prompts": {
            "p": {"texts": [f"a red circle moves slowly to the left on background {n}" for n in range(prompts)]}
        },
        "generate": [
            {"name": "s", "prompts": "p", "seeds": list(range(SEEDS)), "frames": 8, "metrics": [{"name": "fake/plain"}]}
        ],
    }
    plan = make(Suite.model_validate(body), "cpu")
    (folder / "plan.json").write_text(json.dumps(to_json(plan)))
    versions = dict.fromkeys(("python", "torch", "numpy", "av", "pandas", "scipy"), "1.2.3")
    written = 0
    with (folder / "records.jsonl").open("wb") as file:
        for number, unit in enumerate(unit for unit in plan.units if unit.kind == "score"):
            file.write(
                encode(
                    Record(
                        unit.key,
                        "score",
                        "ok",
                        unit.preimage,
                        unit.context,
                        {f"v{n}": (number * 7919 % 1000) / 1000 for n in range(5)} | {"sharpness": number % 97 / 97},
                        clip={"digest": "0" * 64},
                        versions=versions,
                        git={"commit": "0" * 40, "dirty": False},
                    )
                )
            )
            written += 1
    return written


def main() -> None:
    largest = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    print(" records   load s   table s   total s     cpu s   us/record")
    for size in (largest // 4, largest // 2, largest):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            written = write(folder, size)
            start, used = time.perf_counter(), time.process_time()
            run = load_run(folder)
            loaded = time.perf_counter()
            markdown(build([run])[0])
            end, used = time.perf_counter(), time.process_time() - used
        total, each = end - start, 1e6 * (end - start) / written
        print(f"{written:8d} {loaded - start:8.2f} {end - loaded:9.2f} {total:9.2f} {used:9.2f} {each:11.2f}")


if __name__ == "__main__":
    main()
