"""Intersection over union and dice of labels over all pixels of weighted pictures, so that a bootstrap can resample them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_contract.masks import NOWHERE, in_picture

__all__ = ["Pixels", "compared", "counted"]


@dataclass(frozen=True)
class Pixels:
    """Pixels of each picture and label (N, labels): truly of it, answered so, and both."""

    truth: Array
    answered: Array
    both: Array

    def mean_iou(self, weights: Array) -> float:
        """The mean over the labels that are there or answered; `weights`: of the pictures (N,). NaN without a labelled pixel."""
        found = self.ious(weights)
        return float(np.nanmean(found)) if np.isfinite(found).any() else float("nan")

    def ious(self, weights: Array) -> Array:
        """Of each label; NaN where it is neither there nor answered."""
        both = weights @ self.both
        union = weights @ self.truth + weights @ self.answered - both
        return np.where(union > 0, both / np.maximum(union, 1e-12), np.nan)

    def dices(self, weights: Array) -> Array:
        """Of each label; NaN where it is neither there nor answered."""
        total = weights @ self.truth + weights @ self.answered
        return np.where(total > 0, 2 * (weights @ self.both) / np.maximum(total, 1e-12), np.nan)


def counted(scores: Array, masks: Array) -> Pixels:
    """Count pixels of logits (N, labels, h, w) and of the truth (N, height, width); those of 255 do not count."""
    height, width = masks.shape[1:]
    answers = (in_picture(row.argmax(0).astype(np.uint8), height, width, None) for row in scores)
    return compared(answers, masks, scores.shape[1])


def compared(answers: Iterable[Array], masks: Array, labels: int) -> Pixels:
    """Count pixels of answers, (height, width) numbers of labels each, and of the truth (N, height, width), as `counted` does."""
    truth, answered, both = (np.zeros((len(masks), labels)) for _ in range(3))
    for i, answer in enumerate(answers):
        known = masks[i] != NOWHERE
        wanted, found = masks[i][known], answer[known]
        truth[i] = np.bincount(wanted, minlength=labels)
        answered[i] = np.bincount(found, minlength=labels)
        both[i] = np.bincount(wanted[found == wanted], minlength=labels)
    return Pixels(truth, answered, both)
