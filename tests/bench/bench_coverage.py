"""How often 95 % intervals hold the truth, over 1,000 simulated studies of each design that comparisons meet.

python tests/bench/bench_coverage.py
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from harness.stats import Estimate, clustered_mean, paired_difference, ratio_of_medians

STUDIES = 1000
RNG = np.random.Generator
Study = Callable[[RNG, int], tuple[Estimate, float]]
"""Makes one study: its estimate, and the truth that its interval should hold."""


def mean_of(prompts: int, seeds: int) -> Study:
    """Scores of `prompts` prompts with `seeds` clips each: a prompt's own level, and half as much noise a clip."""

    def study(rng: RNG, number: int) -> tuple[Estimate, float]:
        labels = np.repeat(np.arange(prompts), seeds)
        scores = 0.6 + np.repeat(rng.normal(scale=0.2, size=prompts), seeds) + rng.normal(scale=0.1, size=labels.size)
        return clustered_mean(scores, labels, seed=number), 0.6

    return study


def share_of(prompts: int, truth: float) -> Study:
    """Clips that pass or fail, two a prompt: a prompt's chance of passing varies around `truth`."""

    def study(rng: RNG, number: int) -> tuple[Estimate, float]:
        chances = np.repeat(rng.beta(4 * truth, 4 * (1 - truth), size=prompts), 2)
        passed = (rng.random(chances.size) < chances).astype(float)
        return clustered_mean(passed, np.repeat(np.arange(prompts), 2), seed=number), truth

    return study


def difference_of(prompts: int) -> Study:
    """Two models on the same prompts and seeds; the second is better by 0.3."""

    def study(rng: RNG, number: int) -> tuple[Estimate, float]:
        labels = np.repeat(np.arange(prompts), 2)
        first = rng.normal(size=labels.size)
        change = 0.3 + np.repeat(rng.normal(scale=0.4, size=prompts), 2) + rng.normal(scale=0.2, size=labels.size)
        return paired_difference(first + change, first, labels, seed=number), 0.3

    return study


def ratio_of(rounds: int, samples: int) -> Study:
    """Seconds of two models, log-normal within 5 %; each round shifts both alike, and the second takes 1.1 as long."""

    def study(rng: RNG, number: int) -> tuple[Estimate, float]:
        shifts = np.exp(0.1 * rng.normal(size=(rounds, 1)))
        first, second = (shifts * np.exp(0.05 * rng.normal(size=(rounds, samples))) for _ in range(2))
        return ratio_of_medians(list(first), list(1.1 * second), seed=number).estimate, 1.1

    return study


DESIGNS: dict[str, Study] = {
    "mean, 8 prompts x 5 seeds": mean_of(8, 5),
    "mean, 24 prompts x 2 seeds": mean_of(24, 2),
    "mean, 128 prompts x 1 seed": mean_of(128, 1),
    "share 0.7, 24 prompts x 2 seeds": share_of(24, 0.7),
    "difference, 24 prompts x 2 seeds": difference_of(24),
    "difference, 64 prompts x 2 seeds": difference_of(64),
    "ratio of medians, 1 round x 10": ratio_of(1, 10),
    "ratio of medians, 2 rounds x 10": ratio_of(2, 10),
    "ratio of medians, 2 rounds x 60": ratio_of(2, 60),
}


def main() -> None:
    print(f"{STUDIES} studies of each design; a 95 % interval should hold the truth in 93 to 97 % of them")
    print(f"{'design':<34} {'held':>6} {'below':>6} {'above':>6} {'cpu s':>6}")
    for seed, (name, study) in enumerate(DESIGNS.items()):
        rng, start = np.random.default_rng(seed), time.process_time()
        found = [study(rng, number) for number in range(STUDIES)]
        below = sum(estimate.high < truth for estimate, truth in found) / STUDIES
        above = sum(estimate.low > truth for estimate, truth in found) / STUDIES
        spent = time.process_time() - start
        print(f"{name:<34} {1 - below - above:>6.1%} {below:>6.1%} {above:>6.1%} {spent:>6.1f}", flush=True)


if __name__ == "__main__":
    main()
