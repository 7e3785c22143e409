"""Average precision of each label over weighted samples, so that a bootstrap can resample them; and the thresholds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_contract.tasks import NOT_KNOWN

__all__ = ["Ranking", "best_thresholds"]

TINY = 1e-12


@dataclass(frozen=True)
class Ranking:
    """The samples of each label in the order of their scores, best first; all (N, labels).

    `order`: numbers of samples. `has`, `known`: 0 or 1. `last`: the place of the last sample with an equal score.
    """

    order: Array
    has: Array
    known: Array
    last: Array

    @classmethod
    def of(cls, scores: Array, truth: Array) -> Ranking:
        """`scores`: (N, labels); `truth`: 1, 0, or 255 for what is not known."""
        scores = scores.reshape(truth.shape)
        order = np.argsort(-scores, axis=0, kind="stable")
        ordered, wanted = (np.take_along_axis(values, order, 0) for values in (scores, truth))
        count = np.arange(len(scores))[:, None]
        ends = np.concatenate([ordered[1:] != ordered[:-1], np.ones((1, scores.shape[1]), bool)])
        last = np.minimum.accumulate(np.where(ends, count, len(scores))[::-1], axis=0)[::-1]
        return cls(order, (wanted == 1).astype(np.float64), (wanted != NOT_KNOWN).astype(np.float64), last)

    def precisions(self, weights: Array) -> Array:
        """The average precision of each label; NaN for one that no sample has. `weights`: of the samples (N,).

        The mean over samples with the label of the precision down to their score; equal scores go together, as scikit-learn's.
        """
        weight = weights[self.order]
        hits, seen = (np.cumsum(weight * part, 0) for part in (self.has, self.known))
        precision = np.take_along_axis(hits / np.maximum(seen, TINY), self.last, 0)
        total = hits[-1]
        return np.where(total > 0, (weight * self.has * precision).sum(0) / np.maximum(total, TINY), np.nan)

    def mean(self, weights: Array) -> float:
        """The mean average precision over the labels that a sample has; NaN without one."""
        found = self.precisions(weights)
        return float(np.nanmean(found)) if np.isfinite(found).any() else float("nan")


def best_thresholds(shares: Array, truth: Array) -> Array:
    """The probability from which on each label's F1 is highest, in the middle of two neighbours; 0.5 for a label that none has.

    `shares`: probabilities (N, labels); `truth`: 1, 0, or 255 for what is not known.
    """
    found = np.full(shares.shape[1], 0.5)
    for label in range(shares.shape[1]):
        known = truth[:, label] != NOT_KNOWN
        score, has = shares[known, label], truth[known, label] == 1
        if not has.any():
            continue
        order = np.argsort(-score, kind="stable")
        score, hits = score[order], np.cumsum(has[order])
        f1 = 2 * hits / (np.arange(1, len(hits) + 1) + hits[-1])
        f1[:-1][score[1:] == score[:-1]] = -1.0  # equal scores cannot be told apart
        at = int(f1.argmax())
        below = score[at + 1] if at + 1 < len(score) else 0.0
        found[label] = (score[at] + below) / 2
    return np.clip(found, 0.001, 0.999)
