"""The keys of a suite whose tables are made from the samples in records: drift, and what a viewer gets. Torch-free."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Literal

from pydantic import Field

from harness.contracts import CurveKind
from harness.suite.part import Name, Part

DriftDefinition = Literal[
    "spread",
    "first_last_share",
    "vde",
    "ends",
    "prefix",
    "last",
    "halves",
    "border_ratio",
    "border_excess",
    "peak",
    "decay_mean",
    "decay_drop",
    "before_switch",
    "after_switch",
    "over_switch",
    "regained_s",
    "regained",
]
"""Definitions of drift by name; docs/drift.md has their formulas and sources."""

AT_SWITCHES: Collection[DriftDefinition] = ("before_switch", "after_switch", "over_switch", "regained_s", "regained")
"""Those that need a prompt switch."""


def suits(definition: DriftDefinition, kind: CurveKind, switches: bool) -> bool:
    """Whether a curve of this kind has the definition, in a section with prompt switches or without."""
    if definition in AT_SWITCHES:
        return kind == "adherence" and switches
    if definition in ("decay_mean", "decay_drop"):
        return kind == "distance"
    if definition in ("border_ratio", "border_excess", "peak"):
        return kind == "step"
    return kind in ("motion", "step") if definition == "halves" else kind != "distance"


class Drift(Part):
    """How values hold along the clips of a section: a table a curve, one of the arms' rankings, and a picture.

    All are made from the samples in the records of scores, so that a run that has them needs no new one.

    Attributes:
        name: of its files. title: above them; the name unless given.
        section: of `generate`. metric: one of its metrics; all that give curves unless given.
        curves: names of samples, as in `imaging_quality_by_piece`; all unless given.
        definitions: those to show, of which each curve takes the ones that suit it, and some curve each; all unless
            given. The first is what the rankings by the others are held to.
        seconds: length of a piece.
        models: labels of the arms to show; all unless given. A label before its grid stands for all.
    """

    name: Name
    title: str = ""
    section: str
    metric: str = ""
    curves: list[str] = []
    definitions: list[DriftDefinition] = []
    seconds: Annotated[float, Field(gt=0, le=3600)] = 2.0
    models: list[str] | None = None


class Serving(Part):
    """What a viewer and an operator of the streams of a section get: a table each, made from the recorded chunk times.

    Attributes:
        name: of its files. title: above them; the name unless given.
        section: of `measure`, by the probe `streaming`.
        buffers_s: seconds of video that a player waits for before it starts.
        frame_rates: of the player; that of the models unless given.
        ahead_s: the generator begins no chunk while more seconds than these are ahead of the picture. It is what a
            prompt switch must wait for. A larger buffer counts instead.
        price_per_hour: of the device; nothing has a cost without it. currency: of the price.
        sessions: a section of `measure` by the probe `sessions`, whose sessions share the cost.
        models: labels of the arms to show; all unless given. A label before its grid stands for all.
    """

    name: Name
    title: str = ""
    section: str
    buffers_s: Annotated[list[Annotated[float, Field(ge=0, le=3600)]], Field(min_length=1, max_length=20)] = [0.0, 1.0]
    frame_rates: Annotated[list[Annotated[float, Field(gt=0, le=1000)]], Field(max_length=20)] = []
    ahead_s: Annotated[float, Field(gt=0, le=3600)] = 2.0
    price_per_hour: Annotated[float, Field(gt=0, le=1e9)] | None = None
    currency: Annotated[str, Field(pattern=r"^[A-Za-z]{1,8}$")] = "USD"
    sessions: str = ""
    models: list[str] | None = None
