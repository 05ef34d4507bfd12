"""What a study asks, of whom and in which order, as its file `study.json` holds it. Pure; torch-free.

Everything is derived from the study's seed, so that the same clips, questions and seed give the same study. Only its
secret is drawn, of which tokens and names of files are made.
"""

from __future__ import annotations

import hmac
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, TypeVar

from pydantic import Field, ValidationError
from pydantic_core import from_json

from harness.errors import HarnessError, RecordError, nearest
from harness.suite.part import Name, Part
from harness.suite.validate import explain, first
from harness.system import files
from harness.system.digests import digest

STUDY_SCHEMA = 1
FILE, RATERS = "study.json", "raters.csv"
MEDIA = "clips"
MOST_ARMS, MOST_QUESTIONS = 32, 50
MOST_ITEMS = 20_000
"""Besides obvious ones, of which there are no more than of others."""
MOST_TASKS = 1_000_000
"""Of all raters together."""
LARGEST = 64 << 20
"""Bytes of a study's file: so many tasks, and long prompts."""
FAR = 5
"""Tasks that lie, where there are so many, between a pair and its repetition."""

Kind = Literal["choice", "rating"]
STANDARD: Mapping[str, Mapping[Kind, str]] = {
    "adherence": {
        "choice": "Which video fits the description better?",
        "rating": "How well does the video fit the description?",
    },
    "coherence": {
        "choice": "Which video is more consistent from start to end?",
        "rating": "How consistent is the video from start to end?",
    },
    "dynamics": {"choice": "Which video is more dynamic?", "rating": "How dynamic is the video?"},
    "overall": {"choice": "Which video is better overall?", "rating": "How good is the video overall?"},
}
"""The questions that need no text of one's own. The first three are those of the VideoMLA paper's study."""
SCALE = ("very bad", "bad", "looks OK", "good", "very good")
"""The words of the ratings 1 to 5, as in the paper's study."""
CONSENT = (
    "You will see short videos and be asked what you think of them. There are no right answers; please watch each "
    "video to its end. Your answers are stored under a number, without your name, and used for research. You may stop "
    "at any time, and go on later with the same link."
)
LEFT, RIGHT, TIE = "a", "b", "tie"
"""Answers to a choice: the video shown first, the other, neither."""
Short = Annotated[str, Field(min_length=1, max_length=2000)]


class Question(Part):
    """One question; ratings are told from choices of the same name by `kind`."""

    name: Name
    kind: Kind
    text: Short

    @property
    def column(self) -> str:
        """Its name in tables: that of a rating says so."""
        return self.name if self.kind == "choice" else f"{self.name}_rating"


class StudyClip(Part):
    """A clip of an arm (a number), for a prompt (a number) of a section and a seed; `media` is its file's name.

    One that was made to be obviously bad has the arm -1.
    """

    arm: int
    section: str
    prompt: int
    seed: int
    key: str
    media: Annotated[str, Field(pattern=r"^[0-9a-f]{32}\.mp4$")]


class Item(Part):
    """What is judged: two clips, or one. Of an obvious one the last clip is bad, which the questions `checked` show."""

    clips: Annotated[list[int], Field(min_length=1, max_length=2)]
    checked: list[str] = Field(default_factory=list)

    @property
    def kind(self) -> Kind:
        """Which questions it is asked."""
        return "choice" if len(self.clips) == 2 else "rating"


class Task(NamedTuple):
    """One screen of a rater: the number of an item, whether its sides are swapped, and of which task it is a repetition
    (-1 for none).
    """

    item: int
    swapped: bool
    repeats: int


