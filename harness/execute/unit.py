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

from harness import check, prefix, registry, video
from harness.contracts import Clip, Frames, Json, ModelCard, Prefix, Request, Subject, Switch, VideoModel, Workload
from harness.errors import NotAvailable, RecordError, StorageError
from harness.execute.scoring import Scorer
from harness.heads import Head
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
    started = now()
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
    ended = now()
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


def now() -> str:
    """The time as records write it: UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


# ------------------------------------------------------------------------------------------- generate


@dataclass(frozen=True, slots=True)
class Finished:
    """A clip that is a file already, and what it must hold."""

    path: Path
    frames: int
    height: int
    width: int


def frames_of(unit: Unit, model: VideoModel, card: ModelCard) -> Iterator[Frames | Finished]:
    """Checked chunks of a generate unit's clip, uint8 [frames, height, width, 3]; or the one file that it is."""
    spec: Any = unit.spec
    files = [unit.context["prefix"]] if "prefix" in spec else []
    request = Request(
        prompts=(spec["prompt"],),
        seeds=(spec["seed"],),
        frames=spec["frames"],
        switches=tuple(Switch(frame, (prompt,)) for frame, prompt in spec["switches"]),
        prefixes=_prefixes(files, card),
    )
    if path := model.file(request):
        return iter((Finished(path, request.frames, card.height, card.width),))
    # A copy, since a model may fill the same array again while the encoder still reads it.
    return (chunk[0].copy() for chunk in check.chunks(model, request, card))


def _prefixes(files: Sequence[Mapping[str, Any]], card: ModelCard) -> tuple[Prefix, ...]:
    return tuple(prefix.opened(Path(file["file"]), file["sha256"], file["frames"], card) for file in files)


def _asked_and_given(unit: Unit) -> dict[str, Json]:
    """What the record of a clip says of its prompt switches (`frame` null: the model cannot say) and its prefix."""
    spec: Any = unit.spec
    said: dict[str, Json] = {}
    if spec["switches"]:
        pairs = zip(spec["switches"], unit.context["switched_at"], strict=True)
        said["switches"] = [{"asked": asked, "frame": frame} for (asked, _), frame in pairs]
    if "prefix" in spec:
        file: dict[str, Json] = dict(unit.context["prefix"])
        del file["file"]
        said["prefix"] = {**file, "in_clip": False}
    return said


class _Stopped(Exception):
    """The model failed with `fault`; a type of its own, so that its `OSError` is not taken for the disk's."""

    def __init__(self, fault: BaseException) -> None:
        super().__init__(str(fault))
        self.fault = fault


class Making:
    """One attempt at a clip: the model runs in the caller's thread, all else in another.

    So the model goes on, to the next chunk and to the next clip, while this one is encoded, read back, brought to the
    disk and recorded.

    Args:
        path: where the clip goes. name: the same, as the record names it.
        keep: writes the record as soon as it is made; called in the other thread.
    """

    def __init__(self, unit: Unit, setting: Setting, path: Path, name: str, keep: Callable[[Record], Head]) -> None:
        self.stopped = False
        self._waiting: queue.Queue[Frames | Finished | _Stopped | None] = queue.Queue(QUEUE_CHUNKS)
        self._made: tuple[Record, Head] | None = None
        self._fault: BaseException | None = None
        spec: Any = unit.spec
        video_settings = spec["video"]

        def write() -> Result:
            settings = video_settings["frame_rate"], video_settings["crf"], video_settings["preset"]
            arrivals = self._arrivals()
            try:
                first = next(arrivals, None)
                if isinstance(first, Finished):
                    found = video.keep(path, first.path, first.frames, first.height, first.width)
                else:
                    found = video.write(path, self._chunks(first, arrivals), *settings)
                return Result(clip={"path": name, **found, **_asked_and_given(unit)})
            except _Stopped as stopped:
                raise stopped.fault from None

        def work() -> None:
            try:
                made = attempt(unit, setting, write)
                self._made = made, keep(made)
            except BaseException as fault:  # noqa: BLE001 - raised again in the thread that asks for the record
                self._fault = fault

        self._thread = threading.Thread(target=work, name="clip", daemon=True)
        self._thread.start()

    def feed(self, start: Callable[[], Iterator[Frames | Finished]]) -> None:
        """Run the model: hand on everything that `start()` yields. Only an interrupt comes through."""
        try:
            for chunk in start():
                if not self._hand_over(chunk):
                    return
            self._hand_over(None)
        except BaseException as fault:
            self.stopped = True
            self._hand_over(_Stopped(fault))
            if isinstance(fault, KeyboardInterrupt):
                raise

    def record(self) -> tuple[Record, Head]:
        """Wait for the clip; its record, which is on the disk. Raises what came in the way of that."""
        self._thread.join()
        if self._made is None:
            raise self._fault or RuntimeError("a clip ended without a record")
        return self._made

    @staticmethod
    def _chunks(first: Frames | None, rest: Iterator[Frames | Finished]) -> Iterator[Frames]:
        if first is not None:
            yield first
        for chunk in rest:
            assert not isinstance(chunk, Finished)
            yield chunk

    def _arrivals(self) -> Iterator[Frames | Finished]:
        while (item := self._waiting.get()) is not None:
            if isinstance(item, _Stopped):
                raise item
            yield item

    def _hand_over(self, item: Frames | Finished | _Stopped | None) -> bool:
        """Queue `item`; false when the other thread has ended."""
        while self._thread.is_alive():
            try:
                self._waiting.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False


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
        switches=tuple(zip(_happened(spec, info), (prompt for _, prompt in spec["switches"]), strict=True)),
    )


def _happened(spec: Any, info: Mapping[str, Any]) -> list[int]:
    """The frame of each switch: as the clip's record has it, or as it was asked for where the model cannot say."""
    if "switches" not in info:
        return [frame for frame, _ in spec["switches"]]
    return [said["asked"] if said["frame"] is None else said["frame"] for said in info["switches"]]


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
        prefixes=_prefixes(unit.context["prefixes"], subject.card) if subject and "prefixes" in load else (),
    )
    found = probe.measure(subject, workload)
    declared = check.values(f"probe {name}", probe.values, found.values)
    samples = {key: [float(item) for item in items] for key, items in found.samples.items()}
    return Result(values=declared, samples=samples, notes=dict(found.notes))
