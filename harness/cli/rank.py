"""`harness rank`: the spectrum of key and value maps or of activations, as a record, a table and a plot."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.arguments import file_named, options_of, path_named

if TYPE_CHECKING:
    from harness.contracts import Json
    from harness.suite.schema import Suite

WEIGHTS, ACTIVATIONS = "rank", "activation-rank"
PROMPT = "a red circle moves slowly to the left on a navy background"
"""Of the small world, and a sentence that any other model can draw."""

RunFolder = Annotated[Path, typer.Option(parser=path_named, metavar="DIR", help="Run folder that keeps the record.")]
Plot = Annotated[Path | None, typer.Option(parser=file_named, metavar="FILE", help="Draw the spectra into this file.")]
Alpha = Annotated[float | None, typer.Option("--lora-alpha", help="Its alpha, where its files do not state it.")]
Latents = Annotated[
    Path | None, typer.Option(metavar="FILE", help="With --activations: real latents behind which every chunk is made.")
]


def rank(
    subject: Annotated[
        str,
        typer.Argument(metavar="CHECKPOINT", help="A file, a folder or a Hub id; with --activations a model's name."),
    ],
    width: Annotated[int, typer.Option(help="Directions whose share of the energy is reported.")] = 192,
    svg: Plot = None,
    out: RunFolder = Path("runs/rank"),
    ema: Annotated[bool | None, typer.Option("--ema/--no-ema", help="Averaged or raw weights, of both.")] = None,
    lora: Annotated[str | None, typer.Option(help="A low-rank update to merge first.")] = None,
    lora_alpha: Alpha = None,
    activations: Annotated[
        bool, typer.Option("--activations", help="Keys, values and content latent of a rollout, where there are any.")
    ] = False,
    centred: Annotated[bool, typer.Option("--centred", help="Take the mean of the activations away.")] = False,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="OPTION=VALUE", help="Of the model.")] = None,
    latents: Latents = None,
    prompt: Annotated[str, typer.Option(help="Of the rollout.")] = PROMPT,
    frames: Annotated[int, typer.Option(min=1, help="Pixel frames of the rollout.")] = 81,
) -> Iterator[str]:
    """Show the spectra of a checkpoint's maps or of activations.

    For every layer: singular values, energy kept and effective rank.
    """
    from harness.errors import HarnessError, OptionError
    from harness.execute.run import run_plan
    from harness.report.plots.spectra import parts, plot_spectra, tables
    from harness.report.render import markdown
    from harness.runs.plan import make
    from harness.runs.records import RecordFile

    weights: dict[str, Json] = {"ema": ema, "lora": lora, "lora_alpha": lora_alpha}
    if activations and any(value is not None for value in weights.values()):
        raise OptionError(
            "--ema, --lora and --lora-alpha are options of the model here", "give --set ema=true, --set lora=FILE"
        )
    if not activations and (centred or set_ or latents):
        raise OptionError("--centred, --set and --latents belong to --activations", "add it, or leave them out")
    if activations:
        probe: dict[str, Json] = {"width": width, "centred": centred, "latents": str(latents) if latents else ""}
        suite = _rollout(subject, options_of(set_), probe, prompt, frames)
    else:
        suite = _suite(WEIGHTS, {"checkpoint": subject, "width": width, **weights})
    plan = make(suite)
    (unit,) = plan.units
    run_plan(plan, out, replace_plan=True)
    records = RecordFile(out / "records.jsonl")
    record = records.at(records.newest()[unit.key].offset)
    if record.status != "ok":
        reason = record.error.get("message") or record.notes.get("reason", "")
        raise HarnessError(f"{subject}: {reason}")
    for table in tables(record.samples, record.notes, record.values):
        yield markdown(table)
    if svg is not None:
        for name, samples in parts(record.samples).items():
            path = svg.with_stem(f"{svg.stem}_{name}") if name else svg
            plot_spectra(samples, record.notes, path)
            yield f"plot: {path}"
    yield f"record: {out / 'records.jsonl'}"


def _rollout(model: str, options: dict[str, Json], probe: dict[str, Json], prompt: str, frames: int) -> Suite:
    from harness.contracts import registry

    checked = registry.check_options(f"model {model}", registry.models.get(model).schema, options)
    entry: dict[str, Json] = {"name": model, "label": model, "options": checked.model_dump(mode="json")}
    workload: dict[str, Json] = {"prompts": "rollout", "frames": frames}
    return _suite(ACTIVATIONS, probe, workload, {"models": [entry], "prompts": {"rollout": {"texts": [prompt]}}})


def _suite(
    probe: str, options: dict[str, Json], workload: dict[str, Json] | None = None, more: dict[str, Json] | None = None
) -> Suite:
    from harness.contracts import registry
    from harness.suite.schema import Suite

    checked = registry.check_options(f"probe {probe}", registry.probes.get(probe).schema, options)
    section = {"name": WEIGHTS, "probe": probe, "options": checked.model_dump(mode="json"), **(workload or {})}
    return Suite.model_validate({"suite": WEIGHTS, "device": "cpu", "measure": [section], **(more or {})})
