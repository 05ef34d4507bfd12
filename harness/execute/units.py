"""Run one unit and return its record. Nothing here knows an order, the folder's layout or another unit."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.contracts import (
    Clip,
    Json,
    Metric,
    ModelCard,
    Prefix,
    ProbeContext,
    Subject,
    Switch,
    Workload,
    enforce,
    registry,
)
from harness.errors import ClipError, NotAvailable, RecordError, StorageError
from harness.runs.line import Record, Status, decode, encode
from harness.runs.measured import record_notes, record_samples, record_values
from harness.runs.plan import Unit
from harness.suite import prefixes
from harness.system import video
from harness.system.files import folder_kept


@dataclass(frozen=True, slots=True)
class Setting:
    """The machine and the code, the same in every record of a run."""

    device: Mapping[str, Json]
    versions: Mapping[str, Json]
    git: Mapping[str, Json]


@dataclass(slots=True)
class Result:
    """The part of a record that the work of a unit returns."""

    values: Mapping[str, float] = field(default_factory=dict)
    samples: Mapping[str, Sequence[float]] = field(default_factory=dict)
    notes: Mapping[str, Json] = field(default_factory=dict)
    clip: Mapping[str, Json] = field(default_factory=dict)


def attempt(unit: Unit, setting: Setting, work: Callable[[], Result]) -> Record:
    """Do `work` and return its record: a failed one after an exception, a skipped one after `NotAvailable`.

    Raises only `StorageError` and the user's interrupt, which concern the run and not the unit.
    """
    started = now()
    status: Status = "ok"
    result, error = Result(), dict[str, Json]()
    try:
        result = work()
    except (StorageError, KeyboardInterrupt):
        raise
    except NotAvailable as reason:
        status, result = "skipped", Result(notes={"reason": reason.message, "fix": reason.fix})
    except (Exception, SystemExit) as fault:  # noqa: BLE001 - a plug-in may raise anything
        status, error = "failed", describe(fault)
    record_of_attempt = record(unit, setting, status, result, started, error)
    # A plug-in's values may be no JSON, or deeper than it is read, and then the failure is the unit's, not the run's.
    try:
        decode(encode(record_of_attempt))
    except RecordError as fault:
        record_of_attempt = record(unit, setting, "failed", Result(), started, describe(fault))
    return record_of_attempt


def describe(fault: BaseException) -> dict[str, Json]:
    """An exception as records keep it. Texts only: a kept traceback would keep a model's tensors alive."""
    return {
        "type": type(fault).__name__,
        "message": str(fault)[:4000],
        "traceback": "".join(traceback.format_exception(fault))[-16000:],
    }


def record(
    unit: Unit,
    setting: Setting,
    status: Status,
    result: Result,
    started: str = "",
    error: Mapping[str, Json] | None = None,
) -> Record:
    """The record of one attempt at `unit`, ended now."""
    ended = now()
    return Record(
        key=unit.key,
        kind=unit.kind,
        status=status,
        preimage=unit.preimage,
        context=unit.context,
        values=result.values,
        samples=result.samples,
        notes=result.notes,
        clip=result.clip,
        device=setting.device,
        versions=setting.versions,
        git=setting.git,
        started=started or ended,
        ended=ended,
        error=error or {},
    )


def now() -> str:
    """The time as records write it: UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def prefixes_of(files: Sequence[Mapping[str, Any]], card: ModelCard) -> tuple[Prefix, ...]:
    """The prefixes that a unit names, for a model of this card. Their files are read when the model asks."""
    return tuple(
        prefixes.lazy_prefix(Path(file["file"]).absolute(), file["sha256"], file["frames"], card) for file in files
    )


# ---------------------------------------------------------------------------------------------- score


def clip_of(unit: Unit, info: Mapping[str, Any], path: Path, index: int) -> Clip:
    """The clip of a generate unit as metrics see it; `info` is the `clip` of its record."""
    preimage: Any = unit.preimage
    return Clip(
        path=path,
        prompt=preimage["prompt"],
        seed=preimage["seed"],
        index=index,
        frames=info["frames"],
        height=info["height"],
        width=info["width"],
        frame_rate=info["frame_rate"],
        digest=info["digest"],
        read=lambda: video.read(path),
        switches=tuple(zip(_happened(preimage, info), (prompt for _, prompt in preimage["switches"]), strict=True)),
    )


def _happened(preimage: Any, info: Mapping[str, Any]) -> list[int]:
    """The frame of each switch: that of the clip's record, or the requested one where the model cannot say."""
    if "switches" not in info:
        return [frame for frame, _ in preimage["switches"]]
    return [switch["asked"] if switch["frame"] is None else switch["frame"] for switch in info["switches"]]


def held_against(clip: Clip, reference: Clip) -> Clip:
    """`clip` with its reference. Raises `ClipError` where they differ in length, size or rate."""
    kinds = [f"{c.frames} frames of {c.height} x {c.width} at {c.frame_rate:g} a second" for c in (clip, reference)]
    if kinds[0] != kinds[1]:
        raise ClipError(f"the clip has {kinds[0]}, its reference {kinds[1]}, so that they cannot be compared")
    return replace(clip, reference=reference)


def score(unit: Unit, metric: Metric, clip: Clip) -> Result:
    """One metric on one clip."""
    preimage: Any = unit.preimage
    name = preimage["metric"]["name"]
    with folder_kept():
        raw = metric.score(replace(clip, known_as=preimage.get("prompt_identity", "")))
        samples = {key: [float(item) for item in items] for key, items in metric.samples().items()}
    values = enforce.values(f"metric {name}", registry.metrics.get(name).values, raw)
    scored = {"digest": clip.digest} | ({"reference": clip.reference.digest} if clip.reference else {})
    return Result(values=values, samples=samples, notes=metric.notes(), clip=scored)


# -------------------------------------------------------------------------------------------- measure


def measure(unit: Unit, options: Mapping[str, Json], subject: Subject | None, context: ProbeContext) -> Result:
    """One probe with its `options` on one live model, or on the device alone."""
    preimage: Any = unit.preimage
    name, load = preimage["probe"]["name"], preimage["workload"]
    probe = registry.probes.create(name, options)
    state = probe.available(context.device)
    if not state.ready:
        raise NotAvailable(f"probe {name} is not available: {state.reason}", state.fix)
    workload = Workload(
        prompts=tuple(load["prompts"]),
        seeds=tuple(load["seeds"]),
        frames=load["frames"],
        batch=load["batch"],
        switches=tuple(Switch(frame, tuple(prompts)) for frame, prompts in load["switches"]),
        prefixes=prefixes_of(unit.context["prefixes"], subject.card) if subject and "prefixes" in load else (),
    )
    with folder_kept():
        measurement = probe.measure(subject, workload, context)
    owner = f"probe {name}"
    values = record_values(owner, probe.values, measurement)
    samples = record_samples(owner, type(probe), measurement)
    return Result(values=values, samples=samples, notes=record_notes(owner, type(probe), measurement))
