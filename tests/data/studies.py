"""Studies of small runs, and raters who answer them as told."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from page_runs import make_run, suite

from harness.study import design, make, votes

PROMPTS = [f"{number} a pattern" for number in range(6)]


def make_study(folder: Path, choices: str = "adherence,dynamics", ratings: str = "", **changes: Any) -> design.Study:
    """A study in `folder / "study"` of the arms `a` and `b` of `page_runs`, in `folder / "run"`."""
    body = suite(changes.pop("texts", PROMPTS), **changes.pop("suite", {}))
    run = make_run(folder / "run", body)
    plan = make.Plan(design.questions(choices, ratings), **{"raters": 4, "each": 6, **changes})
    return make.make(run, folder / "study", plan).study


def answers(study: design.Study, rater: int, task: int, better: Callable[[str, str], str]) -> dict[str, str | int]:
    """What a rater says who finds of two arms `better(question, prompt)` better, and sees what is plainly bad."""
    shown = study.shown(study.tasks(rater)[task])
    said: dict[str, str | int] = {}
    for question in study.asked(study.items[study.tasks(rater)[task].item]):
        labels = ["" if clip.arm < 0 else study.arms[clip.arm] for clip in shown]
        wanted = better(question.name, study.prompts[shown[0].prompt])
        if question.kind == "rating":
            said[question.column] = 1 if "" in labels else 4 if wanted in labels else 2
        elif "" in labels:
            said[question.column] = "ba"[labels.index("")]
        else:
            said[question.column] = "ab"[labels.index(wanted)] if wanted in labels else "tie"
    return said


def vote_all(
    folder: Path,
    study: design.Study,
    better: Callable[[str, str], str],
    raters: Mapping[int, Any] | range | None = None,
) -> None:
    """Let raters, all unless given, answer all their tasks."""
    with votes.Ballots(folder, study) as ballots:
        for rater in raters or range(1, len(study.sequences) + 1):
            ballots.consent(rater)
            for task in range(len(study.sequences[rater - 1])):
                ballots.keep(votes.Vote(rater, task, answers(study, rater, task, better), 2.0))


class Process:
    """`harness study serve` as a process of its own."""

    def __init__(self, folder: Path, port: int = 0) -> None:
        command = [sys.executable, "-m", "harness", "study", "serve", str(folder), "--rate", "1000000"]
        command += ["--port", str(port)]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        match = re.search(r"http://127\.0\.0\.1:(\d+)/", line)
        assert match, line
        self.port = int(match[1])

    def end(self, number: signal.Signals = signal.SIGKILL) -> int:
        """Send it a signal, and wait for its exit code."""
        os.kill(self.process.pid, number)
        code = self.process.wait(timeout=60)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code
