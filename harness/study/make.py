"""Make a study of the clips of a run: choose what is compared, bring the clips in under names that say nothing."""

from __future__ import annotations

import csv
import io
import os
import secrets
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from harness.contracts import Frames
from harness.errors import ClipError, RecordError, nearest
from harness.report.page.media import Media
from harness.report.view import View
from harness.runs.records import Run
from harness.study.design import (
    CONSENT,
    FILE,
    LARGEST,
    MEDIA,
    MOST_ARMS,
    MOST_ITEMS,
    MOST_TASKS,
    RATERS,
    STUDY_SCHEMA,
    Item,
    Question,
    Study,
    StudyClip,
    apart,
    media_name,
    sequences,
    shuffled,
)
from harness.suite.schema import GenerateSection
from harness.suite.scripts import scripts_of
from harness.system import files, video
from harness.system.digests import canonical, digest

NOISE_CRF = 26
"""x264's rate factor of an obviously bad clip, whose noise would take much room."""
BLOCK = 16
"""Side of the squares of noise, in pixels: coarse enough for an encoder, and no picture at all."""
Place = tuple[str, int, int]
"""Section, prompt (of the section) and seed."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a study is made of besides its clips.

    Attributes:
        pairs: of labels, as `A:B`, or `all`. sections: names; all that have clips unless given.
        prompts: how many of each section, drawn by the seed; None for all.
        raters, each: how many, and the tasks of each besides its attention checks.
        repeats, obvious: attention checks of each rater.
    """

    questions: Sequence[Question]
    pairs: Sequence[str] = ("all",)
    sections: Sequence[str] = ()
    prompts: int | None = None
    raters: int = 20
    each: int = 30
    repeats: int = 2
    obvious: int = 2
    ties: bool = True
    seed: int = 0
    title: str = "A study of short videos"
    consent: str = CONSENT


@dataclass(frozen=True, slots=True)
class Made:
    """A study that was made, and how many pairs were left out by the reason for it."""

    folder: Path
    study: Study
    left_out: Mapping[str, int]


