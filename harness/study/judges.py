"""Judges of a study besides people: a model answers the same questions about the same clips, in both orders."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.errors import ClipError, HarnessError, NotAvailable, PluginFault, RecordError, shown
from harness.metrics import judge_client
from harness.metrics.judge import INSTRUCTION, filled, rating
from harness.metrics.judge_client import JudgeOptions
from harness.study.design import MEDIA, Item, Study
from harness.system import files, video

FOLDER = "judges"
SCHEMA = 1
LARGEST_FILE = 64 << 20
PAIR = (
    "The first {frames} pictures are frames of video A, the next {frames} of video B, evenly spread from start to end. "
    "Both were made for this description:\n\n{prompt}\n\nCompare them for each question.\n\n{questions}\n\n"
    'Answer with one JSON object that holds "A", "B" or "same" under each name, and nothing else.'
)
HIGHEST = 5
"""No answer is farther from 0 than the best rating."""
PREFERENCES = {"a": 1.0, "same": 0.0, "b": -1.0}

Judges = Mapping[str, Mapping[int, Mapping[str, float]]]
"""By name and item the answer to each question, by its column: 1 for the first clip, -1 for the second, 0 for neither,
or what lies between where the orders differ; or a rating from 1 to 5."""


@dataclass(frozen=True, slots=True)
class Judged:
    """How many items a judge answered, in which file, and the reasons of those that it did not."""

    file: Path
    answered: int
    failed: Mapping[str, int]


def judge(folder: Path, study: Study, options: JudgeOptions, name: str, progress: Callable[[int, int], None]) -> Judged:
    """Let a judge answer every item of the study in `folder` but the obvious ones, and keep it as `name`.

    Answers are cached, so that a call that was interrupted goes on. Raises `NotAvailable` where no judge is named,
    `HarnessError` for a name that is none.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,79}", name):
        raise HarnessError(f"--name {name!r}: letters, digits, dots and dashes make a judge's name")
    state = judge_client.available(options)
    if not state.ready:
        raise NotAvailable(f"the judge cannot be asked: {state.reason}", state.fix)
    answers: dict[int, dict[str, float]] = {}
    failed: Counter[str] = Counter()
    items = [number for number, item in enumerate(study.items) if not item.checked]
    for place, number in enumerate(items):
        progress(place, len(items))
        try:
            answers[number] = _answer(folder, study, study.items[number], options)
        except (PluginFault, ClipError) as error:
            failed[error.message] += 1
    body = {"schema": SCHEMA, "study": study.id, "options": options.model_dump(mode="json"), "answers": answers}
    file = folder / FOLDER / f"{name}.json"
    if answers:
        files.write_atomic(file, json.dumps(body) + "\n")
    return Judged(file, len(answers), failed)


def _answer(folder: Path, study: Study, item: Item, options: JudgeOptions) -> dict[str, float]:
    asked = {question.name: question for question in study.asked(item)}
    texts = {name: question.text for name, question in asked.items()}
    clips = [study.clips[number] for number in item.clips]
    seen = []
    for clip in clips:
        path = folder / MEDIA / clip.media
        seen.append(judge_client.pictures(path, video.inspect(path).frames, options))
    prompt = study.prompts[clips[0].prompt]
    if item.kind == "rating":
        instruction = filled(options.instruction or INSTRUCTION, len(seen[0]), prompt, texts)
        said = judge_client.answers(judge_client.ask(options, instruction, seen[0]))
        return {asked[name].column: rating(said.get(name), name) for name in asked}
    instruction = filled(options.instruction or PAIR, len(seen[0]), prompt, texts)
    # A judge may prefer what it sees first: both orders count half.
    there, back = (
        judge_client.answers(judge_client.ask(options, instruction, [*seen[first], *seen[1 - first]]))
        for first in (0, 1)
    )
    return {
        asked[name].column: (_preference(there.get(name), name) - _preference(back.get(name), name)) / 2
        for name in asked
    }


def _preference(value: object, name: str) -> float:
    try:
        return PREFERENCES[str(value).strip().lower()]
    except KeyError:
        raise PluginFault(f"the judge says neither A, B nor same for {name}: {shown(str(value), 60)!r}") from None


def read(folder: Path, study: Study) -> Judges:
    """The answers of every judge of the study in `folder`. Raises `RecordError`."""
    judges = {}
    for path in sorted((folder / FOLDER).glob("*.json")):
        try:
            body = json.loads(files.read_limited(path, LARGEST_FILE))
            if body["schema"] != SCHEMA or body["study"] != study.id:
                raise RecordError(f"{path} holds answers to another study, or of another version", "move it away")
            judges[path.stem] = {
                int(item): {str(column): _answered(number) for column, number in answers.items()}
                for item, answers in body["answers"].items()
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise RecordError(f"{path} is no file of a judge", "harness study judge makes it anew") from error
    return judges


def _answered(number: object) -> float:
    """A number as `Judges` holds it. Raises `ValueError` for any other."""
    if not isinstance(number, int | float) or isinstance(number, bool) or not abs(number) <= HIGHEST:
        raise ValueError("no answer")
    return float(number)
