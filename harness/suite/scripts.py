"""The prompts of each clip of a section: its first one, and those that switches bring, and from which frame on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.contracts import ModelCard
from harness.errors import SuiteError
from harness.suite.prompt_schema import BLANK, COMMENT, REPEATED, SwitchEntry
from harness.suite.schema import GenerateSection, MeasureSection, Suite

MOST_LINES = 8
"""Numbers of dropped lines that a sentence shows."""
_ROUNDING = 1e-6
"""Frames by which a product of seconds and a rate may miss a whole number."""


@dataclass(frozen=True, slots=True)
class Script:
    """The prompts of one clip.

    Attributes:
        number: of its first prompt in the section's set, which holds its attributes and its prefix.
        text: the first prompt. later: the one that each switch of the section brings; empty where it brings none.
        identity: what the clip is known by.
    """

    number: int
    text: str
    later: tuple[str, ...]
    identity: str

    def at(self, frames: Sequence[int]) -> list[tuple[int, str]]:
        """The switches of this clip alone, of those of the section that are at `frames`: frame and new prompt."""
        return [(frame, text) for frame, text in zip(frames, self.later, strict=True) if text]


def scripts_of(suite: Suite, section: GenerateSection | MeasureSection) -> list[Script]:
    """The scripts of a section in the order planned; each has a clip for each seed.

    Raises `SuiteError` where a damaged plan names prompts that are not there.
    """
    if not section.prompts:
        return []
    prompts = suite.prompts[section.prompts]
    identities = prompts.identities or prompts.texts
    if section.scripts:
        entries = [(entry.prompt, tuple(entry.later)) for entry in section.scripts]
        if any(n >= len(prompts.texts) or len(later) != len(section.switches) for n, later in entries):
            raise SuiteError(f"section {section.name!r}: its scripts do not fit its prompts", "plan it again")
    else:
        later = [suite.prompts[switch.prompts].texts for switch in section.switches]
        entries = [
            (number, tuple(texts[number if len(texts) > 1 else 0] for texts in later))
            for number in range(len(prompts.texts))
        ]
    return [Script(number, prompts.texts[number], later, identities[number]) for number, later in entries]


def switch_frames(section: GenerateSection | MeasureSection, card: ModelCard, *, prefixed: bool) -> list[int]:
    """The pixel frames at which a model of `card` is asked to switch.

    Frame 0 is the first that the model makes. A causal VAE decodes the first latent frame to one pixel frame, and each
    later one, or each after a prefix, to the card's `temporal_ratio`. A second begins with the first frame that is not
    before it. Raises `SuiteError` for switches out of order, or after the last frame.
    """
    frames = [_frame(switch, card, prefixed) for switch in section.switches]
    asked = ", ".join(map(words, section.switches))
    if frames != sorted(set(frames)):
        raise SuiteError(f"switches at {asked} are at frames {', '.join(map(str, frames))}", "put them in their order")
    if frames and isinstance(section.frames, int) and frames[-1] >= section.frames:
        raise SuiteError(f"a switch at {words(section.switches[-1])} never happens in {section.frames} frames")
    return frames


def _frame(switch: SwitchEntry, card: ModelCard, prefixed: bool) -> int:
    if switch.frame is not None:
        return switch.frame
    if switch.latent is not None:
        return switch.latent * card.temporal_ratio - (0 if prefixed else card.temporal_ratio - 1)
    assert switch.second is not None
    return max(1, math.ceil(switch.second * card.frame_rate - _ROUNDING))


def words(switch: SwitchEntry) -> str:
    """Where a switch is asked for, as in `frame 160`, `latent frame 40` or `10 s`."""
    if switch.frame is not None:
        return f"frame {switch.frame}"
    return f"latent frame {switch.latent}" if switch.latent is not None else f"{switch.second:g} s"


def dropped(suite: Suite, section: GenerateSection | MeasureSection) -> str:
    """What of the section's prompts makes no clip of its own, in words; empty where all of them do."""
    if not section.prompts:
        return ""
    prompts = suite.prompts[section.prompts]
    lines_by_kind = section.dropped if section.scripts else prompts.dropped
    kinds = (
        (REPEATED, "repeats an earlier one", "repeat an earlier one"),
        (BLANK, "is blank", "are blank"),
        (COMMENT, "is a comment", "are comments"),
    )
    parts = [_lines(lines, *what) for kind, *what in kinds if (lines := lines_by_kind.get(kind))]
    used = 1 + sum(not switch.prompts for switch in section.switches)
    if prompts.longest_script > used:
        parts.append(f"of up to {prompts.longest_script} prompts of a script the first {used} count")
    return "; ".join(parts)


def _lines(lines: Sequence[int], of_one: str, of_several: str) -> str:
    shown = ", ".join(map(str, lines[:MOST_LINES])) + ", …" * (len(lines) > MOST_LINES)
    return f"1 line ({shown}) {of_one}" if len(lines) == 1 else f"{len(lines):,} lines ({shown}) {of_several}"
