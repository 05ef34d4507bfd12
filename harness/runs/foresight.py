"""Ask a model, before any work, whether it refuses the requests of a section and at which frames prompts switch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

from harness.contracts import PREFIX_RULE, Json, ModelCard, Prefix, Request, Switch, VideoModel, Workload
from harness.errors import HarnessError, RegistryError, SuiteError
from harness.suite.schema import ALL, GenerateSection, MeasureSection, PrefixFile, Suite, switched

T = TypeVar("T")
Additions = tuple[dict[str, Json], dict[str, Any]]
"""Members to add to a unit's pre-image, and to its context."""
MAX_REQUESTS = 1000
"""Requests of one workload that a model is asked about."""


class ClipRequests:
    """The requests for one arm's clips in one section, of `batch` clips each. Raises `SuiteError` for a refused one."""

    def __init__(
        self,
        suite: Suite,
        section: GenerateSection,
        label: str,
        model: VideoModel,
        card: ModelCard,
        batch: int = 1,
    ) -> None:
        self.prompts = suite.prompts[section.prompts]
        self.model, self.card = model, card
        self.section, self.suite, self.batch = section, suite, batch
        self.where = f"section {section.name!r}, model {label!r}"
        if section.frames == ALL and not model.existing:
            raise SuiteError(f"{self.where}: it makes its clips, so `frames: all` says nothing", "state a number")
        self._frames_by_length: dict[int, list[int | None]] = {}

    def additions(self, number: int, seed: int) -> Additions:
        """What the clip of prompt `number` and `seed` adds to its unit."""
        file = self.prompts.prefixes[number] if self.prompts.prefixes else None
        length = _prefix(file, self.card).frames if file else 0
        if length not in self._frames_by_length:
            self._frames_by_length[length] = _switch_frames(self.where, self.model, self._request(number, seed, file))
        switch_frames = self._frames_by_length[length]
        for_preimage, for_context = _switches([switch.frame for switch in self.section.switches], switch_frames)
        if file:
            for_preimage["prefix"] = _identity(file)
            for_context["prefix"] = {**file.model_dump(mode="json"), "used": length}
        return for_preimage, for_context

    def _request(self, number: int, seed: int, file: PrefixFile | None) -> Request:
        batch = self.batch
        switches = tuple(
            Switch(switch.frame, (switched(self.suite, switch, number),) * batch) for switch in self.section.switches
        )
        prefixes = (_prefix(file, self.card),) * batch if file else ()
        frames = 0 if self.section.frames == ALL else self.section.frames
        return Request((self.prompts.texts[number],) * batch, (seed,) * batch, frames, switches, prefixes)


def of_workload(suite: Suite, section: MeasureSection, label: str, model: VideoModel, card: ModelCard) -> Additions:
    """What the measurement of one arm adds to its unit. Raises `SuiteError` where the model refuses a request of it."""
    if not section.prompts:
        return {}, {}
    prompts = suite.prompts[section.prompts]
    numbers = range(len(prompts.texts))
    switches = tuple(
        Switch(switch.frame, tuple(switched(suite, switch, number) for number in numbers))
        for switch in section.switches
    )
    prefixes = tuple(_prefix(file, card) for file in prompts.prefixes)
    workload = Workload(tuple(prompts.texts), tuple(section.seeds), section.frames, section.batch, switches, prefixes)
    pairs = len(workload.prompts) * len(workload.seeds)
    # After so many requests the pairs come round to the same places of a batch.
    requests_until_repeat = pairs // math.gcd(pairs, section.batch)
    where = f"section {section.name!r}, model {label!r}"
    switch_frames: list[int | None] = []
    for number in range(min(requests_until_repeat, MAX_REQUESTS)):
        switch_frames = _switch_frames(where, model, workload.request(number))
    for_preimage, for_context = _switches([switch.frame for switch in switches], switch_frames)
    if prompts.prefixes:
        for_preimage["prefixes"] = [_identity(file) for file in prompts.prefixes]
        for_context["prefixes"] = [file.model_dump(mode="json") for file in prompts.prefixes]
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
