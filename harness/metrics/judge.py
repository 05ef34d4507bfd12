"""A judge's ratings of a clip, from 1 to 5, by the questions of a study: a vision-language model as one more rater.

How far it agrees with people, `harness study tally` says of it as of every metric.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from harness.contracts import Availability, Clip, Json, Metric, Value
from harness.errors import PluginFault, shown
from harness.metrics import judge_client
from harness.metrics.judge_client import JudgeOptions

QUESTIONS = {
    "adherence": "How well does the video fit the description?",
    "coherence": "How consistent is the video from start to end?",
    "dynamics": "How dynamic is the video?",
    "overall": "How good is the video overall?",
}
INSTRUCTION = (
    "The pictures are {frames} frames of one video, evenly spread from its start to its end. It was made for this "
    "description:\n\n{prompt}\n\nRate the video for each question: 1 very bad, 2 bad, 3 looks OK, 4 good, 5 very "
    "good.\n\n{questions}\n\nAnswer with one JSON object that holds a number from 1 to 5 under each name, and nothing "
    "else."
)


def filled(instruction: str, frames: int, prompt: str, questions: Mapping[str, str]) -> str:
    """An instruction with what it asks about. What stands in braces in a prompt stays as it is."""
    listed = "\n".join(f"{name}: {text}" for name, text in questions.items())
    parts = {"{frames}": str(frames), "{questions}": listed, "{prompt}": prompt}
    for place, text in parts.items():
        instruction = instruction.replace(place, text)
    return instruction


class Judge(Metric):
    """Ratings by whom the options name; nobody is asked where they name none."""

    schema = JudgeOptions
    values: ClassVar[tuple[Value, ...]] = tuple(
        Value(name, "1 to 5", "higher", low=1.0, high=5.0) for name in QUESTIONS
    )

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self._reply = ""

    def available(self) -> Availability:
        """Whether a judge is named, and its key is there."""
        return judge_client.available(self.options)

    def identity(self) -> Mapping[str, Json]:
        """The instruction that is in force, and the files of a command."""
        instruction = self.options.instruction or INSTRUCTION
        return {"instruction": instruction, "questions": QUESTIONS, "files": judge_client.identity(self.options)}

    def score(self, clip: Clip) -> Mapping[str, float]:
        """The judge's ratings. Raises `ClipError`, and `PluginFault` where the judge gives none."""
        images = judge_client.pictures(clip.path, clip.frames, self.options)
        prompt = clip.prompt + "".join(f"\nFrom frame {frame} on: {text}" for frame, text in clip.switches)
        text = filled(self.options.instruction or INSTRUCTION, len(images), prompt, QUESTIONS)
        self._reply = judge_client.ask(self.options, text, images)
        said = judge_client.answers(self._reply)
        return {name: rating(said.get(name), name) for name in QUESTIONS}

    def notes(self) -> Mapping[str, Json]:
        """What the judge said."""
        return {"reply": shown(self._reply, 2000)}


def rating(value: object, name: str) -> float:
    """What a judge gave under `name` as a rating. Raises `PluginFault` where it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value <= 5:
        raise PluginFault(f"the judge gives no rating from 1 to 5 for {name}: {shown(str(value), 60)!r}")
    return float(value)
