"""Ask a model, before any work, whether it refuses the requests of a section and at which frames prompts switch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

from harness.contracts import (
    PREFIX_RULE,
    Json,
    ModelCard,
    Prefix,
    Request,
    Switch,
    VideoModel,
    Workload,
    registry,
)
from harness.errors import HarnessError, RegistryError, SuiteError
from harness.suite.prompt_schema import PrefixFile
from harness.suite.schema import ALL, GenerateSection, MeasureSection, Suite
from harness.suite.scripts import Script, switch_frames, words

T = TypeVar("T")
Additions = tuple[dict[str, Json], dict[str, Any]]
"""Members to add to a unit's pre-image, and to its context."""
MAX_REQUESTS = 1000
"""Requests of one workload that a model is asked about."""


class ClipRequests:
    """The requests for one arm's clips in one section, of `batch` clips each. Raises `SuiteError` for a refused one.

    Attributes:
        frames: those at which the section's switches are asked for.
    """

    def __init__(
        self, suite: Suite, section: GenerateSection, label: str, model: VideoModel, card: ModelCard, batch: int = 1
    ) -> None:
        self.prefixes = suite.prompts[section.prompts].prefixes
        self.model, self.card = model, card
        self.section, self.batch = section, batch
        self.where = f"section {section.name!r}, model {label!r}"
        if section.frames == ALL and not model.existing:
            raise SuiteError(f"{self.where}: it makes its clips, so `frames: all` says nothing", "state a number")
        self.frames = frames_of(self.where, section, card, prefixed=bool(self.prefixes))
        # Clips of one length and of the same switches are switched at the same frames.
        self._happening: dict[tuple[int, tuple[bool, ...]], list[int | None]] = {}

    def additions(self, script: Script, seed: int) -> Additions:
        """What the clip of `script` and `seed` adds to its unit."""
        file = self.prefixes[script.number] if self.prefixes else None
        kind = (_prefix(file, self.card).frames if file else 0, tuple(map(bool, script.later)))
        if kind not in self._happening:
            self._happening[kind] = _switch_frames(self.where, self.model, self._request(script, seed, file))
        frames = [frame for frame, _ in script.at(self.frames)]
        for_preimage, for_context = _switches(frames, self._happening[kind])
        points = [words(switch) for switch, text in zip(self.section.switches, script.later, strict=True) if text]
        if points != [f"frame {frame}" for frame in frames]:
            for_context["switch_points"] = points
        if file:
            for_preimage["prefix"] = _identity(file)
            for_context["prefix"] = {**file.model_dump(mode="json"), "used": kind[0]}
        return for_preimage, for_context

    def _request(self, script: Script, seed: int, file: PrefixFile | None) -> Request:
        batch = self.batch
        switches = tuple(Switch(frame, (later,) * batch) for frame, later in script.at(self.frames))
        prefixes = (_prefix(file, self.card),) * batch if file else ()
        frames = 0 if self.section.frames == ALL else self.section.frames
        text = script.identity if self.model.existing else script.text
        return Request((text,) * batch, (seed,) * batch, frames, switches, prefixes)


def frames_of(where: str, section: GenerateSection | MeasureSection, card: ModelCard, *, prefixed: bool) -> list[int]:
    """The frames at which the switches of `section` are asked for. Raises `SuiteError` that starts with `where`."""
    try:
        return switch_frames(section, card, prefixed=prefixed)
    except SuiteError as error:
        raise SuiteError(f"{where}: {error.message}", error.fix) from error


def of_workload(
    suite: Suite, section: MeasureSection, label: str, model: VideoModel, card: ModelCard, scripts: Sequence[Script]
) -> Additions:
    """What the measurement of one arm adds to its unit. Raises `SuiteError` where its probe or model refuses it."""
    if not section.prompts:
        return {}, {}
    prompts = suite.prompts[section.prompts]
    where = f"section {section.name!r}, model {label!r}"
    frames = frames_of(where, section, card, prefixed=bool(prompts.prefixes))
    switches = tuple(
        Switch(frame, tuple(script.later[number] for script in scripts)) for number, frame in enumerate(frames)
    )
    files = [prompts.prefixes[script.number] for script in scripts] if prompts.prefixes else []
    prefixes = tuple(_prefix(file, card) for file in files)
    texts = tuple(script.text for script in scripts)
    workload = Workload(texts, tuple(section.seeds), section.frames, section.batch, switches, prefixes)
    pairs = len(workload.prompts) * len(workload.seeds)
    # After so many requests the pairs come round to the same places of a batch.
    requests_until_repeat = pairs // math.gcd(pairs, section.batch)
    happening: list[int | None] = []
    for number in range(min(requests_until_repeat, MAX_REQUESTS)):
        happening = _switch_frames(where, model, workload.request(number))
    probe = registry.probes.create(section.probe, section.options)
    _ask(f"{where}: probe {section.probe!r}", lambda: probe.check(model, workload))
    for_preimage, for_context = _switches(frames, happening)
    if switches:
        for_preimage["switches"] = [[switch.frame, list(switch.prompts)] for switch in switches]
    if files:
        for_preimage["prefixes"] = [_identity(file) for file in files]
        for_context["prefixes"] = [file.model_dump(mode="json") for file in files]
    return for_preimage, for_context


def _prefix(file: PrefixFile, card: ModelCard) -> Prefix:
    from harness.suite.prefixes import lazy_prefix  # reads videos, which most plans have none of

    return lazy_prefix(Path(file.file), file.sha256, file.frames, card)


def _identity(file: PrefixFile) -> dict[str, Json]:
    # Said only where it is so: files without a display matrix keep their keys.
    turned: dict[str, Json] = {"turned": True} if file.turned else {}
    return {"sha256": file.sha256, "rule": PREFIX_RULE, **turned}


def _switch_frames(where: str, model: VideoModel, request: Request) -> list[int | None]:
    """The frames at which the model will switch. Refuses a switch that never happens, or hides another."""
    _ask(where, lambda: model.check_request(request))
    happening = _ask(where, lambda: list(model.switch_frames(request)))
    if len(happening) != len(request.switches):
        raise RegistryError(f"{where}: it states {len(happening)} switches of {len(request.switches)}")
    for switch, frame in zip(request.switches, happening, strict=True):
        if frame is not None and frame >= request.frames:
            raise SuiteError(
                f"{where}: a switch at frame {switch.frame} never happens: no chunk starts between it and the end of "
                f"{request.frames} frames",
                "ask for it earlier, or for a longer clip",
            )
    for (one, first), (other, second) in pairwise(zip(request.switches, happening, strict=True)):
        if first is not None and first == second:
            raise SuiteError(
                f"{where}: the switches at frames {one.frame} and {other.frame} both happen at {first}",
                "ask for them a chunk apart",
            )
    return happening


def _ask(where: str, question: Callable[[], T]) -> T:
    try:
        return question()
    except HarnessError as error:
        raise SuiteError(f"{where}: {error.message}", error.fix) from error
    except Exception as error:  # a plug-in may raise anything
        raise RegistryError(f"{where}: {type(error).__name__}: {error}") from error


def _switches(requested: Sequence[int], happening: Sequence[int | None]) -> Additions:
    if not requested:
        return {}, {}
    context: dict[str, Any] = {"switched_at": list(happening)}
    # Earlier versions took every switch to happen where it was requested: those that do so keep their keys.
    differs = any(frame not in (None, at) for at, frame in zip(requested, happening, strict=True))
    return ({"switched_at": list(happening)} if differs else {}), context
