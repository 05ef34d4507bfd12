"""A training as a unit of work: its record holds the checkpoints' digests and the losses. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from harness.contracts import Json, Measurement, Options, Probe, ProbeContext, Subject, Value, Workload
from videomla_models.training.options import TRAINING_VERSION, Chain


class Train(Probe):
    """Trains a chain of stages, or goes on with it; the scratch folder keeps its stages."""

    version: ClassVar[str] = str(TRAINING_VERSION)
    schema: ClassVar[type[Options]] = Chain
    needs_model: ClassVar[bool] = False
    values: ClassVar[tuple[Value, ...]] = (
        # Each stage has a loss of its own kind, and that of distribution matching says nothing of quality.
        Value("loss", "", "none", "loss, last hundredth of the last stage"),
        Value("steps", "", "none", "steps of all stages"),
        Value("seconds", "s", "lower", "seconds of all stages"),
        Value("parameters", "", "none", "parameters"),
    )

    def identity(self) -> Mapping[str, Json]:
        """SHA-256 of the files that the chain starts from or is taught by, and versions of single stages."""
        from videomla_models.checkpoints.locate import resolve

        chain: Chain = self.options
        teachers = [stage.teacher for stage in chain.stages if hasattr(stage, "teacher")]
        files = [origin.file for origin in (chain.start.origin, *teachers) if origin.file]
        weights = {str(place): dict(resolve(file).digests()) for place, file in enumerate(files)}
        return {"weights": weights, **chain.versions()}

    def measure(self, subject: Subject | None, workload: Workload, context: ProbeContext) -> Measurement:
        """Train; neither subject nor workload is used."""
        from videomla_models.training.chain import train

        done = train(self.options, context.scratch, context.report, context.device)
        last = done[-1]
        samples = {f"{d.stage}:{learner}": losses for d in done for learner, losses in d.losses.items()}
        stages: list[Json] = [
            {
                "stage": d.stage,
                "sha256": d.sha256,
                "key": d.key,
                "file": f"{d.key}/{d.path.name}",
                "steps": d.steps,
                "updates": dict(d.updates),
                "seconds": d.seconds,
                "kept": {step: f"{d.key}/{name}" for step, name in d.kept.items()},
            }
            for d in done
        ]
        values = {
            "loss": last.losses["generator"][-1],
            "steps": float(sum(d.steps for d in done)),
            "seconds": sum(d.seconds for d in done),
            "parameters": float(last.parameters),
        }
        return Measurement(values, samples, {"checkpoint": last.sha256, "stages": stages})
