"""`harness rank`: the spectrum of a checkpoint's key and value maps, as a record, a table and a plot."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

PROBE = "rank"


def rank(
    checkpoint: Annotated[
        str, typer.Argument(metavar="CHECKPOINT", help="A file, a folder or a Hub id; dense or VideoMLA.")
    ],
    width: Annotated[int, typer.Option(help="Directions whose share of the energy is reported.")] = 192,
    svg: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw the spectra into this file.")] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Run folder that keeps the record.")] = Path("runs/rank"),
    ema: Annotated[bool | None, typer.Option("--ema/--no-ema", help="Averaged or raw weights, of both.")] = None,
    lora: Annotated[str | None, typer.Option(help="A low-rank update to merge first.")] = None,
) -> Iterator[str]:
    """Singular values, energy kept and effective rank of every layer of a checkpoint."""
    from harness import registry
    from harness.contracts import Json
    from harness.errors import HarnessError
    from harness.execute import local
    from harness.plan import make
    from harness.records import RecordFile
    from harness.report.render import markdown
    from harness.report.spectra import layer_table, plot_spectra
    from harness.schema import Suite

    given: dict[str, Json] = {"checkpoint": checkpoint, "width": width, "ema": ema, "lora": lora}
    options = registry.check_options(f"probe {PROBE}", registry.probes.get(PROBE).schema, given)
    section = {"name": PROBE, "probe": PROBE, "options": options.model_dump(mode="json")}
    suite = Suite.model_validate({"suite": PROBE, "device": "cpu", "measure": [section]})
    plan = make(suite)
    (unit,) = plan.units
    local.run(plan, out)
    records = RecordFile(out / "records.jsonl")
    record = records.at(records.newest()[unit.key].offset)
    if record.status != "ok":
        reason = record.error.get("message") or record.notes.get("reason", "")
        raise HarnessError(f"{checkpoint}: {reason}")
    yield markdown(layer_table(record.samples, record.notes))
    if svg is not None:
        plot_spectra(record.samples, record.notes, svg)
        yield f"plot: {svg}"
    yield f"record: {out / 'records.jsonl'}"
