"""Several labels a sample as the agent answers them, and what the drift monitor watches of them."""

from __future__ import annotations

import msgspec
import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_contract.drift import MAX_ANSWERS
from edgeloop_contract.tasks import NOT_KNOWN, Multilabel

__all__ = ["Label", "count_right", "label_answers", "label_feature_names", "label_features", "probabilities_of"]

DIGITS = 4
MAX_LOGIT = 16.0  # of a probability that is 0 or 1


class Label(msgspec.Struct, frozen=True):
    """One label that a sample has. `score`: its probability, 0 to 1, which is the label's threshold or more."""

    label: str
    score: float


def probabilities_of(task: Multilabel, scores: Array) -> Array:
    """The probability of each label, of scores (..., labels)."""
    if task.scores == "probabilities":
        return np.clip(scores.astype(np.float64), 0.0, 1.0)
    return np.asarray(1 / (1 + np.exp(-np.clip(scores.astype(np.float64), -60, 60))))


def label_answers(task: Multilabel, scores: Array) -> list[Label]:
    """The labels of one sample with scores (1, labels), the most probable first; [] where it has none."""
    shares = probabilities_of(task, scores.reshape(-1))
    there = np.flatnonzero(shares >= task.thresholds)
    best = there[np.argsort(-shares[there], kind="stable")]
    return [Label(task.labels[i], round(float(shares[i]), DIGITS)) for i in best.tolist()]


def count_right(task: Multilabel, scores: Array, truth: Array) -> int:
    """How many known labels of samples with scores (N, labels) are answered as `truth` (N, labels) says: 1, 0, 255 not known."""
    answered = probabilities_of(task, scores.reshape(truth.shape)) >= task.thresholds
    return int((answered == truth)[truth != NOT_KNOWN].sum())


def label_feature_names(task: Multilabel) -> list[str]:
    """Names of the features that `label_features` returns."""
    each = [f"score of {name}" for name in task.labels] if len(task.labels) <= MAX_ANSWERS else ["largest score"]
    return ["log labels", "score of labels", *each, "confidence"]


def label_features(task: Multilabel, scores: Array) -> tuple[Array, float]:
    """Features of the answer to one sample with scores (1, labels), and the confidence in it (0 to 1).

    The number of labels, their mean probability (without one that of the most probable), and each label's logit. The confidence is
    that in the most doubtful label: 0.5 at its threshold, 1 where its probability is 0 or 1.
    """
    row = scores.reshape(-1)
    shares, limits = probabilities_of(task, row), np.clip(np.asarray(task.thresholds), 1e-6, 1 - 1e-6)
    there = shares >= task.thresholds
    mean = float(shares[there].mean() if there.any() else shares.max())
    odds = row if task.scores == "logits" else np.log(np.maximum(shares, 1e-9) / np.maximum(1 - shares, 1e-9))
    logits = np.clip(odds.astype(np.float64), -MAX_LOGIT, MAX_LOGIT)
    each = logits if len(logits) <= MAX_ANSWERS else logits.max(keepdims=True)
    beyond = np.where(there, (shares - limits) / (1 - limits), (limits - shares) / limits)
    sure = float(np.clip(0.5 + beyond.min() / 2, 0.5, 1.0))
    return np.array([np.log1p(there.sum()), mean, *each, sure]), sure