class Study(Part):
    """A study.

    Attributes:
        id: digest of what it is made of. secret: of which tokens and names of files are made; never leaves the server.
        run: folder of the clips, relative to the study's. title, consent: as raters read them.
        ties: whether a choice may be a tie. arms: labels. pairs: of arms that are compared.
        sequences: the tasks of each rater as (item, swapped, repeats).
    """

    schema_: Annotated[int, Field(alias="schema")]
    id: str
    secret: Annotated[str, Field(min_length=32)]
    seed: int
    run: str
    title: Short
    consent: Annotated[str, Field(min_length=1, max_length=20_000)]
    ties: bool
    questions: Annotated[list[Question], Field(min_length=1, max_length=MOST_QUESTIONS)]
    arms: Annotated[list[str], Field(max_length=MOST_ARMS)]
    pairs: Annotated[list[list[int]], Field(max_length=MOST_ARMS * (MOST_ARMS - 1) // 2)]
    prompts: list[str]
    clips: list[StudyClip]
    items: Annotated[list[Item], Field(min_length=1, max_length=2 * MOST_ITEMS)]
    sequences: list[list[list[int]]]

    def task(self, rater: int, number: int) -> Task:
        """A task of a rater; raters are numbered from 1, tasks from 0."""
        item, swapped, repeats = self.sequences[rater - 1][number]
        return Task(item, bool(swapped), repeats)

    def tasks(self, rater: int) -> list[Task]:
        """The tasks of a rater in order."""
        return [self.task(rater, number) for number in range(len(self.sequences[rater - 1]))]

    def asked(self, item: Item) -> list[Question]:
        """The questions of an item."""
        return [question for question in self.questions if question.kind == item.kind]

    def shown(self, task: Task) -> list[StudyClip]:
        """The clips of a task from left to right."""
        clips = [self.clips[number] for number in self.items[task.item].clips]
        return clips[::-1] if task.swapped else clips

    def token(self, rater: int) -> str:
        """What lets a rater in."""
        return f"{rater}-{_code(self.secret, f'rater {rater}')}"

    def rater(self, token: str) -> int | None:
        """The rater of a token; None for a forged one."""
        match = re.fullmatch(r"(\d{1,6})-([0-9a-f]{32})", token)
        number = int(match[1]) if match else 0
        if match is None or not 1 <= number <= len(self.sequences):
            return None
        return number if hmac.compare_digest(self.token(number), f"{number}-{match[2]}") else None


def _code(secret: str, text: str) -> str:
    return hmac.new(secret.encode(), text.encode(), "sha256").hexdigest()[:32]


def media_name(secret: str, text: str) -> str:
    """A file name that says nothing of `text` to who does not have the secret."""
    return f"{_code(secret, text)}.mp4"


# ------------------------------------------------------------------------------------------- the questions


def questions(choices: str, ratings: str) -> list[Question]:
    """Questions from comma-separated names; `name=text` brings one's own. Raises `HarnessError`."""
    asked: list[Question] = []
    kinds: tuple[tuple[Kind, str, str], ...] = (("choice", "--questions", choices), ("rating", "--ratings", ratings))
    for kind, option, texts in kinds:
        for part in filter(None, (each.strip() for each in texts.split(","))):
            name, equals, text = (each.strip() for each in part.partition("="))
            if not equals and name not in STANDARD:
                raise HarnessError(f"{option}: unknown question {name!r}", f"{nearest(name, STANDARD)}; or {name}=TEXT")
            text = text if equals else STANDARD[name][kind]
            try:
                asked.append(Question(name=name, kind=kind, text=text))
            except ValidationError as error:
                raise HarnessError(f"{option}: {part[:60]!r}: {explain(first(error), Question)}") from error
    if twice := _asked_twice(asked):
        raise HarnessError(f"the question {twice!r} is asked twice", "name each once")
    if not asked:
        raise HarnessError("a study without questions", "name some with --questions or --ratings")
    if len(asked) > MOST_QUESTIONS:
        raise HarnessError(f"{len(asked):,} questions, and a study asks at most {MOST_QUESTIONS}", "name fewer")
    return asked


def _asked_twice(asked: Sequence[Question]) -> str | None:
    """A column that several questions have, by a name or by that of a rating."""
    counts = Counter(question.column for question in asked)
    return next((column for column, count in counts.items() if count > 1), None)


# ---------------------------------------------------------------------------------------------- the order


T = TypeVar("T")


def shuffled(items: Sequence[T], *seed: object) -> list[T]:
    """`items` in an order that `seed` gives, on every machine and in every version."""
    keys = {number: digest(" ".join(map(str, (*seed, number)))) for number in range(len(items))}
    return [items[number] for number in sorted(keys, key=keys.__getitem__)]


def sequences(
    ordinary: Sequence[int], obvious: Sequence[int], raters: int, each: int, repeats: int, seed: int
) -> list[list[list[int]]]:
    """The tasks of each rater.

    Items are dealt out in one order, round after round, so that all are seen equally often to within one, each as often
    with either clip first, to within one; so a rater, too, sees either side about as often.

    Args:
        ordinary: numbers of the items that count. obvious: of the attention checks that every rater sees.
        each: ordinary tasks of a rater. repeats: of these come again later, with sides swapped.
    """
    dealt = shuffled(ordinary, seed, "order")
    each = min(each, len(dealt))
    every = []
    for rater in range(raters):
        tasks = []
        for slot in range(rater * each, (rater + 1) * each):
            turn, place = divmod(slot, len(dealt))
            tasks.append((dealt[place], (place + turn) % 2))
        tasks = shuffled(tasks, seed, "rater", rater)
        for item in obvious:
            draw = int(digest(f"{seed} obvious {rater} {item}"), 16)
            tasks.insert(1 + draw % len(tasks), (item, (draw >> 64) % 2))
        order = [[item, swapped, -1] for item, swapped in tasks]
        counted = [place for place, (item, _, _) in enumerate(order) if item not in set(obvious)]
        early = counted[: max(repeats, len(counted) - FAR)]
        for place in sorted(shuffled(early, seed, "repeats", rater)[:repeats]):
            item, swapped, _ = order[place]
            order.append([item, 1 - swapped, place])
        every.append(order)
    return every


# ------------------------------------------------------------------------------------------------ the file


def load(folder: Path) -> Study:
    """The study in `folder`. Raises `RecordError`."""
    path = folder / FILE
    try:
        body = from_json(files.read_limited(path, LARGEST))
        schema = body["schema"]
        if schema > STUDY_SCHEMA:
            raise RecordError(
                f"{path}: study schema {schema} is newer than this harness reads ({STUDY_SCHEMA})",
                "pip install --upgrade videomla-bench",
            )
        study = Study.model_validate(body)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RecordError(f"{folder} is no study: it has no {FILE}", "harness study new RUN makes one") from error
    except ValidationError as error:
        fault = first(error)
        where = ".".join(map(str, fault["loc"]))
        raise RecordError(f"{path} is no study that this harness reads: {where}: {fault['msg']}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecordError(f"{path} cannot be read: {files.reason(error)}") from error
    if sum(map(len, study.sequences)) > MOST_TASKS:
        raise RecordError(f"{path} is damaged: it has more than {MOST_TASKS:,} tasks")
    if twice := _asked_twice(study.questions):
        raise RecordError(f"{path} is damaged: the question {twice!r} is asked twice")
    if not (_places_exist(study) and _arms_are_compared(study)):
        raise RecordError(f"{path} is damaged: it names clips, items, arms, prompts or tasks that it does not have")
    return study


def _places_exist(study: Study) -> bool:
    """Whether every number of a clip, prompt, arm, item or task is of one that is there."""
    return (
        all(-1 <= clip.arm < len(study.arms) and 0 <= clip.prompt < len(study.prompts) for clip in study.clips)
        and all(0 <= number < len(study.clips) for item in study.items for number in item.clips)
        and all(len(task) == 3 and 0 <= task[0] < len(study.items) for tasks in study.sequences for task in tasks)
        and all(_repeats_its_own(tasks) for tasks in study.sequences)
    )


def _arms_are_compared(study: Study) -> bool:
    """Whether its pairs set every arm, of a name of its own, on one scale, and its items are of them."""
    count, pairs = len(study.arms), {tuple(pair) for pair in study.pairs}
    judged = pairs | {(arm,) for arm in range(count)}
    return (
        len(set(study.arms)) == count
        and len(pairs) == len(study.pairs)
        and all(len(pair) == 2 and 0 <= pair[0] < pair[1] < count for pair in study.pairs)
        and not apart(count, pairs)
        and all(_arms(study, item) in judged for item in study.items if not item.checked)
    )


def apart(arms: int, pairs: Collection[tuple[int, ...]]) -> list[int]:
    """Numbers of those of so many arms that no chain of pairs leads to from the first."""
    reached, size = {0}, 0
    while len(reached) > size:
        size = len(reached)
        reached |= {other for pair in pairs if reached & set(pair) for other in pair}
    return [number for number in range(arms) if number not in reached]


def _repeats_its_own(tasks: Sequence[Sequence[int]]) -> bool:
    """Whether each repetition is of an earlier task of the same item."""
    return all(
        repeats == -1 or (0 <= repeats < place and tasks[repeats][0] == item)
        for place, (item, _, repeats) in enumerate(tasks)
    )


def _arms(study: Study, item: Item) -> tuple[int, ...]:
    return tuple(study.clips[number].arm for number in item.clips)
