"""Make clips, one or a batch at a time: the model runs in the caller's thread, encoding and writing in others."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Generic, TypeVar

from harness.contracts import (
    ClipFile,
    Frames,
    Json,
    ModelCard,
    Request,
    Switch,
    VideoModel,
    enforce,
    pixels_alone,
)
from harness.execute.models import Models
from harness.execute.units import Result, Setting, attempt, prefixes_of
from harness.runs.folder import clip_name
from harness.runs.line import Record
from harness.runs.plan import Arm, Unit
from harness.suite.schema import ALL
from harness.system import source_clips, video
from harness.system.files import folder_kept

QUEUE_CHUNKS = 4
"""Decoded chunks that may wait for the encoder, so that memory stays bounded when it is the slower one."""

Kept = TypeVar("Kept")
"""What whoever keeps records gives for one."""

# ------------------------------------------------------------------------------------------ the model


Piece = Frames | ClipFile
"""Frames of one clip, uint8 [frames, height, width, 3], or the file that holds it."""


def pieces_of(units: Sequence[Unit], width: int, model: VideoModel, card: ModelCard) -> Iterator[Mapping[int, Piece]]:
    """Checked pieces of the clips of `units`, by their number; the model is asked for `width` clips in one request.

    Where there are fewer units, the request is filled up with clips that are there already, and nobody keeps those.
    """
    rest = []
    for number, unit in enumerate(units):
        # One at a time: a file that is not there takes no other clip with it.
        if file := model.file(_request([unit], card)):
            yield {number: file}
        else:
            rest.append(number)
    if rest:
        filled = [units[rest[place % len(rest)]] for place in range(max(width, len(rest)))]
        for chunk in enforce.chunks(model, _request(filled, card), card, pixels_alone):
            # A copy, since a model may fill the same array again while the encoder still reads it.
            yield {number: clip.copy() for number, clip in zip(rest, chunk, strict=False)}


def _request(units: Sequence[Unit], card: ModelCard) -> Request:
    """One request for the clips of `units`, which agree in lengths and in the frames of their switches."""
    preimages: list[Any] = [unit.preimage for unit in units]
    files = [unit.context["prefix"] for unit in units if "prefix" in unit.preimage]
    turns = [tuple(prompt for _, prompt in preimage["switches"]) for preimage in preimages]
    return Request(
        prompts=tuple(preimage["prompt"] for preimage in preimages),
        seeds=tuple(preimage["seed"] for preimage in preimages),
        frames=0 if preimages[0]["frames"] == ALL else preimages[0]["frames"],
        switches=tuple(
            Switch(frame, prompts)
            for (frame, _), prompts in zip(preimages[0]["switches"], zip(*turns, strict=True), strict=True)
        ),
        prefixes=prefixes_of(files, card),
    )


# ------------------------------------------------------------------------------------------ one clip


def _switches_and_prefix(unit: Unit) -> dict[str, Json]:
    """The members of a clip's record for its prompt switches (`frame` null: the model cannot say) and its prefix."""
    preimage: Any = unit.preimage
    facts: dict[str, Json] = {}
    if preimage["switches"]:
        pairs = zip(preimage["switches"], unit.context["switched_at"], strict=True)
        switches: list[dict[str, Json]] = [{"asked": requested, "frame": frame} for (requested, _), frame in pairs]
        for switch, point in zip(switches, unit.context.get("switch_points", ()), strict=False):
            switch["point"] = point
        facts["switches"] = switches
    if "prefix" in preimage:
        file: dict[str, Json] = dict(unit.context["prefix"])
        del file["file"]
        if not file["turned"]:
            del file["turned"]
        facts["prefix"] = {**file, "in_clip": False}
    return facts


def _taken(file: ClipFile, path: Path, preimage: Any) -> Mapping[str, Json]:
    """Bring a clip that exists to `path`."""
    try:
        most = None if preimage["frames"] == ALL else preimage["frames"]
        planned = preimage.get("request", {}).get("file") or ""
        return source_clips.take(path, file.path, most, file.frame_rate, file.cut, file.size, planned)
    finally:
        file.release()


class _ModelFailed(Exception):
    """The model failed with `fault`; a type of its own, so that its `OSError` is not taken for the disk's."""

    def __init__(self, fault: BaseException) -> None:
        super().__init__(str(fault))
        self.fault = fault


class _Abandoned(BaseException):
    """The batch failed: its clips are made again in smaller ones, so that this attempt leaves no record."""


