"""Make one clip: the model runs in the caller's thread, encoding and writing in another."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.contracts import (
    Frames,
    Json,
    ModelCard,
    Request,
    Switch,
    VideoModel,
    enforce,
)
from harness.execute.units import Result, Setting, attempt, prefixes_of
from harness.runs.index import IndexEntry
from harness.runs.line import Record
from harness.runs.plan import Unit
from harness.system import video

QUEUE_CHUNKS = 4
"""Decoded chunks that may wait for the encoder, so that memory stays bounded when it is the slower one."""


# ------------------------------------------------------------------------------------------- generate


@dataclass(frozen=True, slots=True)
class ClipFile:
    """A clip that is a file already, with its frames and size."""

    path: Path
    frames: int
    height: int
    width: int


def frames_of(unit: Unit, model: VideoModel, card: ModelCard) -> Iterator[Frames | ClipFile]:
    """Checked chunks of a generate unit's clip, uint8 [frames, height, width, 3]; or one file that is the clip."""
    preimage: Any = unit.preimage
    files = [unit.context["prefix"]] if "prefix" in preimage else []
    request = Request(
        prompts=(preimage["prompt"],),
        seeds=(preimage["seed"],),
        frames=preimage["frames"],
        switches=tuple(Switch(frame, (prompt,)) for frame, prompt in preimage["switches"]),
        prefixes=prefixes_of(files, card),
    )
    if path := model.file(request):
        return iter((ClipFile(path, request.frames, card.height, card.width),))
    # A copy, since a model may fill the same array again while the encoder still reads it.
    return (chunk[0].copy() for chunk in enforce.chunks(model, request, card))


def _switches_and_prefix(unit: Unit) -> dict[str, Json]:
    """The members of a clip's record for its prompt switches (`frame` null: the model cannot say) and its prefix."""
    preimage: Any = unit.preimage
    facts: dict[str, Json] = {}
    if preimage["switches"]:
        pairs = zip(preimage["switches"], unit.context["switched_at"], strict=True)
        facts["switches"] = [{"asked": requested, "frame": frame} for (requested, _), frame in pairs]
    if "prefix" in preimage:
        file: dict[str, Json] = dict(unit.context["prefix"])
        del file["file"]
        facts["prefix"] = {**file, "in_clip": False}
    return facts


class _ModelFailed(Exception):
    """The model failed with `fault`; a type of its own, so that its `OSError` is not taken for the disk's."""

    def __init__(self, fault: BaseException) -> None:
        super().__init__(str(fault))
        self.fault = fault


class ClipAttempt:
    """One attempt at a clip: the model runs in the caller's thread, all else in another.

    So the model goes on, to the next chunk and to the next clip, while this one is encoded, read back, brought to the
    disk and recorded.

    Args:
        path: where the clip goes. name: the same, as the record names it.
        keep: writes the record as soon as it is made; called in the other thread.
    """

    def __init__(
        self, unit: Unit, setting: Setting, path: Path, name: str, keep: Callable[[Record], IndexEntry]
    ) -> None:
        self.stopped = False
        self._waiting: queue.Queue[Frames | ClipFile | _ModelFailed | None] = queue.Queue(QUEUE_CHUNKS)
        self._recorded: tuple[Record, IndexEntry] | None = None
        self._fault: BaseException | None = None
        preimage: Any = unit.preimage
        video_settings = preimage["video"]

        def write() -> Result:
            settings = video_settings["frame_rate"], video_settings["crf"], video_settings["preset"]
            arrivals = self._arrivals()
            try:
                first = next(arrivals, None)
                if isinstance(first, ClipFile):
                    clip = video.keep(path, first.path, first.frames, first.height, first.width)
                else:
                    clip = video.write(path, self._chunks(first, arrivals), *settings)
                return Result(clip={"path": name, **clip, **_switches_and_prefix(unit)})
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

    def feed(self, start: Callable[[], Iterator[Frames | ClipFile]]) -> None:
        """Run the model, and hand on everything that `start()` yields. Raises nothing but an interrupt."""
        try:
            for chunk in start():
                if not self._hand_over(chunk):
                    return
            self._hand_over(None)
        except BaseException as fault:
            self.stopped = True
            self._hand_over(_ModelFailed(fault))
            if isinstance(fault, KeyboardInterrupt):
                raise

    def record(self) -> tuple[Record, IndexEntry]:
        """Wait for the clip, and return its record, which is on the disk. Raises the fault that prevented it."""
        self._thread.join()
        if self._recorded is None:
            raise self._fault or RuntimeError("a clip ended without a record")
        return self._recorded

    @staticmethod
    def _chunks(first: Frames | None, rest: Iterator[Frames | ClipFile]) -> Iterator[Frames]:
        if first is not None:
            yield first
        for chunk in rest:
            assert not isinstance(chunk, ClipFile)
            yield chunk

    def _arrivals(self) -> Iterator[Frames | ClipFile]:
        while (item := self._waiting.get()) is not None:
            if isinstance(item, _ModelFailed):
                raise item
            yield item

    def _hand_over(self, item: Frames | ClipFile | _ModelFailed | None) -> bool:
        """Queue `item`; false when the other thread has ended."""
        # With a timeout: a full queue of a thread that has ended would never take the item.
        while self._thread.is_alive():
            try:
                self._waiting.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False