def make(run: Run, folder: Path, plan: Plan) -> Made:
    """Make the study of `run` in `folder`.

    Raises `RecordError` where there is nothing to compare or the folder holds something, `StorageError`.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RecordError(f"{folder} holds something already", "name an empty folder with --out DIR")
    tasks = plan.each + plan.repeats + plan.obvious
    if plan.raters * tasks > MOST_TASKS:
        raise RecordError(
            f"{plan.raters:,} raters with {tasks:,} tasks each are more than {MOST_TASKS:,} tasks",
            "take fewer with --raters or --each",
        )
    arms, pairs = compared([arm.label for arm in run.arms], run.suite.reference, plan.pairs)
    secret = secrets.token_hex(32)
    gathered = _Gathered(View(run), Media(folder, name_of=partial(media_name, secret)), arms, plan)
    gathered.gather(pairs)
    if not gathered.items:
        raise RecordError(_nothing(run, gathered))
    ordinary = list(range(len(gathered.items)))
    gathered.add_obvious(secret)
    body: dict[str, Any] = {
        "seed": plan.seed,
        "run": os.path.relpath(run.folder.resolve(), folder.resolve()),
        "title": plan.title,
        "consent": plan.consent,
        "ties": plan.ties,
        "questions": [question.model_dump() for question in plan.questions],
        "arms": arms,
        "pairs": [list(pair) for pair in pairs],
        "prompts": list(gathered.prompts),
        "clips": [clip.model_dump() for clip in gathered.clips],
        "items": [item.model_dump() for item in gathered.items],
        "sequences": sequences(
            ordinary,
            range(len(ordinary), len(gathered.items)),
            plan.raters,
            plan.each,
            plan.repeats,
            plan.seed,
        ),
    }
    identity = {"id": digest(secret + canonical(body))[:16], "secret": secret}
    study = Study.model_validate({"schema": STUDY_SCHEMA, **identity, **body})
    write(study, folder)
    return Made(folder, study, gathered.left_out)


def write(study: Study, folder: Path) -> None:
    """Write a study's file and the tokens of its raters, which are for who runs it alone.

    Raises `RecordError` for a file that nothing would read, `StorageError`.
    """
    body = study.model_dump_json(by_alias=True) + "\n"
    if len(body.encode()) > LARGEST:
        raise RecordError(
            f"the study would have {len(body.encode()):,} bytes, and {LARGEST:,} are read",
            "take fewer tasks with --raters or --each, or fewer with --prompts",
        )
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows(
        [("rater", "token"), *((rater, study.token(rater)) for rater in range(1, len(study.sequences) + 1))]
    )
    for name, content in ((RATERS, table.getvalue()), (FILE, body)):
        files.write_atomic(folder / name, content)
        with files.storage(folder / name):
            (folder / name).chmod(0o600)


def compared(labels: Sequence[str], reference: str, wanted: Sequence[str]) -> tuple[list[str], list[tuple[int, int]]]:
    """The arms of a study and the pairs of them that it compares, by number.

    Args:
        wanted: `all`, `reference` (each against the reference), or `A:B`.

    Raises `RecordError` for unknown or too many arms, and for pairs that leave arms apart.
    """
    named: list[tuple[str, str]] = []
    for text in wanted:
        first, colon, second = text.partition(":")
        if text in ("all", "reference"):
            if len(labels) > MOST_ARMS:
                raise RecordError(
                    f"the run has {len(labels):,} models, and a study compares at most {MOST_ARMS}",
                    "name some with --pairs A:B",
                )
            base = reference or (labels[0] if labels else "")
            named += combinations(labels, 2) if text == "all" else [(base, each) for each in labels if each != base]
            continue
        if not colon or first == second:
            raise RecordError(f"--pairs {text}: expected two models, as A:B", "or all, or reference")
        for label in (first, second):
            if label not in labels:
                raise RecordError(f"--pairs {text}: the run has no model {label!r}", nearest(label, labels))
        named.append((first, second))
    arms = [label for label in labels if any(label in pair for pair in named)]
    if len(arms) < 2:
        raise RecordError("the run has no two models to compare")
    if len(arms) > MOST_ARMS:
        raise RecordError(f"{len(arms):,} models are named, and a study compares at most {MOST_ARMS}")
    pairs = list(dict.fromkeys(tuple(sorted((arms.index(a), arms.index(b)))) for a, b in named))
    if alone := [arms[number] for number in apart(len(arms), pairs)]:
        raise RecordError(
            f"no pair leads from {arms[0]} to {', '.join(alone[:5])}, so they cannot stand on one scale",
            "add a pair that does",
        )
    return arms, [(first, second) for first, second in pairs]


def _nothing(run: Run, gathered: _Gathered) -> str:
    if gathered.left_out:
        reasons = "; ".join(f"{count:,} times: {reason}" for reason, count in gathered.left_out.items())
        return f"{run.folder} has no two clips to compare: {reasons}"
    return f"{run.folder} has no clips: its suite generates none for these models"


@dataclass(slots=True)
class _Gathered:
    """The clips and items of a study as they are brought in. `left_out` counts reasons."""

    view: View
    media: Media
    arms: Sequence[str]
    plan: Plan
    prompts: dict[str, int] = field(default_factory=dict)
    clips: list[StudyClip] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    _numbers: dict[tuple[Place, int], int | None] = field(default_factory=dict)

    def gather(self, pairs: Sequence[tuple[int, int]]) -> None:
        """An item for every pair and every prompt that has both clips, and for every clip that is rated."""
        kinds = {question.kind for question in self.plan.questions}
        places = [(section, place) for section in self._sections() for place in self._places(section)]
        count = len(places) * (len(pairs) * ("choice" in kinds) + len(self.arms) * ("rating" in kinds))
        if count > MOST_ITEMS:
            raise RecordError(
                f"{count:,} pairs and clips to judge are more than {MOST_ITEMS:,}",
                "take fewer with --prompts, --section or --pairs",
            )
        for section, place in places:
            if "choice" in kinds:
                for pair in pairs:
                    clips = [clip for arm in pair if (clip := self._clip(section, place, arm)) is not None]
                    if len(clips) == 2:
                        self.items.append(Item(clips=clips))
            if "rating" in kinds:
                rated = [self._clip(section, place, arm) for arm in range(len(self.arms))]
                self.items += [Item(clips=[clip]) for clip in rated if clip is not None]

    def _sections(self) -> list[GenerateSection]:
        own = self.view.run.suite.generate
        names = [section.name for section in own]
        for name in self.plan.sections:
            if name not in names:
                raise RecordError(f"the run makes no clips in a section {name!r}", nearest(name, names))
        return [section for section in own if not self.plan.sections or section.name in self.plan.sections]

    def _places(self, section: GenerateSection) -> list[Place]:
        """Of the prompts that are drawn, in the order of the suite."""
        numbers = list(range(len(scripts_of(self.view.run.suite, section))))
        if self.plan.prompts is not None:
            numbers = sorted(shuffled(numbers, self.plan.seed, "prompts", section.name)[: self.plan.prompts])
        return [(section.name, number, seed) for number in numbers for seed in section.seeds]

    def _clip(self, section: GenerateSection, place: Place, arm: int) -> int | None:
        """The number of a clip, which is brought in when it is first asked for; None where it is not there."""
        if (place, arm) not in self._numbers:
            try:
                self._numbers[place, arm] = self._bring(section, place, arm)
            except (ClipError, RecordError) as error:
                self._numbers[place, arm] = None
                self.left_out[error.message] += 1
            except (KeyError, TypeError, ValueError):
                self._numbers[place, arm] = None
                self.left_out["the record of a clip is damaged"] += 1
        return self._numbers[place, arm]

    def _bring(self, section: GenerateSection, place: Place, arm: int) -> int:
        _, prompt, seed = place
        group = self.view.groups.get((section.name, "", self.arms[arm]))
        if group is None:
            raise ClipError(f"{section.name} makes no clips of {self.arms[arm]}")
        key = group.keys[prompt * len(section.seeds) + section.seeds.index(seed)]
        entry = self.view.run.index.get(key)
        if entry is None or entry.status != "ok":
            raise ClipError("the clip is not made yet" if entry is None else f"the clip is recorded as {entry.status}")
        placed = self.media.place(self.view.run.folder, key, entry.clip)
        scripts = scripts_of(self.view.run.suite, section)
        text = scripts[prompt].text
        if sum(script.text == text for script in scripts) > 1:
            text = " / ".join((text, *filter(None, scripts[prompt].later)))
        number = self.prompts.setdefault(text, len(self.prompts))
        media = Path(placed["file"]).name
        self.clips.append(StudyClip(arm=arm, section=section.name, prompt=number, seed=seed, key=key, media=media))
        return len(self.clips) - 1

    def add_obvious(self, secret: str) -> None:
        """Attention checks: a clip against one that is obviously bad, or that one alone where clips are rated."""
        ordinary = shuffled(self.items, self.plan.seed, "obvious")[: self.plan.obvious]
        for number, item in enumerate(ordinary):
            asked = [question.name for question in self.plan.questions if question.kind == item.kind]
            # Noise fits nothing and does not hold together, but it is dynamic; of a still clip it is the reverse.
            still = set(asked) == {"dynamics"}
            source = self.clips[item.clips[0]]
            media = media_name(secret, f"obvious {number}")
            path = self.media.folder / MEDIA / source.media
            target = self.media.folder / MEDIA / media
            rate = video.head(path).frame_rate
            video.write(target, _spoilt(path, still, number), rate, NOISE_CRF, "veryfast")
            self.clips.append(source.model_copy(update={"arm": -1, "key": "", "media": media}))
            bad = len(self.clips) - 1
            checked = asked if still else [name for name in asked if name != "dynamics"]
            clips = [item.clips[0], bad] if item.kind == "choice" else [bad]
            self.items.append(Item(clips=clips, checked=checked))


def _spoilt(path: Path, still: bool, seed: int) -> Iterator[Frames]:
    """The first frame of a clip over and over, or coloured squares, new in each frame."""
    rng = np.random.default_rng(seed)
    first: Frames | None = None
    for chunk in video.stream(path, 16):
        first = chunk[:1] if first is None else first
        if still:
            yield np.repeat(first, len(chunk), axis=0)
            continue
        frames, height, width, _ = chunk.shape
        squares = rng.integers(0, 256, (frames, -(-height // BLOCK), -(-width // BLOCK), 3), np.uint8)
        yield squares.repeat(BLOCK, axis=1).repeat(BLOCK, axis=2)[:, :height, :width]
