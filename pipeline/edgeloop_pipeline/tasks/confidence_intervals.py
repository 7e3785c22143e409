"""Computes metrics and their 95 % intervals."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from edgeloop_contract.arrays import Array

if TYPE_CHECKING:
    from edgeloop_contract.manifest import Estimate

RESAMPLES = 2000


def bootstrap(statistic: Callable[[Array], float], clusters: Array, resamples: int = RESAMPLES) -> Estimate:
    """A `statistic` of sample weights (N,) and its 95 % interval, by percentile bootstrap over `clusters` (Field & Welsh 2007).

    Errors of windows of one recording are correlated, so whole recordings are resampled.
    """
    from edgeloop_contract.manifest import Estimate

    _, index = np.unique(clusters, return_inverse=True)
    count = int(index.max()) + 1
    generator = np.random.default_rng(0)
    found = np.empty(resamples)
    for i in range(resamples):
        drawn = np.bincount(generator.integers(0, count, count), minlength=count).astype(np.float64)
        found[i] = statistic(drawn[index])
    low, high = np.nanpercentile(found, [2.5, 97.5])
    return Estimate(value=statistic(np.ones(len(index))), low=float(low), high=float(high), samples=len(index))


def share(correct: Array) -> Callable[[Array], float]:
    hits = correct.astype(np.float64)
    return lambda weights: float(weights @ hits / weights.sum())


def r2(answers: Array, truth: Array) -> Callable[[Array], float]:
    """The coefficient of determination, as the mean over quantities; both (N, quantities). NaN if the truth is constant."""
    squared = (answers - truth) ** 2

    def weighted(weights: Array) -> float:
        total = weights.sum()
        spread = weights @ truth**2 - (weights @ truth) ** 2 / total
        with np.errstate(divide="ignore", invalid="ignore"):
            return float(np.mean(1 - (weights @ squared) / np.where(spread > 1e-12 * total, spread, np.nan)))

    return weighted


def auc(scores: Array, positive: Array) -> Callable[[Array], float]:
    """The area under the ROC curve: how often a positive scores above a negative; ties count half (Mann & Whitney 1947)."""
    _, place = np.unique(scores, return_inverse=True)
    places, is_positive = int(place.max()) + 1, positive.astype(np.float64)

    def weighted(weights: Array) -> float:
        above = np.bincount(place, weights * is_positive, places)
        below = np.bincount(place, weights * (1 - is_positive), places)
        pairs = above.sum() * below.sum()
        return float(above @ (np.cumsum(below) - below / 2) / pairs) if pairs else float("nan")

    return weighted
