"""VBench short: every dimension that a clip's prompt belongs to, or those asked for."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from .loading import Networks
from .scoring import score_clip

READ_THE_PROMPT = frozenset({"human_action", "temporal_style", "overall_consistency"})
"""Dimensions of one's own clips that compare them with their prompt."""


class PromptFault(ValueError):
    """A clip's prompt is not one that the dimensions asked for can be scored by."""


@dataclass
class Plan:
    """What to score.

    Attributes:
        networks: loaded as needed.
        dimensions: those wanted.
        standard: score each clip only on the dimensions that its prompt belongs to in VBench's own suite.
        static_filter: leave temporal flickering undefined for a clip that moves.
        short: the suite's prompt by the text that a clip was made from, where the two differ.
    """

    networks: Networks
    dimensions: Sequence[str]
    standard: bool
    static_filter: bool
    short: Mapping[str, str]

    @cached_property
    def suite(self) -> Mapping[str, tuple[set[str], dict[str, Any]]]:
        """Dimensions and auxiliary facts by prompt, from the package; a prompt that stands twice has both entries'."""
        package = Path(importlib.import_module("vbench").__file__ or "").parent
        facts_by_prompt: dict[str, tuple[set[str], dict[str, Any]]] = {}
        for entry in json.loads((package / "VBench_full_info.json").read_text(encoding="utf-8")):
            dimensions, auxiliary = facts_by_prompt.setdefault(entry["prompt_en"], (set(), {}))
            dimensions |= set(entry["dimension"])
            auxiliary |= entry.get("auxiliary_info", {})
        return facts_by_prompt

    def score(self, clip: Any) -> dict[str, Any]:
        """One number for each dimension wanted, NaN where the prompt does not belong to it."""
        prompt = self.short.get(clip.prompt, clip.prompt)
        to_score: list[str] = list(self.dimensions)
        auxiliary: dict[str, Any] = {}
        if self.standard:
            if prompt not in self.suite:
                raise PromptFault(f"the prompt {prompt[:60]!r} is not in VBench's suite")
            of_prompt, auxiliary = self.suite[prompt]
            to_score = [name for name in to_score if name in of_prompt]
        if not prompt.strip() and (reading_prompt := sorted(READ_THE_PROMPT & set(to_score))):
            raise PromptFault(f"the clip has no prompt; {', '.join(reading_prompt)} cannot be scored without")
        if self.static_filter and "temporal_flickering" in to_score:
            to_score.append("static")
        scores: dict[str, Any] = {}
        if to_score:
            known = clip.frames, clip.frame_rate
            scores = score_clip(self.networks, clip.path, to_score, prompt, auxiliary, *known)
        if scores.pop("static", 1.0) == 0.0:
            scores["temporal_flickering"] = math.nan
        return {**dict.fromkeys(self.dimensions, math.nan), **scores}
