"""Tally a study: strengths and mean ratings of arms, agreement of raters, their attention, metrics against people."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from harness.contracts import registry
from harness.errors import Incomplete
from harness.report.cells import MERIT
from harness.report.view import View
from harness.runs.people import Agreement, Answered, Opinion, People
from harness.runs.records import Run
from harness.stats import crossed, ranks
from harness.stats.estimates import Estimate
from harness.stats.preferences import FIRST, SECOND, TIE, BradleyTerry
from harness.study.design import LEFT, Question, Study
from harness.study.design import TIE as TIED
from harness.study.judges import Judges
from harness.study.votes import Counted, Vote

BAD_RATING = 4
"""From here on a rating of a plainly bad clip is a failure."""
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Ballot:
    """An answer to one question that counts.

    Attributes:
        item: its number. prompt: its number. answer: `FIRST`, `TIE` or `SECOND` of the item's clips, or 1 to 5.
    """

    rater: int
    item: int
    prompt: int
    answer: int


def tally(
    study: Study, counted: Counted, run: Run | None, *, judges: Judges | None = None, keep_careless: bool = False
) -> People:
    """The tally of all votes. Raters who fail half of their obvious pairs are left out, unless they are to be kept.

    Without the `run` nothing is said of metrics. `judges` are held to people as metrics are. Raises `Incomplete` where
    there is no vote.
    """
    if not counted.votes:
        raise Incomplete("the study has no votes yet", "harness study serve STUDY lets raters vote")
    careless = {
        rater for rater, (failed, checks) in obvious_failures(study, counted.votes).items() if 2 * failed >= checks
    }
    raters = {vote.rater for vote in counted.votes}
    left_out = set() if keep_careless else careless
    if left_out == raters:
        raise Incomplete(
            f"{'the one rater' if len(raters) == 1 else f'all {len(raters)} raters'} failed the attention checks",
            "--keep-careless counts their votes all the same",
        )
    votes = [vote for vote in counted.votes if vote.rater not in left_out]
    merits = _merits(study, View(run)) if run is not None else {}
    answered: list[Answered] = []
    agreement: list[Agreement] = []
    for question in study.questions:
        ballots = list(_ballots(study, question, votes))
        if not ballots:
            continue
        answered.append(_answered(study, question, ballots))
        agreement += _agreement(study, question, ballots, merits, judges or {})
    remarks = [*_remarks(study, votes, raters, careless, keep_careless), *counted.remarks]
    return People(
        study=study.id,
        raters=len(raters) - len(left_out),
        left_out=len(left_out),
        votes=len(votes),
        answered=answered,
        agreement=agreement,
        remarks=remarks,
    )


# ------------------------------------------------------------------------------------------ attention


def obvious_failures(study: Study, votes: Sequence[Vote]) -> dict[int, tuple[int, int]]:
    """How many obvious tasks each rater failed, and how many were answered; only of raters who answered one."""
    failures: dict[int, tuple[int, int]] = {}
    for vote in votes:
        task = study.task(vote.rater, vote.task)
        checked = study.items[task.item].checked
        if not checked:
            continue
        good = "b" if task.swapped else LEFT
        wrong = False
        for question in study.asked(study.items[task.item]):
            if question.name in checked:
                answer = vote.answers[question.column]
                wrong |= answer >= BAD_RATING if isinstance(answer, int) else answer != good
        failed, checks = failures.get(vote.rater, (0, 0))
        failures[vote.rater] = failed + wrong, checks + 1
    return failures


def _repeated(study: Study, votes: Sequence[Vote]) -> tuple[int, int]:
    """Answers to repeated tasks that say the same of the same clips, and how many there are."""
    by_task = {(vote.rater, vote.task): vote for vote in votes}
    alike = total = 0
    for vote in votes:
        task = study.task(vote.rater, vote.task)
        before = by_task.get((vote.rater, task.repeats))
        if task.repeats < 0 or before is None:
            continue
        for column, answer in vote.answers.items():
            earlier = before.answers[column]
            mirrored = {"a": "b", "b": "a"}.get(str(answer), answer) if isinstance(answer, str) else answer
            alike += earlier == mirrored
            total += 1
    return alike, total


def _remarks(study: Study, votes: Sequence[Vote], raters: set[int], careless: set[int], kept: bool) -> list[str]:
    said = f"{len(raters)} of {len(study.sequences)} raters voted"
    if any(item.checked for item in study.items):
        named = ", ".join(map(str, sorted(careless)[:20])) + (", …" if len(careless) > 20 else "")
        said += f"; {len(careless)} failed half of their obvious pairs or more"
        said += "" if not careless else f" and are {'counted all the same' if kept else 'left out'}: {named}"
    remarks = [f"{said}."]
    alike, total = _repeated(study, votes)
    if total:
        remarks.append(f"{alike / total:.0%} of {total} answers to repeated pairs or clips were the same again.")
    if {question.kind for question in study.questions} & {"choice"}:
        remarks.append(
            "Strengths are log odds to be preferred, 0 for the mean of all models: Bradley and Terry's model with ties "
            "(Davidson), its likelihood penalised by as many votes as it has parameters, spread evenly. So a model "
            "that always wins stays finite."
        )
    return remarks


# ------------------------------------------------------------------------------------------ questions


def _ballots(study: Study, question: Question, votes: Sequence[Vote]) -> Iterator[Ballot]:
    """The answers that count: neither those to repetitions nor those to obvious pairs."""
    for vote in votes:
        task = study.task(vote.rater, vote.task)
        item = study.items[task.item]
        if item.kind != question.kind or item.checked or task.repeats >= 0:
            continue
        answer = vote.answers[question.column]
        if isinstance(answer, str):
            answer = TIE if answer == TIED else FIRST if (answer == LEFT) != task.swapped else SECOND
        yield Ballot(vote.rater, task.item, study.clips[item.clips[0]].prompt, answer)


def _answered(study: Study, question: Question, ballots: Sequence[Ballot]) -> Answered:
    answers = np.array([ballot.answer for ballot in ballots])
    raters, prompts = ([getattr(ballot, name) for ballot in ballots] for name in ("rater", "prompt"))
    arms = [[study.clips[number].arm for number in study.items[ballot.item].clips] for ballot in ballots]
    if question.kind == "choice":
        pairs = [(first, second) for first, second in study.pairs]
        number_by_pair = {pair: number for number, pair in enumerate(pairs)}
        numbers = [number_by_pair[first, second] for first, second in arms]
        result = BradleyTerry(pairs, study.ties).strengths(numbers, answers, raters, prompts)
    else:
        rows, statistic = crossed.means(answers, [arm for (arm,) in arms], len(study.arms))
        result = crossed.crossed(rows, raters, prompts, statistic)
    counts = np.bincount([arm for pair in arms for arm in pair], minlength=len(study.arms))
    one = np.eye(len(study.arms))
    opinions = {}
    for number, label in enumerate(study.arms):
        estimate = result.contrast(one[number]).estimate
        value, low, high = (_number(x) for x in (estimate.value, estimate.low, estimate.high))
        voted = int(counts[number])
        opinions[label] = Opinion(value=value if voted else None, low=low, high=high, votes=voted)
    ahead, details = [], []
    for first, second in combinations(range(len(study.arms)), 2):
        effect = result.contrast(one[first] - one[second])
        details.append(effect.detectable())
        if effect.estimate.low > 0 or effect.estimate.high < 0:
            leader, behind = (first, second) if effect.estimate.low > 0 else (second, first)
            ahead.append([study.arms[leader], study.arms[behind]])
    details = [detail for detail in details if math.isfinite(detail)]
    return Answered(
        column=question.column,
        text=question.text,
        unit="log odds" if question.kind == "choice" else "1 to 5",
        opinions=opinions,
        ahead=ahead,
        votes=len(ballots),
        raters=len(set(raters)),
        alpha=_number(_alpha(ballots)),
        detectable=float(np.median(details)) if details else None,
    )


def _alpha(ballots: Sequence[Ballot]) -> float:
    raters, items = (
        {value: n for n, value in enumerate(sorted({getattr(b, name) for b in ballots}))} for name in ("rater", "item")
    )
    table = np.full((len(raters), len(items)), np.nan)
    for ballot in ballots:
        table[raters[ballot.rater], items[ballot.item]] = ballot.answer
    return crossed.alpha(table)


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


# ------------------------------------------------------------------------------- metrics against people


def _agreement(
    study: Study,
    question: Question,
    ballots: Sequence[Ballot],
    merits: Mapping[str, Mapping[int, float]],
    judges: Judges,
) -> Iterator[Agreement]:
    opinions: dict[int, list[float]] = defaultdict(list)
    for ballot in ballots:
        # A choice is 1 for the first clip, -1 for the second.
        opinions[ballot.item].append(float(TIE - ballot.answer if question.kind == "choice" else ballot.answer))
    means = {item: float(np.mean(answers)) for item, answers in opinions.items()}
    prompts = {item: study.clips[study.items[item].clips[0]].prompt for item in means}
    if question.kind == "choice":
        person = ranks.against_the_others([opinions[item] for item in means], list(prompts.values()))
        yield _agreed("one rater", question, None, person)
    for name, numbers in {**_of_items(study, means, merits), **_of_judges(question, judges)}.items():
        items = [item for item in means if item in numbers]
        values, said, clusters = ([each[item] for item in items] for each in (numbers, means, prompts))
        if question.kind == "choice":
            # Which clip is called the first is chance, so each pair counts in both orders.
            tau = ranks.tau([*values, *(-x for x in values)], [*said, *(-x for x in said)], clusters * 2)
            share = ranks.accuracy(values, said, clusters)
        else:
            tau = ranks.tau(values, said, clusters)
            couples = list(_couples(study, items))
            differences, preferences = ([each[i] - each[j] for i, j in couples] for each in (numbers, means))
            share = ranks.accuracy(differences, preferences, [prompts[i] for i, _ in couples])
        if items:
            yield _agreed(name, question, tau, share)


def _of_items(
    study: Study, items: Iterable[int], merits: Mapping[str, Mapping[int, float]]
) -> dict[str, dict[int, float]]:
    """Each value of a metric by item: of its clip, or by how much the first of its two clips is ahead."""
    of_items: dict[str, dict[int, float]] = {}
    for name, by_clip in merits.items():
        for item in items:
            clips = study.items[item].clips
            if all(clip in by_clip for clip in clips):
                ahead = by_clip[clips[0]] - by_clip[clips[1]] if len(clips) == 2 else by_clip[clips[0]]
                of_items.setdefault(name, {})[item] = ahead
    return of_items


def _of_judges(question: Question, judges: Judges) -> dict[str, dict[int, float]]:
    return {
        f"judge {name}": {
            item: answers[question.column] for item, answers in by_item.items() if question.column in answers
        }
        for name, by_item in judges.items()
    }


def _couples(study: Study, items: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Pairs of rated items whose clips are of one prompt and seed."""
    alike: dict[tuple[str, int, int], list[int]] = defaultdict(list)
    for item in items:
        clip = study.clips[study.items[item].clips[0]]
        alike[clip.section, clip.prompt, clip.seed].append(item)
    for several in alike.values():
        yield from combinations(several, 2)


