"""How often 95 % intervals of studies with raters hold the truth, over 1,000 simulated studies of each design.

python tests/bench/bench_study.py
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import scipy
from numpy.typing import NDArray

from harness.stats.crossed import Crossed, crossed, means
from harness.stats.preferences import BradleyTerry

STUDIES = 1000
DRAWS = 400_000
"""Raters and prompts over which the truth is averaged."""
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Design:
    """A study: how many arms, raters and prompts, tasks of a rater, what raters and prompts vary by, odds of a tie."""

    arms: int
    raters: int
    prompts: int
    tasks: int
    by_rater: float
    by_prompt: float
    tie: float
    apart: float = 1.0

    @property
    def truth(self) -> NDArray[np.float64]:
        """The strengths of the arms to a rater and on a prompt of the middle."""
        return np.linspace(-self.apart / 2, self.apart / 2, self.arms)

    def effects(self, rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """What each rater and each prompt adds to the arms, [raters, arms] and [prompts, arms]."""
        return (
            rng.normal(scale=self.by_rater, size=(self.raters, self.arms)),
            rng.normal(scale=self.by_prompt, size=(self.prompts, self.arms)),
        )

    def tasks_of(self, items: int, rng: np.random.Generator) -> tuple[Ints, Ints]:
        """Rater and item of each vote: every item as often as another, to within one."""
        place = np.arange(self.raters * self.tasks)
        return place // self.tasks, rng.permutation(items)[place % items]


def pick(chances: NDArray[np.float64], rng: np.random.Generator) -> Ints:
    """One answer a row, by its `chances` [votes, answers]."""
    edges = np.cumsum(chances, axis=1) / chances.sum(axis=1, keepdims=True)
    return np.asarray((rng.random(len(chances))[:, None] > edges).sum(axis=1))


def chances(apart: NDArray[np.float64], tie: float) -> NDArray[np.float64]:
    """Odds of first, tie and second for strengths that lie `apart`."""
    return np.stack([np.exp(apart / 2), np.full_like(apart, tie), np.exp(-apart / 2)], axis=-1)


def of_choices(design: Design) -> tuple[list[Crossed], NDArray[np.float64]]:
    """Studies of pairs, and the strengths that endlessly many raters and prompts would show."""
    rng = np.random.default_rng(0)
    pairs = np.array(list(combinations(range(design.arms), 2)))
    model = BradleyTerry([tuple(pair) for pair in pairs.tolist()], ties=design.tie > 0)
    spread = np.sqrt(2 * (design.by_rater**2 + design.by_prompt**2))
    endless = np.zeros((len(pairs), 3))
    for number, (first, second) in enumerate(pairs):
        apart = design.truth[first] - design.truth[second] + rng.normal(scale=spread, size=DRAWS)
        odds = chances(apart, design.tie)
        endless[number] = 1e7 * (odds / odds.sum(axis=1, keepdims=True)).mean(axis=0)
    studies = []
    for seed in range(STUDIES):
        by_rater, by_prompt = design.effects(rng)
        raters, items = design.tasks_of(len(pairs) * design.prompts, rng)
        pair, prompts = items % len(pairs), items // len(pairs)
        levels = design.truth + by_rater[raters] + by_prompt[prompts]
        place = np.arange(len(items))
        apart = levels[place, pairs[pair, 0]] - levels[place, pairs[pair, 1]]
        answers = pick(chances(apart, design.tie), rng)
        studies.append(model.strengths(pair, answers, raters, prompts, seed=seed))
    return studies, model.fit(endless.reshape(1, -1))[0]


def of_ratings(design: Design) -> tuple[list[Crossed], NDArray[np.float64]]:
    """Studies of single clips, rated from 1 to 5, and the means that endlessly many raters and prompts would show."""

    def rated(levels: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
        return np.clip(np.round(3 + levels + rng.normal(scale=0.8, size=levels.shape)), 1, 5)

    rng = np.random.default_rng(0)
    spread = np.hypot(design.by_rater, design.by_prompt)
    truth = np.array([rated(level + rng.normal(scale=spread, size=DRAWS), rng).mean() for level in design.truth])
    studies = []
    for seed in range(STUDIES):
        by_rater, by_prompt = design.effects(rng)
        raters, items = design.tasks_of(design.arms * design.prompts, rng)
        arms, prompts = items % design.arms, items // design.arms
        levels = design.truth[arms] + by_rater[raters, arms] + by_prompt[prompts, arms]
        rows, statistic = means(rated(levels, rng), arms, design.arms)
        studies.append(crossed(rows, raters, prompts, statistic, seed=seed))
    return studies, truth


def held(studies: list[Crossed], truth: NDArray[np.float64], contrasts: NDArray[np.float64]) -> float:
    """Share of the intervals of all studies and contrasts that hold the truth."""
    estimates = [study.contrast(row).estimate for study in studies for row in contrasts]
    ends = np.array([[each.low, each.high] for each in estimates]).reshape(len(studies), -1, 2)
    true = contrasts @ truth
    return float(((ends[..., 0] <= true) & (true <= ends[..., 1])).mean())


DESIGNS = [
    ("no rater or prompt differs", Design(2, 20, 24, 24, 0.0, 0.0, 1.0)),
    ("raters and prompts differ", Design(2, 20, 24, 24, 0.5, 0.5, 1.0)),
    ("raters differ, no ties", Design(2, 20, 24, 24, 0.7, 0.0, 0.0)),
    ("prompts differ, no ties", Design(2, 20, 24, 24, 0.0, 0.7, 0.0)),
    ("three arms", Design(3, 20, 24, 36, 0.3, 0.6, 1.0)),
    ("few raters and prompts", Design(2, 8, 12, 12, 0.5, 0.5, 1.0)),
    ("nine arms, as the paper's", Design(9, 50, 24, 36, 0.5, 0.5, 0.7)),
    ("one arm is far ahead", Design(2, 20, 24, 24, 0.5, 0.5, 0.5, 4.0)),
]


def main() -> None:
    started = time.process_time()
    versions = f"Python {sys.version.split()[0]}, numpy {np.__version__}, scipy {scipy.__version__}"
    print(f"{versions}; {STUDIES:,} studies each")
    print("design (arms, raters, prompts, tasks of a rater)           arms    differences   median half-width")
    lowest, highest = 1.0, 0.0
    for kind, make in (("choices", of_choices), ("ratings", of_ratings)):
        for name, design in DESIGNS:
            if kind == "ratings" and ("no ties" in name or "ahead" in name):
                continue
            studies, truth = make(design)
            centred = np.eye(design.arms) - (1 / design.arms if kind == "choices" else 0)
            differences = np.array([centred[i] - centred[j] for i, j in combinations(range(design.arms), 2)])
            shares = [held(studies, truth, contrasts) for contrasts in (centred, differences)]
            ends = [study.contrast(differences[0]).estimate for study in studies]
            width = float(np.median([(each.high - each.low) / 2 for each in ends]))
            said = f"{kind}: {name} ({design.arms}, {design.raters}, {design.prompts}, {design.tasks})"
            print(f"{said:<58} {shares[0]:6.1%}        {shares[1]:6.1%}   {width:.2f}", flush=True)
            lowest, highest = min(lowest, *shares), max(highest, *shares)
    print(f"Between {lowest:.1%} and {highest:.1%} hold. {time.process_time() - started:.0f} s of processor time.")


if __name__ == "__main__":
    main()
