"""How often 95 % intervals hold the truth, over 1,000 simulated studies of each design that comparisons meet.

Of shares and their paired differences also how often SAME is said wrongly, and how many prompts it takes.

python tests/bench/bench_coverage.py
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from itertools import product
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from harness.stats.estimates import Effect, Estimate, clustered_mean, paired_effect, ratio_of_medians
from harness.stats.proportions import Floats

STUDIES = 1000
STUDIES_OF_SHARES = 4000
RNG = np.random.Generator
Result = TypeVar("Result")
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
        return paired_effect(first, first + change, labels, seed=number).estimate, 0.3

    return study


def rarely_of(prompts: int, chance: float) -> Study:
    """Scores that are equal but for the few prompts, `chance` of them, on which the second model falls by 0.5.

    Where none does there is no interval, which counts as holding.
    """

    def study(rng: RNG, number: int) -> tuple[Estimate, float]:
        first = rng.random(prompts)
        fall = 0.5 * (rng.random(prompts) < chance)
        return paired_effect(first, first - fall, np.arange(prompts), seed=number).estimate, -0.5 * chance

    return study


def frames_of(prompts: int) -> Study:
    """Shares of the frames of a clip that pass, two clips a prompt, and two models: 0.99 and 0.96 of all frames."""

    def study(rng: RNG, number: int) -> tuple[Estimate, float]:
        labels = np.repeat(np.arange(prompts), 2)
        first, second = (
            np.where(rng.random(labels.size) < 2 * lost, rng.random(labels.size), 1.0) for lost in (0.01, 0.04)
        )
        return paired_effect(first, second, labels, share=True).estimate, -0.03

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
    **{f"difference, 1 of 20 falls, {n}": rarely_of(n, 0.05) for n in (6, 24, 128)},
    **{f"frames of .99 and .96, {n} x 2": frames_of(n) for n in (6, 24, 64)},
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
        width = np.nanmedian([(estimate.high - estimate.low) / 2 / abs(truth) for estimate, truth in found])
        spent = time.process_time() - begin
        line = f"{name:<34} {1 - below - above:>6.1%} {below:>6.1%} {above:>6.1%} {width:>8.1%} {spent:>6.1f}"
        print(line, flush=True)


# ------------------------------------------------------------------------------------- shares


PROMPTS, SEEDS = (6, 12, 24, 48, 128), (1, 2, 5)
PAIRS = ((1.0, 0.9), (1.0, 0.97), (0.99, 0.96), (0.98, 0.93), (1.0, 1.0), (0.0, 0.0), (0.0, 0.03), (0.5, 0.5))
TIES = {"loose": (0.1, 0.05), "some": (0.3, 0.2), "tight": (0.3, 0.55), "whole": (0.2, 0.8)}
"""Parts of the variance behind a clip's passing that all clips of a prompt share, and that those of one arm do."""


PAIRED = f"""Paired differences of shares, {STUDIES_OF_SHARES:,} studies of each. Arms share a part of prompt and clip;
clips of a prompt go together loosely, some, tightly or wholly. SAME: said with the floor just below the true
difference, so wrongly, in the worst of the four; with a floor of 0 where the shares are equal. Where clips go together
some: shown, p <= 0.05; half, the half-width; differ, how many pairs differ. > more than 97 % hold, as so few pairs
differ that their whole numbers leave no interval between, or as few prompts do not tell how far their seeds go
together. ! fewer than 93 % hold, by more than twice the standard error of {STUDIES_OF_SHARES:,} studies, 0.4 %."""


def passes(rng: RNG, prompts: int, seeds: int, shares: tuple[float, float], tie: str) -> Floats:
    """Passes [studies, prompts, seeds, arms]: normal numbers made of shared parts, below the threshold of a share.

    Clips of one prompt and seed share half of what the prompt leaves, up to a tenth.
    """
    prompt, own = TIES[tie]
    pair = min(0.1, (1 - prompt - own) / 2)
    shape = (STUDIES_OF_SHARES, prompts, seeds, 2)
    total = math.sqrt(max(0.0, 1 - prompt - own - pair)) * rng.normal(size=shape)
    for part, size in ((prompt, (*shape[:2], 1, 1)), (own, (*shape[:2], 1, 2)), (pair, (*shape[:3], 1))):
        total += math.sqrt(part) * rng.normal(size=size)
    return np.asarray(total < stats.norm.ppf(shares), dtype=np.float64)


def each_once(drawn: Floats, result: Callable[[Floats, NDArray[np.int64]], Result]) -> list[Result]:
    """`result` of the samples and prompts of every study, worked out once for those that differ in order alone.

    Args:
        drawn: [studies, prompts, seeds, ...].
    """
    studies, prompts, seeds = drawn.shape[:3]
    arms = drawn.reshape(studies, prompts, seeds, -1)
    kinds = (arms @ 2.0 ** np.arange(arms.shape[-1])).astype(np.int64)
    counted = (8.0**kinds).sum(axis=2)  # of up to seven seeds, how many are of each kind
    _, first, which = np.unique(np.sort(counted, axis=1), axis=0, return_index=True, return_inverse=True)
    labels = np.repeat(np.arange(prompts), seeds)
    found = [result(arms[number].reshape(prompts * seeds, -1), labels) for number in first]
    return [found[number] for number in which.ravel()]