def _agreed(name: str, question: Question, tau: Estimate | None, share: Estimate) -> Agreement:
    numbers = [
        _number(x) for each in (tau, share) for x in ((each.value, each.low, each.high) if each else (math.nan,) * 3)
    ]
    return Agreement(
        value=name,
        question=question.column,
        tau=numbers[0],
        tau_low=numbers[1],
        tau_high=numbers[2],
        accuracy=numbers[3],
        accuracy_low=numbers[4],
        accuracy_high=numbers[5],
        pairs=share.samples,
    )


def _merits(study: Study, view: View) -> dict[str, Mapping[int, float]]:
    """Every value of every metric by the number of the study's clip: the more the better."""
    numbers_by_place: dict[tuple[str, str], dict[str, int]] = defaultdict(dict)
    for number, clip in enumerate(study.clips):
        if clip.arm >= 0:
            numbers_by_place[clip.section, study.arms[clip.arm]][clip.key] = number
    merits: dict[str, dict[int, float]] = {}
    for section in view.run.suite.generate:
        for plugin, values in view.given(section).items():
            own = {value.name for value in registry.metrics.get(plugin).values}
            ranked = [value for value in values if value.direction in MERIT and value.name in own]
            for label in study.arms:
                numbers = numbers_by_place.get((section.name, label))
                group = view.groups.get((section.name, plugin, label))
                if group is None or not numbers:
                    continue
                samples, made = view.samples(section, group), view.groups[section.name, "", label].keys
                for row, place in enumerate(samples.places.tolist()):
                    shown = numbers.get(made[place])
                    for value in ranked:
                        score = float(samples.values[value.name][row])
                        if shown is not None and math.isfinite(score):
                            merits.setdefault(f"{section.name}:{value.name}", {})[shown] = MERIT[value.direction](score)
    return dict(merits)
