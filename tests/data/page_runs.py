"""Runs with clips to look at: every frame shows its own number, and a score is known by hand. A plug-in file too."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.contracts import Clip, Frames, Metric, ModelCard, Options, Request, Spans, Value, VideoModel, no_spans
from harness.contracts.registry import metrics, models
from harness.execute.run import run_plan
from harness.runs.plan import make
from harness.runs.records import Run, load_run
from harness.suite.schema import Suite

HEIGHT, WIDTH, RATE, BITS = 48, 64, 12.0, 8
HOSTILE = '9 </script><script>window.ran=1</script><img src=x onerror="window.ran=1"> & "\'><b>'


class Level(Options):
    """Brightness of the lower half for prompt 0, and what each further prompt adds."""

    level: int = 100
    each: int = 5


@models.register("page/counter")
class Counter(VideoModel):
    """The upper half shows the number of the frame, eight stripes for its bits; the lower half is of one grey."""

    schema = Level

    def describe(self) -> ModelCard:
        return ModelCard("fake", HEIGHT, WIDTH, RATE, 4, cached_scalars=self.options.level)

    def stream(self, request: Request, spans: Spans = no_spans) -> Iterator[Frames]:
        if "fails" in request.prompts[0]:
            raise ValueError("the pattern is <lost>")
        grey = [self.options.level + self.options.each * number_of(prompt) for prompt in request.prompts]
        for start in range(0, request.frames, 4):
            count = min(4, request.frames - start)
            frames = np.zeros((request.batch, count, HEIGHT, WIDTH, 3), np.uint8)
            for index in range(count):
                bits = [255 * (start + index >> bit & 1) for bit in range(BITS)]
                frames[:, index, : HEIGHT // 2] = np.repeat(np.array(bits, np.uint8), WIDTH // BITS)[
                    None, None, :, None
                ]
            for clip, level in enumerate(grey):
                frames[clip, :, HEIGHT // 2 :] = level
            yield frames


def number_of(prompt: str) -> int:
    """The number that a prompt begins with."""
    match = re.match(r"\d+", prompt)
    return int(match[0]) if match else 0


@metrics.register("page/grey")
class Grey(Metric):
    """The grey of the lower half of the first frame, to the nearest five, and numbers along the clip."""

    values = (Value("grey", "steps"), *(Value(f"part_{number}", direction="none") for number in (1, 2, 3, 4)))

    def score(self, clip: Clip) -> Mapping[str, float]:
        level = 5 * round(float(clip.read()[0, HEIGHT // 2 + 4 :].mean()) / 5)
        return {"grey": level, **{f"part_{number}": level + number for number in (1, 2, 3, 4)}}

    def samples(self) -> Mapping[str, Sequence[float]]:
        return {"drift": [3.0, 2.0, 1.0]}


def suite(prompts: Sequence[str], long: Sequence[str] = (), **changes: Any) -> dict[str, Any]:
    """Arms `a` and `b`: for prompt n their grey is 100 + 5n and 200 - 5n. Clips of 24 frames, and long ones of 96."""
    sections = [{"name": "short", "prompts": "p", "frames": 24, "metrics": [{"name": "page/grey"}]}]
    if long:
        switch = {"frame": 48, "prompts": "later"}
        sections.append({**sections[0], "name": "long", "prompts": "long", "frames": 96, "switches": [switch]})
    return {
        "suite": "page",
        "title": "Grey & <b>",
        "incomplete": "mark",
        "reference": "a",
        "models": [
            {"name": "page/counter", "label": "a", "options": {"level": 100, "each": 5}},
            {"name": "page/counter", "label": "b", "options": {"level": 200, "each": -5}},
        ],
        "prompts": {
            "p": {"texts": list(prompts)},
            **({"long": {"texts": list(long)}, "later": {"texts": ["a later prompt"]}} if long else {}),
        },
        "generate": sections,
        "plots": [{"name": "grey_by_cache", "kind": "quality_by_cache", "values": ["short:grey"]}],
        **changes,
    }


def make_run(folder: Path, body: Mapping[str, Any]) -> Run:
    """The run of a suite given as data."""
    run_plan(make(Suite.model_validate(body), "cpu"), folder)
    return load_run(folder)
