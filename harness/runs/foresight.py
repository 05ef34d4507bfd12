"""Ask a model, before any work, whether it refuses the requests of a section and at which frames prompts switch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

from harness.contracts import PREFIX_RULE, Json, ModelCard, Prefix, Request, Switch, VideoModel, Workload
from harness.errors import HarnessError, RegistryError, SuiteError
from harness.suite.schema import GenerateSection, MeasureSection, PrefixFile, Suite, switched

T = TypeVar("T")
Said = tuple[dict[str, Json], dict[str, Any]]
"""What a unit's pre-image gets of it, and what its context gets."""
MAX_REQUESTS = 1000
"""Requests of one workload that a model is asked about."""


class Clips:
    """The clips of one arm in one section. Raises `SuiteError` for the first that the model refuses."""

    def __init__(self, suite: Suite, section: GenerateSection, label: str, model: VideoModel, card: ModelCard) -> None:
        self.prompts = suite.prompts[section.prompts]
        self.model, self.card = model, card
        self.section, self.suite = section, suite
        self.where = f"section {section.name!r}, model {label!r}"
        self._stated: dict[int, list[int | None]] = {}

    def of(self, number: int, seed: int) -> Said:
        """For the clip of prompt `number` and `seed`."""
        file = self.prompts.prefixes[number] if self.prompts.prefixes else None
        length = _opened(file, self.card).frames if file else 0
        if length not in self._stated:
            self._stated[length] = _foresee(self.where, self.model, self._request(number, seed, file))
        stated = self._stated[length]
        said, where = _switches([switch.frame for switch in self.section.switches], stated)
        if file:
            said["prefix"] = _identity(file)
            where["prefix"] = {**file.model_dump(mode="json"), "used": length}
        return said, where

    def _request(self, number: int, seed: int, file: PrefixFile | None) -> Request:
        switches = tuple(
            Switch(switch.frame, (switched(self.suite, switch, number),)) for switch in self.section.switches
        )
        prefixes = (_opened(file, self.card),) if file else ()
        return Request((self.prompts.texts[number],), (seed,), self.section.frames, switches, prefixes)


def of_workload(suite: Suite, section: MeasureSection, label: str, model: VideoModel, card: ModelCard) -> Said:
    """For the measurement of one arm. Raises `SuiteError` where the model refuses one of its requests."""
    if not section.prompts:
        return {}, {}
    prompts = suite.prompts[section.prompts]
    every = range(len(prompts.texts))
    switches = tuple(
        Switch(switch.frame, tuple(switched(suite, switch, number) for number in every)) for switch in section.switches
    )
    prefixes = tuple(_opened(file, card) for file in prompts.prefixes)
    workload = Workload(tuple(prompts.texts), tuple(section.seeds), section.frames, section.batch, switches, prefixes)
    pairs = len(workload.prompts) * len(workload.seeds)
    # After so many requests the pairs come round to the same places of a batch.
    around = pairs // math.gcd(pairs, section.batch)
    where = f"section {section.name!r}, model {label!r}"
    stated: list[int | None] = []
    for number in range(min(around, MAX_REQUESTS)):
        stated = _foresee(where, model, workload.request(number))
    said, context = _switches([switch.frame for switch in switches], stated)
    if prompts.prefixes:
        said["prefixes"] = [_identity(file) for file in prompts.prefixes]
        context["prefixes"] = [file.model_dump(mode="json") for file in prompts.prefixes]
    return said, context


def _opened(file: PrefixFile, card: ModelCard) -> Prefix:
    from harness.suite.prefixes import lazy_prefix  # reads videos, which most plans have none of

    return lazy_prefix(Path(file.file), file.sha256, file.frames, card)


def _identity(file: PrefixFile) -> dict[str, Json]:
    return {"sha256": file.sha256, "rule": PREFIX_RULE}


def _foresee(where: str, model: VideoModel, request: Request) -> list[int | None]:
    """The frames at which the model says that it switches; refuses one that never comes, or hides another."""
    _ask(where, lambda: model.check_request(request))
    stated = _ask(where, lambda: list(model.switch_frames(request)))
    if len(stated) != len(request.switches):
        raise RegistryError(f"{where}: it states {len(stated)} switches of {len(request.switches)}")
    for switch, frame in zip(request.switches, stated, strict=True):
        if frame is not None and frame >= request.frames:
            raise SuiteError(
                f"{where}: a switch at frame {switch.frame} never happens: no chunk starts between it and the end of "
                f"{request.frames} frames",
                "ask for it earlier, or for a longer clip",
            )
    for (one, first), (other, second) in pairwise(zip(request.switches, stated, strict=True)):
        if first is not None and first == second:
            raise SuiteError(
                f"{where}: the switches at frames {one.frame} and {other.frame} both happen at {first}",
                "ask for them a chunk apart",
            )
    return stated


def _ask(where: str, question: Callable[[], T]) -> T:
    try:
        return question()
    except HarnessError as error:
        raise SuiteError(f"{where}: {error.message}", error.fix) from error
    except Exception as error:  # a plug-in may raise anything
        raise RegistryError(f"{where}: {type(error).__name__}: {error}") from error


def _switches(asked: Sequence[int], stated: Sequence[int | None]) -> Said:
    if not asked:
        return {}, {}
    context: dict[str, Any] = {"switched_at": list(stated)}
    # A switch that happens where it was asked for, as all were once taken to, needs no word of its own in the key.
    apart = any(frame not in (None, at) for at, frame in zip(asked, stated, strict=True))
    return ({"switched_at": list(stated)} if apart else {}), context
