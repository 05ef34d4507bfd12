"""Intervals of shares and of their paired differences that do not shrink to a point where every clip agrees.

Clips of one prompt are one cluster. Whatever a study of independent clips would use is used at an effective number of
clips: the number divided by the design effect, the variance over prompts relative to that of independent clips. Chosen
by simulation among Wald, adjusted Wald and score intervals (`tests/bench/bench_coverage.py`). Pure; scipy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

Floats = NDArray[np.float64]

PSEUDO_PROMPTS = 0.5
"""Prompts, whose clips all go one way, that are added to the design effect alone. Where few clips differ from the
others, they do not show how clips of a prompt go together: without this the interval of five seeds a prompt covers the
truth in 89 % of studies. In the simulation all designs hold from a quarter to one."""


@dataclass(frozen=True, slots=True)
class PairedShares:
    """The difference of two shares, second less first, over `count` effective pairs.

    Attributes:
        value: the difference. low, high: its interval.
        discordance: share of pairs that differ.
        p: two-sided, of no difference: McNemar's test, which is the interval's at 0. Without any pair that differs, 1.
    """

    value: float
    low: float
    high: float
    discordance: float
    count: float
    p: float


def share_interval(sums: Floats, sizes: Floats, level: float) -> tuple[float, float]:
    """Interval of a share from each cluster's sum of values between 0 and 1, and its number of clips.

    Clopper and Pearson's exact interval at the effective number of clips (Korn and Graubard, Confidence Intervals for
    Proportions with Small Expected Number of Positive Counts Estimated from Survey Data, 1998). With one clip a prompt
    its coverage is at least the stated one; Wilson's falls to 83 % for a share of 0.97 of 6 prompts.
    """
    total = float(sizes.sum())
    share = min(1.0, float(sums.sum()) / total)
    count = _effective_count(sums - share * sizes, sizes, total * share * (1 - share))
    passes, failures = share * count, (1 - share) * count
    tail = (1 - level) / 2
    low = float(stats.beta.ppf(tail, passes, failures + 1)) if passes > 0 else 0.0
    high = float(stats.beta.isf(tail, passes + 1, failures)) if failures > 0 else 1.0
    return low, high


def paired_shares(gains: Floats, losses: Floats, sizes: Floats, level: float) -> PairedShares:
    """The difference of two shares from each cluster's pairs.

    Args:
        gains, losses: [clusters] sums of the positive and of the negative differences, both as positive numbers.
        sizes: [clusters] pairs.

    Tango's score interval (Equivalence Test and Confidence Interval for the Difference in Proportions for the
    Paired-Sample Design, Statistics in Medicine 17, 1998) at the effective number of pairs. Where no pair differs it
    is [-z^2 / (n + z^2), z^2 / (n + z^2)] over n prompts.
    """
    total = float(sizes.sum())
    gain, loss = float(gains.sum()) / total, float(losses.sum()) / total
    value = gain - loss
    count = _effective_count(gains - losses - value * sizes, sizes, total * (gain + loss - value**2))
    reach = float(special.ndtri((1 + level) / 2))
    low, high = (_score_limit(gain, loss, count, reach, end) for end in (-1.0, 1.0))
    p = float(2 * special.ndtr(-abs(_score(gain, loss, count, 0.0))))
    return PairedShares(value, low, high, gain + loss, count, p)


def _effective_count(residuals: Floats, sizes: Floats, variance: float) -> float:
    """Independent clips that would leave a mean as uncertain as these; never fewer than prompts, nor more than clips.

    Args:
        residuals: [clusters] sums of deviations from the mean.
        sizes: [clusters] clips. Prompts of unequal size count as in Kish, Survey Sampling, 1965, section 8.2.
        variance: what the squares of single deviations would sum to, if each clip were 0 or 1 (a pair -1, 0 or 1).
    """
    total, clusters = float(sizes.sum()), sizes.size
    # The mean size of a prompt's set as its clips see it: Kish's, for sets of unequal size.
    size = float(np.square(sizes).sum()) / total
    between = clusters / (clusters - 1) * float(np.square(residuals).sum())
    effect = (between + PSEUDO_PROMPTS * size**2) / (max(0.0, variance) + PSEUDO_PROMPTS * size)
    return float(np.clip(total / effect, total / size, total))


def _score(gain: float, loss: float, count: float, difference: float) -> float:
    """Tango's statistic of a true `difference`: standard normal, from shares of pairs that gained and lost."""
    excess = gain - loss - difference
    if excess == 0:
        return 0.0
    # The likeliest share of losing pairs under `difference` is the larger root of 2 q^2 + linear q + constant = 0.
    linear = (2 - gain + loss) * difference - gain - loss
    constant = -loss * difference * (1 - difference)
    discordant_losses = (math.sqrt(max(0.0, linear**2 - 8 * constant)) - linear) / 4
    variance = 2 * discordant_losses + difference * (1 - difference)
    return math.sqrt(count) * excess / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, excess)


def _score_limit(gain: float, loss: float, count: float, reach: float, end: float) -> float:
    """Where the statistic is `reach`, between the observed difference and `end`, which is -1 or 1."""
    value = gain - loss

    def beyond(difference: float) -> float:
        # The statistic is infinite where its variance is 0, and a root finder needs finite values.
        return min(abs(_score(gain, loss, count, difference)), 1e3) - reach

    if abs(value - end) < 1e-12 or beyond(end) <= 0:
        return end
    return float(optimize.brentq(beyond, value, end, xtol=1e-10))


def smallest_share_difference(discordance: float, count: float, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """The true difference of shares that McNemar's test finds with probability `power` over `count` effective pairs.

    From the delta method: with a share psi of pairs that differ, by a difference d = r psi, the statistic is normal
    around sqrt(n psi) r with variance 1 - (3 + psi) r^2 / 4. psi is `discordance`, or d where that is larger. NaN
    where fewer pairs cannot show even a difference of 1.
    """

    def shortfall(difference: float) -> float:
        differing = max(discordance, difference)
        ratio = difference / differing
        deviation = math.sqrt(max(0.0, 1 - (3 + differing) * ratio**2 / 4))
        critical = special.ndtri(1 - alpha / 2) + special.ndtri(power) * deviation
        return float(math.sqrt(count * differing) * ratio - critical)

    return float(optimize.brentq(shortfall, 1e-9, 1.0)) if shortfall(1.0) >= 0 else float("nan")
