"""Run folders with records made by hand, and the fake metric and probe that they name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.contracts import (
    Clip,
    Measurement,
    Metric,
    ModelCard,
    Options,
    Probe,
    ProbeContext,
    Request,
    Spans,
    Subject,
    Value,
    VideoModel,
    Workload,
    no_spans,
    registry,
)
from harness.runs.line import Record
from harness.runs.plan import make, to_json
from harness.runs.records import RecordFile
from harness.suite.schema import Suite


class Card(Options):
    """What the card of a fake model says."""

    label: str = ""
    cached_scalars: int | None = None
    weights: str = "trained"


@registry.models.register("fake/card")
class CardModel(VideoModel):
    schema = Card

    def describe(self) -> ModelCard:
        return ModelCard("fake", 8, 8, 8.0, 4, cached_scalars=self.options.cached_scalars, weights=self.options.weights)

    def stream(self, request: Request, spans: Spans = no_spans) -> Any:
        raise NotImplementedError


@registry.metrics.register("fake/quality")
class Quality(Metric):
    values = (Value("sharpness"), Value("worst", direction="none"))
    derived = (Value("total"),)

    def score(self, clip: Clip) -> Mapping[str, float]:
        raise NotImplementedError

    def aggregate(self, name: str, scores: Sequence[float]) -> float:
        return min(scores) if name == "worst" else float(sum(scores) / len(scores))

    def derive(self, means: Mapping[str, float]) -> Mapping[str, float]:
        return {"total": means["sharpness"] + means["worst"]}


@registry.metrics.register("fake/plain")
class Plain(Metric):
    values = (Value("sharpness"),)

    def score(self, clip: Clip) -> Mapping[str, float]:
        raise NotImplementedError


@registry.metrics.register("fake/share")
class Share(Plain):
    values = (Value("sharpness", share=True),)


@registry.metrics.register("fake/drift")
class Drift(Plain):
    values = (Value("drift", direction="zero"),)


@registry.probes.register("fake/speed")
class Speed(Probe):
    values = (Value("rate", "frames/s"),)

    def measure(self, subject: Subject | None, workload: Workload, context: ProbeContext) -> Measurement:
        raise NotImplementedError


@registry.probes.register("fake/timed")
class Timed(Speed):
    values = (*Speed.values, *(Value(name, direction="none") for name in ("converged", "contended", "agreement_error")))


@dataclass(frozen=True)
class Arm:
    """One arm's scores, in the order of (prompt, seed); None where there is no record. Speeds are one a round.

    `frames` names its clips'.
    """

    label: str
    scores: Sequence[float | None]
    cached_scalars: int | None = None
    weights: str = "trained"
    speed: float | Sequence[float] | None = None
    device: str = "Test CPU"
    statuses: Mapping[int, Any] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    frames: str = ""


def write_run(
    folder: Path,
    arms: Sequence[Arm],
    prompts: int = 4,
    seeds: int = 1,
    append: bool = False,
    metric: str = "fake/quality",
    **suite: Any,
) -> None:
    """A run folder of a suite with a section `short`, and `speed` where an arm has one."""
    entries = [
        {
            "name": "fake/card",
            "label": arm.label,
            "options": {"label": arm.label, "cached_scalars": arm.cached_scalars, "weights": arm.weights},
        }
        for arm in arms
    ]
    texts = [f"prompt {number}" for number in range(prompts)]
    rounds = {arm.label: [arm.speed] if isinstance(arm.speed, float | int) else arm.speed for arm in arms if arm.speed}
    measure = {"name": "speed", "probe": "fake/speed", "prompts": "p"}
    speeds = [measure | {"rounds": max(len(found or ()) for found in rounds.values())}] if rounds else []
    section = {"name": "short", "prompts": "p", "seeds": list(range(seeds)), "frames": 8}
    body = {
        "suite": "fake",
        "reference": arms[0].label,
        "models": entries,
        "prompts": {"p": {"texts": texts}},
        "generate": [{**section, "metrics": [{"name": metric}]}],
        "measure": speeds,
        **suite,
    }
    plan = make(Suite.model_validate(body), "cpu")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plan.json").write_bytes(_json(to_json(plan)))
    units = {unit.key: unit for unit in plan.units}
    if not append:
        (folder / "records.jsonl").unlink(missing_ok=True)
    with RecordFile(folder / "records.jsonl") as file:
        for group in plan.groups:
            arm = next(arm for arm in arms if arm.label == group.arm)
            if group.kind == "generate":
                continue
            scores = rounds.get(arm.label) or [None] if group.kind == "measure" else arm.scores
            for index, (key, score) in enumerate(zip(group.keys, scores, strict=True)):
                if score is None:
                    continue
                names = ["rate"] if group.kind == "measure" else ["sharpness", "worst", "drift"]
                file.append(
                    Record(
                        key,
                        group.kind,
                        arm.statuses.get(index, "ok"),
                        units[key].preimage,
                        context=units[key].context,
                        values=dict.fromkeys(names, score),
                        notes=arm.notes,
                        clip={"digest": f"{arm.frames} {index}"} if arm.frames else {},
                        device={"kind": "cpu", "name": arm.device, "cores": 2},
                    )
                )


def _json(body: Mapping[str, Any]) -> bytes:
    import json

    return json.dumps(body).encode()
