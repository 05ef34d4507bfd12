"""A training as a unit of work: its record holds the checkpoints' digests and the losses. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from harness.contracts import Json, Measurement, Options, Probe, ProbeContext, Product, Subject, Value, Workload
from videomla_models.training.options import TRAINING_VERSION, Chain, by_bytes


class Train(Probe):
    """Trains a chain of stages, or goes on with it; the scratch folder keeps its stages, under names of their keys."""

    version: ClassVar[str] = str(TRAINING_VERSION)
    schema: ClassVar[type[Options]] = Chain
    needs_model: ClassVar[bool] = False
    side_by_side: ClassVar[bool] = True
    values: ClassVar[tuple[Value, ...]] = (
        # Each stage has a loss of its own kind, and that of distribution matching says nothing of quality.
        Value("loss", "", "none", "loss, last hundredth of the last stage"),
        Value("steps", "", "none", "steps of all stages"),
        Value("seconds", "s", "lower", "seconds of all stages"),
        Value("parameters", "", "none", "parameters"),
    )

    def identity(self) -> Mapping[str, Json]:
        """Versions of single stages."""
        chain: Chain = self.options
        return chain.versions()

    def keyed_options(self, options: Mapping[str, Json]) -> Mapping[str, Json]:
        """The options with the SHA-256 of every file that the chain starts from or is taught by in place of its path.

        Raises `OptionError` for one that cannot be read.
        """
        named: Mapping[str, Json] = by_bytes(options)
        return named

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
        products = [
            Product("checkpoints", f"{name}.safetensors", file, sha256)
            for d in done
            for name, file, sha256 in (
                (d.stage, f"{d.key}/{d.path.name}", d.sha256),
                *((f"{d.stage}-{step}", f"{d.key}/{kept}", "") for step, kept in d.kept.items()),
            )
        ]
        return Measurement(values, samples, {"checkpoint": last.sha256, "stages": stages}, products=products)
