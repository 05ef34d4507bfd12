"""A model of known delays, run in this process and in one of its own: what the second way adds to each figure.

    python tests/bench/bench_process.py [--rounds 15] [--json]

Both run the same generator, in turns (A B B A). Delays are sleeps, chunks are of full size. Each row is the median of
the second way over the median of the first. Beside other work sleeps and copies take longer, so the median quotient of
neighbours and the quotient of the best rounds are given too.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from harness.contracts import Frames, ModelCard, Options, Request, Spans, Switch, VideoModel, no_spans
from harness.contracts.registry import models
from harness.probes.timing.clock import Clock
from harness.probes.timing.generation import DENOISE, Generation, generate
from harness.probes.timing.memory import MemoryMeter
from harness.system import devices
from harness.system.stream_process import MODULE

HEIGHT, WIDTH, CHUNK, CHUNKS = 480, 832, 12, 5
TEXT, SWITCH, CLEAN, DECODE = 0.03, 0.1, 0.1, 0.1
DENOISE_S = 0.4
WEIGHTS, WORK = 256 << 20, 64 << 20


class Model:
    """What the program loads."""

    def __init__(self) -> None:
        self.weights = np.ones(WEIGHTS, np.uint8)


def clip(request: Any, span: Any, switches: list[int]) -> Iterator[Frames]:
    """The delays, and a chunk of full size after them."""
    with span("text"):
        time.sleep(TEXT)
    for index in range(request.frames // CHUNK):
        if switches and index * CHUNK >= switches[0]:
            switches.pop(0)
            with span("switch"):
                time.sleep(SWITCH)
        work = np.ones(WORK, np.uint8)
        with span(f"chunk[{index}].denoise"):
            time.sleep(DENOISE_S)
        with span(f"chunk[{index}].clean_pass"):
            time.sleep(CLEAN)
        with span(f"decode[{index}]"):
            time.sleep(DECODE)
        with span("to_host"):
            pixels = np.full((len(request.prompts), CHUNK, HEIGHT, WIDTH, 3), request.seeds[0] + index, np.uint8)
        del work
        yield pixels


@models.register("bench/delays")
class Delays(VideoModel):
    """The generator in this process."""

    def describe(self) -> ModelCard:
        return ModelCard(family="bench", height=HEIGHT, width=WIDTH, frame_rate=16.0, frames_per_chunk=CHUNK)

    def load(self, device: str) -> None:
        self.model = Model()

    def unload(self) -> None:
        del self.model

    def stream(self, request: Request, spans: Spans = no_spans) -> Iterator[Frames]:
        return clip(request, spans, [switch.frame for switch in request.switches])


def figures(run: Generation) -> dict[str, float]:
    """What is compared."""
    chunks = range(1, CHUNKS)
    plain = [i for i in chunks if i not in run.switch_chunks]
    return {
        "first chunk": run.arrivals[0],
        "gap": statistics.median(run.gaps[i] for i in plain),
        "switch": statistics.median(run.gaps[i] for i in run.switch_chunks),
        "denoising": run.stage(DENOISE, chunks),
        "decoding": run.stage(("decode",), chunks),
        "frames/s": run.batch * CHUNK * CHUNKS / run.seconds,
        "clip": run.seconds,
    }


def rows(pairs: list[tuple[dict[str, float], dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Medians of both ways, their quotient, the median quotient of neighbours, and that of the best rounds."""
    table = {}
    for name in pairs[0][0]:
        here, there = (statistics.median(pair[side][name] for pair in pairs) for side in (0, 1))
        paired = statistics.median(pair[1][name] / pair[0][name] for pair in pairs)
        best = max if name == "frames/s" else min
        least = best(pair[1][name] for pair in pairs) / best(pair[0][name] for pair in pairs)
        table[name] = {"in process": here, "own process": there, "ratio": there / here, "paired": paired, "best": least}
    return table


def timed(here: VideoModel, there: VideoModel, batch: int, rounds: int) -> dict[str, dict[str, float]]:
    """`rounds` generations of each, in turns."""

    def one(model: VideoModel, number: int) -> dict[str, float]:
        switches = (Switch(2 * CHUNK, ("b",) * batch),)
        request = Request(("a",) * batch, tuple(range(number, number + batch)), CHUNK * CHUNKS, switches)
        return figures(generate(Clock(), model, request, model.describe()))

    one(here, 0), one(there, 0)
    pairs = []
    for number in range(rounds):
        turns = [(0, here), (1, there)][:: 1 if number % 2 == 0 else -1]
        by_side = {side: one(model, number) for side, model in turns}
        pairs.append((by_side[0], by_side[1]))
    return rows(pairs)


def weighed(make: Callable[[], VideoModel]) -> dict[str, float]:
    """Memory of the weights, and at the peak of a clip."""
    meter, model = MemoryMeter("cpu"), make()
    model.load("cpu")
    devices.give_back("cpu")
    meter.follow(model)
    weights = meter.now() - meter.base
    meter.reset()
    generate(Clock(), model, Request(("a",), (1,), CHUNK * CHUNKS), model.describe())
    peak = meter.peak()["peak_bytes"]
    model.unload()
    return {"weights": float(weights), "peak memory": peak}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(MODULE, folder)
        options: dict[str, Any] = {
            "python": sys.executable, "folder": folder, "file": str(Path(__file__).resolve()), "height": HEIGHT,
            "width": WIDTH, "chunk": CHUNK, "takes": ["switches"], "environment": {"PYTHONPATH": folder},
        }  # fmt: skip

        def process() -> VideoModel:
            return models.create("process", options)

        here, there = Delays(Options()), process()
        memory = rows([(weighed(lambda: Delays(Options())), weighed(process)) for _ in range(3)])
        here.load("cpu")
        there.load("cpu")
        result = {"1 clip": timed(here, there, 1, arguments.rounds), "4 clips": timed(here, there, 4, arguments.rounds)}
        there.unload()
    result["memory"] = memory
    about = {"rounds": arguments.rounds, "load_average": os.getloadavg()[0], "versions": dict(devices.versions())}
    about["device"] = devices.describe("cpu")
    if arguments.json:
        print(json.dumps({**about, "figures": result}, indent=1))
        return
    for part, table in result.items():
        print(f"{part:14}{'in process':>16}{'own process':>16}{'ratio':>9}{'paired':>9}{'best':>9}")
        for name, row in table.items():
            print(f"  {name:12}" + "".join(f"{row[k]:>16,.4g}" for k in ("in process", "own process")), end="")
            print(f"{row['ratio']:>9.4f}{row['paired']:>9.4f}{row['best']:>9.4f}")
    print(json.dumps(about))


if __name__ == "__main__":
    if os.environ.get("HARNESS_STREAM"):
        import harness_stream

        harness_stream.serve(lambda device, options: Model(), lambda m, r, s: clip(r, s, [f for f, _ in r.switches]))
    else:
        main()