def effects(rng: RNG, prompts: int, seeds: int, shares: tuple[float, float], tie: str) -> list[Effect]:
    """The paired effect of every study."""
    drawn = passes(rng, prompts, seeds, shares, tie)
    return each_once(drawn, lambda arms, labels: paired_effect(arms[:, 0], arms[:, 1], labels, share=True))


def said(shares: list[float]) -> str:
    """Shares as percentages; `>` where more than 97 % hold, `!` where fewer than 93 % do, beyond chance."""
    least = 0.93 - 2 * math.sqrt(0.93 * 0.07 / STUDIES_OF_SHARES)
    return " ".join(f"{share:>6.1%}{'>' if share > 0.97 else '!' if share < least else ' '}" for share in shares)


def report_pairs() -> tuple[float, float]:
    """Print a line for two shares, a number of prompts and of seeds; the lowest share held and the highest of SAME."""
    print(
        f"{'shares, prompts x seeds':<26} {'held: ' + ', '.join(TIES):<31} {'SAME':>5} {'shown':>6} {'half':>6} differ"
    )
    lowest, wrongly = 1.0, 0.0
    for shares, prompts, seeds in product(PAIRS, PROMPTS, SEEDS):
        truth, floor = shares[1] - shares[0], abs(shares[1] - shares[0]) * (1 - 1e-9)
        found = {
            tie: effects(np.random.default_rng(number), prompts, seeds, shares, tie) for number, tie in enumerate(TIES)
        }
        ends = {t: np.array([(e.estimate.low, e.estimate.high) for e in es]) for t, es in found.items()}
        held = [float(np.mean((e[:, 0] <= truth + 1e-9) & (e[:, 1] >= truth - 1e-9))) for e in ends.values()]
        same = max(float(np.mean((e[:, 0] >= -floor) & (e[:, 1] <= floor))) for e in ends.values())
        shown = np.mean([e.p <= 0.05 for e in found["some"]])
        half = np.median(ends["some"] @ [-0.5, 0.5])
        differ = np.mean([e.discordance for e in found["some"]]) * prompts * seeds
        name = f"{shares[0]:.2f} {shares[1]:.2f}, {prompts:>3} x {seeds}"
        print(f"{name:<26} {said(held)} {same:>5.1%} {shown:>6.1%} {half:>6.3f} {differ:>6.1f}", flush=True)
        lowest, wrongly = min(lowest, *held), max(wrongly, same)
    return lowest, wrongly


def report_single() -> float:
    """Print a line for a share, a number of prompts and of seeds; the lowest share of studies that hold."""
    print(f"{'share, prompts x seeds':<26} held: {', '.join(TIES)}")
    lowest = 1.0
    for share, prompts, seeds in product((0.7, 0.9, 0.97, 0.99, 0.995), PROMPTS, SEEDS):
        held = []
        for number, tie in enumerate(TIES):
            drawn = passes(np.random.default_rng(number), prompts, seeds, (share, share), tie)[..., :1]
            found = each_once(drawn, lambda arm, labels: clustered_mean(arm[:, 0], labels, share=True))
            held.append(float(np.mean([e.low <= share <= e.high for e in found])))
        lowest = min(lowest, *held)
        print(f"{f'{share:.3f}, {prompts:>3} x {seeds}':<26} {said(held)}", flush=True)
    return lowest


def report_power() -> None:
    """Print how often SAME is said of shares that are the same, by floor and number of prompts."""
    counts, floors = (24, 48, 96, 128, 192, 256, 384), (0.02, 0.05)
    print(f"{'shares, seeds, floor':<26}" + "".join(f"{count:>7}" for count in counts) + "  prompts")
    for share, seeds, floor in product((1.0, 0.98, 0.9), (1, 2), floors):
        row = []
        for prompts in counts:
            found = effects(np.random.default_rng(prompts), prompts, seeds, (share, share), "some")
            row.append(np.mean([-floor <= e.estimate.low and e.estimate.high <= floor for e in found]))
        print(
            f"{f'{share:.2f} {share:.2f}, {seeds}, {floor}':<26}" + "".join(f"{same:>7.1%}" for same in row), flush=True
        )


def report_shares() -> None:
    print()
    print(PAIRED)
    lowest, wrongly = report_pairs()
    print(f"At the least {lowest:.1%} hold; SAME is said wrongly in {wrongly:.1%} at the most.")
    print()
    print(
        "Shares of one arm. The interval is exact with one clip a prompt: at least 95 % hold, and as many more as the"
    )
    print("whole numbers of clips force.")
    print(f"At the least {report_single():.1%} hold.")
    print()
    print("How often SAME is said, rightly, of shares that are the same (ties: some).")
    report_power()


def main() -> None:
    print(f"{STUDIES} studies of each design; a 95 % interval should hold the truth in 93 to 97 % of them.")
    print("The interval of two rounds holds it by being wide (half-width, of the truth): compare speeds over four.")
    print(f"{'design':<34} {'held':>6} {'below':>6} {'above':>6} {'half':>8} {'cpu s':>6}")
    report(DESIGNS)
    print("What intervals do not hold, and say so:")
    report(BEYOND)
    report_shares()


if __name__ == "__main__":
    main()
