"""Runs one unit and says what happened, as a record. Knows no order, no folder layout and no other unit."""

from __future__ import annotations

import queue
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness import check, registry, video
from harness.contracts import Clip, Frames, Json, ModelCard, Request, Subject, Switch, VideoModel, Workload
from harness.errors import NotAvailable, RecordError, StorageError
from harness.execute.scoring import Scorer
from harness.plan import Unit
from harness.records import Record, encode

QUEUE_CHUNKS = 4
"""Decoded chunks that may wait for the encoder, so that memory stays bounded when it is the slower one."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What every record of a run says of the machine and the code."""

    device: Mapping[str, Json]
    versions: Mapping[str, Json]
    git: Mapping[str, Json]


@dataclass(slots=True)
class Result:
    """What a unit gave, as far as it is not the same for all units."""

    values: Mapping[str, float] = field(default_factory=dict)
    samples: Mapping[str, Sequence[float]] = field(default_factory=dict)
    notes: Mapping[str, Json] = field(default_factory=dict)
    clip: Mapping[str, Json] = field(default_factory=dict)


def attempt(unit: Unit, setting: Setting, work: Callable[[], Result]) -> Record:
    """Do `work` and record how it ended; an exception makes a failed record, `NotAvailable` a skipped one.

    Only `StorageError` and the user's interrupt come through: they concern the run, not the unit.
    """
    started = _now()
    status, result, error = "ok", Result(), {}
    try:
        result = work()
    except (StorageError, KeyboardInterrupt):
        raise
    except NotAvailable as reason:
        status, result = "skipped", Result(notes={"reason": reason.message, "fix": reason.fix})
    except (Exception, SystemExit) as fault:  # noqa: BLE001 - a plug-in may raise anything
        status, error = "failed", describe(fault)
    made = record(unit, setting, status, result, started, error)
    try:
        encode(made)
    except RecordError as fault:
        made = record(unit, setting, "failed", Result(), started, describe(fault))
    return made


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
    status: Any,
    result: Result,
    started: str = "",
    error: Mapping[str, Json] | None = None,
) -> Record:
    """The record of one attempt at `unit`, ended now."""
    ended = _now()
    return Record(
        key=unit.key,
        kind=unit.kind,
        status=status,
        unit=unit.spec,
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


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


# ------------------------------------------------------------------------------------------- generate


def generate(unit: Unit, model: VideoModel, card: ModelCard, path: Path) -> Result:
    """Make the clip of a generate unit and write it to `path`."""
    spec: Any = unit.spec
    request = Request(
        prompts=(spec["prompt"],),
        seeds=(spec["seed"],),
        frames=spec["frames"],
        switches=tuple(Switch(frame, (prompt,)) for frame, prompt in spec["switches"]),
    )
    settings = spec["video"]
    # A copy, since a model may fill the same array again while the encoder still reads it.
    frames = (chunk[0].copy() for chunk in check.chunks(model, request, card))
    return Result(clip=_encode(frames, path, settings["frame_rate"], settings["crf"], settings["preset"]))


class _Aborted(Exception):
    """The model failed; the encoder gives up its half-written file."""


def _encode(frames: Iterator[Frames], path: Path, rate: float, crf: int, preset: str) -> Mapping[str, Json]:
    """Write `frames` to `path` from a thread, so that the model goes on while a chunk is encoded."""
    waiting: queue.Queue[Frames | BaseException | None] = queue.Queue(QUEUE_CHUNKS)
    done = threading.Event()
    found: dict[str, Json] = {}
    faults: list[BaseException] = []

    def arrivals() -> Iterator[Frames]:
        while (item := waiting.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    def write() -> None:
        try:
            found.update(video.write(path, arrivals(), rate, crf, preset))
        except BaseException as fault:  # noqa: BLE001 - raised again by the thread that waits
            faults.append(fault)
        finally:
            done.set()

    def hand_over(item: Frames | BaseException | None) -> None:
        while not done.is_set():
            try:
                return waiting.put(item, timeout=0.1)
            except queue.Full:
                continue
        return None

    thread = threading.Thread(target=write, name="encoder", daemon=True)
    thread.start()
    try:
        for chunk in frames:
            hand_over(chunk)
            if done.is_set():
                break
        hand_over(None)
    except BaseException:
        hand_over(_Aborted())
        raise
    finally:
        thread.join()
    if faults:
        raise faults[0]
    return found


# ---------------------------------------------------------------------------------------------- score


def clip_of(unit: Unit, info: Mapping[str, Any], path: Path, index: int) -> Clip:
    """The clip of a generate unit as metrics see it; `info` is the `clip` of its record."""
    spec: Any = unit.spec
    return Clip(
        path=path,
        prompt=spec["prompt"],
        seed=spec["seed"],
        index=index,
        frames=info["frames"],
        height=info["height"],
        width=info["width"],
        frame_rate=info["frame_rate"],
        digest=info["digest"],
        read=lambda: video.read(path),
        switches=tuple((frame, prompt) for frame, prompt in spec["switches"]),
    )


def score(unit: Unit, scorer: Scorer, clip: Clip) -> Result:
    """One metric on one clip."""
    spec: Any = unit.spec
    name = spec["metric"]["name"]
    given = scorer.score(clip)
    found = check.values(f"metric {name}", registry.metrics.get(name).values, given)
    samples = {key: [float(item) for item in items] for key, items in scorer.samples().items()}
    return Result(values=found, samples=samples, notes=scorer.notes(), clip={"digest": clip.digest})


# -------------------------------------------------------------------------------------------- measure


def measure(unit: Unit, subject: Subject | None, device: str) -> Result:
    """One probe on one live model, or on the device alone."""
    spec: Any = unit.spec
    name, load = spec["probe"]["name"], spec["workload"]
    probe = registry.probes.create(name, spec["probe"]["options"])
    state = probe.available(device)
    if not state.ready:
        raise NotAvailable(f"probe {name} is not available: {state.reason}", state.fix)
    workload = Workload(
        prompts=tuple(load["prompts"]),
        seeds=tuple(load["seeds"]),
        frames=load["frames"],
        batch=load["batch"],
        switches=tuple(Switch(frame, tuple(prompts)) for frame, prompts in load["switches"]),
    )
    found = probe.measure(subject, workload)
    declared = check.values(f"probe {name}", probe.values, found.values)
    samples = {key: [float(item) for item in items] for key, items in found.samples.items()}
    return Result(values=declared, samples=samples, notes=dict(found.notes))
