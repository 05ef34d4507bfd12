"""How a record keeps a measurement: the one place that knows the keys of its judgements, table and products."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, get_args

from harness.contracts import (
    DRAWN_FROM,
    Agreement,
    AuditVerdict,
    Json,
    Measurement,
    NotHeld,
    Probe,
    ProbeTable,
    Value,
    enforce,
)
from harness.errors import PluginFault

CONVERGED, CONTENDED, AGREEMENT_ERROR = "converged", "contended", "agreement_error"
JUDGEMENTS = {CONVERGED: "converged", CONTENDED: "contended", AGREEMENT_ERROR: "agreement"}
"""Keys among a record's values, by the field of `Measurement` that they are made of."""

AUDIT, AGREEMENT, TABLE, PRODUCTS = "audit", "agreement", "table", "products"
TYPED_NOTES = (AUDIT, AGREEMENT, TABLE, PRODUCTS)
"""Keys among a record's notes that are made of the fields of `Measurement` of that name."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a record says of the worth of its measurement; None where its probe has nothing to say.

    Attributes:
        converged, contended: as in `Measurement`. agreed: whether a reference stands behind the model's fast path.
        audit: verdict of the caching audit.
    """

    converged: bool | None
    contended: bool | None
    agreed: bool | None
    audit: AuditVerdict | None


def judgement(values: Mapping[str, float], notes: Mapping[str, Any]) -> Judgement:
    """The judgement of a record with these values and notes. A verdict that is none of today's counts as unclear."""
    error, audit = values.get(AGREEMENT_ERROR), notes.get(AUDIT)
    verdict = audit.get("verdict") if isinstance(audit, dict) else None
    return Judgement(
        converged=_truth(values.get(CONVERGED)),
        contended=_truth(values.get(CONTENDED)),
        agreed=None if error is None else not math.isnan(error),
        audit=None if not isinstance(audit, dict) else verdict if verdict in get_args(AuditVerdict) else "unclear",
    )


def _truth(number: float | None) -> bool | None:
    return None if number is None or math.isnan(number) else number != 0


def record_values(owner: str, declared: Sequence[Value], measurement: Measurement) -> dict[str, float]:
    """The values of a record: those of the probe, which `declared` them, and its judgements.

    Raises `PluginFault` that starts with `owner`, also for a judgement among the probe's own values.
    """
    if names := [name for name in JUDGEMENTS if name in measurement.values]:
        fields = ", ".join(f"{JUDGEMENTS[name]}=…" for name in names)
        raise PluginFault(f"{owner} gave {', '.join(names)} among its values", f"give Measurement({fields}) instead")
    judgements: dict[str, float | None] = {CONVERGED: measurement.converged, CONTENDED: measurement.contended}
    if measurement.agreement is not None:
        held = measurement.agreement
        judgements[AGREEMENT_ERROR] = math.nan if isinstance(held, str) else held.error
    given = {name: float(number) for name, number in judgements.items() if number is not None}
    columns = {value.name for value in declared}
    shown = {name: number for name, number in given.items() if name in columns}
    return enforce.values(owner, declared, {**measurement.values, **shown}) | given


def record_samples(owner: str, probe: type[Probe], measurement: Measurement) -> dict[str, list[float]]:
    """The samples of a record.

    Raises `PluginFault` that starts with `owner` where a plot that the class declares lacks what it is drawn from.
    """
    for plot in probe.plots:
        if lacking := [n for n in DRAWN_FROM[plot] if n not in measurement.samples and n not in measurement.values]:
            raise PluginFault(f"{owner} declares the plot {plot}, and gave no {', '.join(lacking)} to draw")
    return {name: [float(item) for item in items] for name, items in measurement.samples.items()}


def record_notes(owner: str, probe: type[Probe], measurement: Measurement) -> dict[str, Json]:
    """The notes of a record: those of the probe, and the fields of `Measurement` that are notes.

    Raises `PluginFault` that starts with `owner` for one of those among the probe's own notes, and for a table that the
    class does not declare.
    """
    if names := [name for name in TYPED_NOTES if name in measurement.notes]:
        fields = ", ".join(f"{name}=…" for name in names)
        raise PluginFault(f"{owner} gave {', '.join(names)} among its notes", f"give Measurement({fields}) instead")
    if measurement.table is not None and not probe.has_table:
        raise PluginFault(f"{owner} gave a table that it does not declare", "set `has_table = True` in its class")
    notes = dict(measurement.notes)
    if measurement.audit is not None:
        notes[AUDIT] = asdict(measurement.audit)
    if measurement.agreement is not None:
        notes[AGREEMENT] = _agreement(measurement.agreement)
    if measurement.table is not None:
        notes[TABLE] = _table(measurement.table)
    if measurement.products:
        notes[PRODUCTS] = [asdict(product) for product in measurement.products]
    return notes


def _agreement(agreement: Agreement | NotHeld) -> dict[str, Json]:
    if isinstance(agreement, str):
        return {"verdict": agreement}
    fields = {name: getattr(agreement, name) for name in ("reference", "error", "limit", "compared")}
    return {"verdict": "passed", **fields, **agreement.details}


def _table(table: ProbeTable) -> dict[str, Json]:
    """JSON has no NaN: a number that is not finite becomes null."""
    rows = [[label, [n if n is not None and math.isfinite(n) else None for n in row]] for label, row in table.rows]
    return {**asdict(table), "columns": [list(column) for column in table.columns], "rows": rows}