class ClipAttempt(Generic[Kept]):
    """One attempt at a clip: it is encoded, read back, brought to the disk and recorded in a thread of its own.

    So the model goes on, to the next chunk and to the next clip.

    Args:
        path: where the clip goes. name: the same, as the record names it.
        keep: takes the record as soon as it is made; called in the other thread.
        width: clips of the request that this one is made in.
    """

    def __init__(
        self,
        unit: Unit,
        setting: Setting,
        path: Path,
        name: str,
        keep: Callable[[Record], Kept],
        width: int = 1,
    ) -> None:
        self.stopped = False
        self._waiting: queue.Queue[Piece | _ModelFailed | None] = queue.Queue(QUEUE_CHUNKS)
        self._recorded: tuple[Record, Kept] | None = None
        self._fault: BaseException | None = None
        preimage: Any = unit.preimage
        video_settings = preimage["video"]

        def write() -> Result:
            settings = video_settings["frame_rate"], video_settings["crf"], video_settings["preset"]
            arrivals = self._arrivals()
            try:
                first = next(arrivals, None)
                sizes: list[int] = []
                if isinstance(first, ClipFile):
                    clip = _taken(first, path, preimage)
                else:
                    clip = video.write(path, self._chunks(first, arrivals, sizes), *settings)
                notes: dict[str, Json] = {"chunks": sizes} if sizes else {}
                if width > 1:
                    notes = {"batch": width, **notes}
                return Result(clip={"path": name, **clip, **_switches_and_prefix(unit)}, notes=notes)
            except _ModelFailed as stopped:
                raise stopped.fault from None

        def work() -> None:
            try:
                record = attempt(unit, setting, write)
                self._recorded = record, keep(record)
            except BaseException as fault:  # noqa: BLE001 - raised again in the thread that asks for the record
                self._fault = fault

        self._thread = threading.Thread(target=work, name="clip", daemon=True)
        self._thread.start()

    def stop(self, fault: BaseException) -> None:
        """Say that the model failed."""
        self.stopped = True
        self.hand_over(_ModelFailed(fault))

    def record(self) -> tuple[Record, Kept]:
        """Wait for the clip, and return its record, which is on the disk. Raises the fault that prevented it."""
        self._thread.join()
        if self._recorded is None:
            raise self._fault or RuntimeError("a clip ended without a record")
        return self._recorded

    def abandoned(self) -> bool:
        """Wait; whether it ended for a fault of its batch alone."""
        self._thread.join()
        return isinstance(self._fault, _Abandoned)

    @staticmethod
    def _chunks(first: Frames | None, rest: Iterator[Piece], sizes: list[int]) -> Iterator[Frames]:
        """Every chunk. Appends the frames of each to `sizes`, by which tables find the borders of chunks."""
        for chunk in rest if first is None else chain((first,), rest):
            assert not isinstance(chunk, ClipFile)
            sizes.append(len(chunk))
            yield chunk

    def _arrivals(self) -> Iterator[Piece]:
        while (item := self._waiting.get()) is not None:
            if isinstance(item, _ModelFailed):
                raise item
            yield item

    def hand_over(self, item: Piece | _ModelFailed | None) -> bool:
        """Queue `item`, None after the last; false when the other thread has ended."""
        # With a timeout: a full queue of a thread that has ended would never take the item.
        while self._thread.is_alive():
            try:
                self._waiting.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False


# ----------------------------------------------------------------------------------------- many clips


class Maker(Generic[Kept]):
    """Makes the clips of one run folder with the models that are loaded.

    Args:
        folder: the run folder. keep: as in `ClipAttempt`.

    Attributes:
        unfinished: clips that the model is through with, the oldest first, for whoever asks for their records.
    """

    def __init__(self, models: Models, setting: Setting, folder: Path, keep: Callable[[Record], Kept]) -> None:
        self.models, self.setting, self.folder, self.keep = models, setting, folder, keep
        self.unfinished: deque[tuple[ClipAttempt[Kept], Unit]] = deque()

    def make(self, arm: Arm, units: Sequence[Unit]) -> None:
        """Have the model make the clips of `units` in one request.

        Where that fails, each half of them is tried by itself, so that a clip that fails does so alone. An interrupt
        comes through.
        """
        preimage: Any = units[0].preimage
        width = max(len(units), preimage["batch"])
        names = [clip_name(unit.key) for unit in units]
        attempts = [
            ClipAttempt(unit, self.setting, self.folder / name, name, self.keep, width)
            for unit, name in zip(units, names, strict=True)
        ]
        self.unfinished.extend(zip(attempts, units, strict=True))
        if self._feed(attempts, lambda: pieces_of(units, width, self.models.get(arm), arm.card)):
            return
        torn = [unit for attempt, unit in zip(attempts, units, strict=True) if attempt.abandoned()]
        gone = {unit.key for unit in torn}
        self.unfinished = deque((attempt, unit) for attempt, unit in self.unfinished if unit.key not in gone)
        half = (len(torn) + 1) // 2
        for part in (torn[:half], torn[half:]):
            if part:
                self.make(arm, part)

    @staticmethod
    def _feed(attempts: Sequence[ClipAttempt[Kept]], start: Callable[[], Iterator[Mapping[int, Piece]]]) -> bool:
        """Hand on everything that `start()` yields; false where a batch failed and its clips were abandoned."""
        try:
            with folder_kept():
                for pieces in start():
                    taken = [attempts[number].hand_over(piece) for number, piece in pieces.items()]
                    if not any(taken):
                        return True
            for attempt in attempts:
                attempt.hand_over(None)
        except BaseException as fault:
            interrupted = isinstance(fault, KeyboardInterrupt)
            for attempt in attempts:
                attempt.stop(fault if interrupted or len(attempts) == 1 else _Abandoned())
            if interrupted:
                raise
            return len(attempts) == 1
        return True
