"""How often 95 % intervals hold the truth, over 1,000 simulated studies of each design that comparisons meet.

python tests/bench/bench_coverage.py
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from harness.stats import Estimate, Floats, clustered_mean, paired_difference, ratio_of_medians

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
        return clustered_mean(passed, np.repeat(np.arange(prompts), 2), share=True, seed=number), truth

    return study


def difference_of(prompts: int) -> Study:
    """Two models on the same prompts and seeds; the second is better by 0.3."""

    def study(rng: RNG, number: int) -> tuple[Estimate, float]:
        labels = np.repeat(np.arange(prompts), 2)
        first = rng.normal(size=labels.size)
        change = 0.3 + np.repeat(rng.normal(scale=0.4, size=prompts), 2) + rng.normal(scale=0.2, size=labels.size)
        return paired_difference(first + change, first, labels, seed=number), 0.3

    return study


def skewed_of(prompts: int) -> Study:
    """Scores with a long tail below, one clip a prompt: 1 less an exponential, as of a metric near its ceiling."""

    def study(rng: RNG, number: int) -> tuple[Estimate, float]:
        return clustered_mean(1 - 0.1 * rng.exponential(size=prompts), np.arange(prompts), seed=number), 0.9

    return study


def noise(rng: RNG, kind: str, shape: tuple[int, int]) -> Floats:
    """Seconds around 1: log-normal within 5 %, or with an exponential tail of 30 %, or with a stall in one of ten."""
    if kind == "tail":
        return 1 + 0.3 * rng.exponential(size=shape)
    steady = np.exp(0.05 * rng.normal(size=shape))
    return np.where(rng.random(shape) < 0.1, 1.5 * steady, steady) if kind == "stalls" else steady


def ratio_of(rounds: int, samples: int, kind: str = "even", start: float = 0.0) -> Study:
    """Seconds of two models; the second takes 1.1 as long.

    Each round shifts both alike by 10 %, and with `start` each arm of each round by itself, as a process does.
    """

    def study(rng: RNG, number: int) -> tuple[Estimate, float]:
        shifts = 0.1 * rng.normal(size=(rounds, 1)) + start * rng.normal(size=(2, rounds, 1))
        first, second = (np.exp(shift) * noise(rng, kind, (rounds, samples)) for shift in shifts)
        return ratio_of_medians(list(first), list(1.1 * second), seed=number).estimate, 1.1

    return study


DESIGNS: dict[str, Study] = {
    **{f"mean, {n} prompts x 2 seeds": mean_of(n, 2) for n in (2, 3, 6, 12, 24)},
    "mean, 8 prompts x 5 seeds": mean_of(8, 5),
    "mean, 128 prompts x 1 seed": mean_of(128, 1),
    "mean, long tail, 64 prompts": skewed_of(64),
    **{f"share {p}, {n} prompts x 2 seeds": share_of(n, p) for p, n in ((0.7, 12), (0.7, 24), (0.95, 24), (0.98, 48))},
    **{f"difference, {n} prompts x 2 seeds": difference_of(n) for n in (6, 24, 64)},
    "ratio, 1 round x 10": ratio_of(1, 10),
    "ratio, 1 round x 60": ratio_of(1, 60),
    "ratio, 1 round x 10, tail": ratio_of(1, 10, "tail"),
    "ratio, 1 round x 10, stalls": ratio_of(1, 10, "stalls"),
    **{f"ratio, {rounds} rounds x 10": ratio_of(rounds, 10) for rounds in (2, 3, 4)},
    "ratio, 2 rounds x 60": ratio_of(2, 60),
    "ratio, 4 rounds x 1": ratio_of(4, 1),
    **{f"ratio, {rounds} rounds x 10, starts": ratio_of(rounds, 10, start=0.03) for rounds in (2, 3, 4)},
    "ratio, 3 rounds x 10, tail": ratio_of(3, 10, "tail"),
    "ratio, 3 rounds x 10, stalls": ratio_of(3, 10, "stalls"),
}

BEYOND: dict[str, Study] = {
    **{f"mean, long tail, {n} prompts": skewed_of(n) for n in (6, 24)},
    "ratio, 1 round x 10, starts": ratio_of(1, 10, start=0.03),
}
"""What an interval cannot hold: the tail of few prompts, and what other starts would give, from one."""


def report(designs: dict[str, Study]) -> None:
    """Print a line a design: shares of studies whose interval holds the truth, lies below and above it; half-width."""
    for seed, (name, study) in enumerate(designs.items()):
        rng, begin = np.random.default_rng(seed), time.process_time()
        found = [study(rng, number) for number in range(STUDIES)]
        below = sum(estimate.high < truth for estimate, truth in found) / STUDIES
        above = sum(estimate.low > truth for estimate, truth in found) / STUDIES
        width = np.median(
            [(estimate.high - estimate.low) / 2 / truth if truth else np.nan for estimate, truth in found]
        )
        spent = time.process_time() - begin
        line = f"{name:<34} {1 - below - above:>6.1%} {below:>6.1%} {above:>6.1%} {width:>8.1%} {spent:>6.1f}"
        print(line, flush=True)


def main() -> None:
    print(f"{STUDIES} studies of each design; a 95 % interval should hold the truth in 93 to 97 % of them.")
    print("The interval of two rounds holds it by being wide (half-width, of the truth): compare speeds over four.")
    print(f"{'design':<34} {'held':>6} {'below':>6} {'above':>6} {'half':>8} {'cpu s':>6}")
    report(DESIGNS)
    print("What intervals do not hold, and say so:")
    report(BEYOND)


if __name__ == "__main__":
    main()
