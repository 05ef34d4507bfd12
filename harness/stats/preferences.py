"""The strengths of arms behind votes between two, ties allowed: Bradley and Terry's model, as of Davidson (1970).

An arm of strength s wins against one of strength t with odds of exp(s - t) to 1, ties aside. Strengths sum to 0.

The likelihood is penalised: as many votes as the model has parameters are added, in equal parts for each answer to each
pair that was compared. So an arm that always wins stays finite, at a distance that grows with the number of votes, and
the bias of small studies shrinks, as to first order under Firth's penalty (Bias Reduction of Maximum Likelihood
Estimates, 1993). choix fits neither ties nor many resamples at once; its `opt_pairwise` leaves an arm that always wins
at a distance that its default penalty alone decides. Pure; numpy.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.stats.crossed import RESAMPLES, Crossed, crossed

Floats = NDArray[np.float64]
FIRST, TIE, SECOND = 0, 1, 2
"""Answers: the first arm is better, neither, the second."""
STEPS = 60
LARGEST_STEP = 2.0
"""Longest change of a parameter in a step, so that Newton's method stays where the likelihood is nearly a parabola."""


class BradleyTerry:
    """The model of the arms that `pairs` compares, each a (first, second) of arms numbered from 0.

    Args:
        pairs: all that a study compares, whether or not it has votes for each. They connect all arms.
        ties: whether an answer may be a tie.
    """

    def __init__(self, pairs: Sequence[tuple[int, int]], ties: bool = True) -> None:
        arms = max(map(max, pairs)) + 1
        self.arms = arms
        self.answers = (FIRST, TIE, SECOND) if ties else (FIRST, SECOND)
        # Strengths that sum to 0 are arms - 1 free numbers; the last parameter is how likely a tie is.
        self._basis = np.linalg.svd(np.eye(arms) - 1 / arms)[0][:, : arms - 1]
        design = np.zeros((len(pairs), 3, arms + 1))
        for number, (first, second) in enumerate(pairs):
            design[number, FIRST, [first, second]] = 0.5, -0.5
            design[number, SECOND, [first, second]] = -0.5, 0.5
            design[number, TIE, arms] = 1
        free = np.zeros((arms + 1, arms))
        free[:arms, : arms - 1], free[arms, arms - 1] = self._basis, 1
        self._design = (design @ free[:, : arms if ties else arms - 1])[:, self.answers]
        parameters = self._design.shape[-1]
        self._added = parameters / self._design[..., 0].size
        self._features = 3 * len(pairs)

    def features(self, pairs: ArrayLike, answers: ArrayLike) -> Floats:
        """Votes as rows whose sums `fit` takes: `pairs` and `answers` [votes], numbers of pairs and `FIRST` etc."""
        pair_numbers, codes = np.asarray(pairs, np.int64), np.asarray(answers, np.int64)
        rows = np.zeros((pair_numbers.size, self._features))
        rows[np.arange(pair_numbers.size), 3 * pair_numbers + codes] = 1
        return rows

    def fit(self, totals: Floats) -> Floats:
        """Strengths [studies, arms] from sums of features [studies, 3 pairs]."""
        parameters = self._parameters(self._counts(totals))
        return np.asarray(parameters[:, : self.arms - 1] @ self._basis.T)

    def strengths(
        self,
        pairs: ArrayLike,
        answers: ArrayLike,
        raters: ArrayLike,
        prompts: ArrayLike,
        *,
        resamples: int = RESAMPLES,
        seed: int = 0,
    ) -> Crossed:
        """Strengths of the arms from votes [votes] by `raters` on `prompts`, with what they vary by."""
        rows = self.features(pairs, answers)
        counts = self._counts(rows.sum(axis=0)[None])
        _, information = self._derivatives(self._parameters(counts), counts)
        spread = np.linalg.inv(information[0])[: self.arms - 1, : self.arms - 1]
        # Where all votes agree, resamples do too; their information still says how little that shows.
        floor = self._basis @ spread @ self._basis.T
        return crossed(rows, raters, prompts, self.fit, floor=floor, resamples=resamples, seed=seed)

    def _counts(self, totals: Floats) -> Floats:
        """[studies, pairs, answers] votes with those that the penalty adds."""
        return np.asarray(totals.reshape(len(totals), -1, 3)[..., list(self.answers)] + self._added)

    def _parameters(self, counts: Floats) -> Floats:
        """The likeliest parameters [studies, parameters]. The likelihood is concave, and Newton's method climbs it."""
        parameters = np.zeros((len(counts), self._design.shape[-1]))
        for _ in range(STEPS):
            slope, information = self._derivatives(parameters, counts)
            step = np.linalg.solve(information, slope[..., None])[..., 0]
            longest = np.abs(step).max(axis=1, initial=0.0, keepdims=True)
            parameters += step * np.minimum(1.0, LARGEST_STEP / np.maximum(longest, 1e-300))
            if longest.max() < 1e-9:
                break
        return parameters

    def _derivatives(self, parameters: Floats, counts: Floats) -> tuple[Floats, Floats]:
        """Slope [studies, parameters] of the likelihood and minus its curvature [studies, parameters, parameters]."""
        logits = np.einsum("pak,sk->spa", self._design, parameters)
        chances = np.exp(logits - logits.max(axis=2, keepdims=True))
        chances /= chances.sum(axis=2, keepdims=True)
        sizes = counts.sum(axis=2)
        slope = np.einsum("spa,pak->sk", counts - sizes[..., None] * chances, self._design)
        weighted = chances * sizes[..., None]
        mean = np.einsum("spa,pak->spk", chances, self._design)
        information = np.einsum("spa,pak,pal->skl", weighted, self._design, self._design, optimize=True)
        information -= np.einsum("sp,spk,spl->skl", sizes, mean, mean, optimize=True)
        return slope, information
