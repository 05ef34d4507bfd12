"""Run folders whose scores hold curves that a test writes by hand."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import run_folders  # noqa: F401 (registers the models)

from harness.contracts import Clip, Curve, Metric, Value, registry
from harness.runs.line import Record
from harness.runs.plan import make, to_json
from harness.runs.records import RecordFile
from harness.suite.schema import Suite

RATE = 8.0


@registry.metrics.register("fake/curves")
class Curves(Metric):
    values = (Value("sharpness"),)
    curves = (
        Curve(Value("sharp_by_piece", label="sharpness")),
        Curve(Value("fit_by_frame", label="fit"), "adherence"),
        Curve(Value("step_by_frame", "levels", "none", "step"), "step"),
        Curve(Value("alike", label="alike"), "distance", frames="distances"),
    )

    def score(self, clip: Clip) -> Mapping[str, float]:
        raise NotImplementedError


@registry.metrics.register("fake/more")
class More(Curves):
    pass


def write_curves(
    folder: Path,
    arms: Mapping[str, Sequence[Mapping[str, Sequence[float]]]],
    frames: int,
    chunks: Sequence[int] = (),
    switches: Sequence[tuple[int, int | None]] = (),
    missing: int = 0,
    **suite: Any,
) -> None:
    """A run of one section `long`: of each arm the samples of each prompt's clip.

    `switches` are (asked, happened). The last `missing` clips of every arm have no score.
    """
    prompts = len(next(iter(arms.values())))
    section: dict[str, Any] = {"name": "long", "prompts": "p", "frames": frames, "metrics": [{"name": "fake/curves"}]}
    if switches:
        section["switches"] = [{"frame": asked, "prompts": "other"} for asked, _ in switches]
    body = {
        "suite": "fake",
        "reference": next(iter(arms)),
        "models": [{"name": "fake/card", "label": label, "options": {"label": label}} for label in arms],
        "prompts": {"p": {"texts": [f"prompt {n}" for n in range(prompts)]}, "other": {"texts": ["other"]}},
        "generate": [section],
        "drift": [{"name": "drift", "section": "long"}],
        **suite,
    }
    plan = make(Suite.model_validate(body), "cpu")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plan.json").write_text(json.dumps(to_json(plan)))
    units = {unit.key: unit for unit in plan.units}
    with RecordFile(folder / "records.jsonl") as file:
        for group in plan.groups:
            for number, key in enumerate(group.keys):
                if group.kind == "score" and number >= prompts - missing:
                    continue
                clip: dict[str, Any] = {"digest": key}
                if group.kind == "generate":
                    clip |= {"frames": frames, "frame_rate": RATE, "height": 8, "width": 8, "path": "clips/none.mp4"}
                    if switches:
                        clip["switches"] = [{"asked": asked, "frame": frame} for asked, frame in switches]
                scored = group.kind == "score"
                file.append(
                    Record(
                        key,
                        group.kind,
                        "ok",
                        units[key].preimage,
                        context=units[key].context,
                        values={"sharpness": 1.0} if scored else {},
                        samples=arms[group.arm][number] if scored else {},
                        notes={"chunks": list(chunks)} if chunks and not scored else {},
                        clip=clip,
                        device={"kind": "cpu", "name": "Test CPU", "cores": 2},
                    )
                )
