"""The cascade's threshold: below this confidence, the small model asks the large one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np

from edgeloop_agent.answers import softmax

if TYPE_CHECKING:
    from edgeloop_contract.arrays import Array

Z = 1.645  # for a one-sided 95 % interval


class Point(msgspec.Struct, frozen=True):
    """A threshold and its effect: samples with a lower confidence are sent (`share`), which gives `accuracy`.

    `max_loss` (against the large model alone) and `max_share` are the upper ends of one-sided 95 % intervals.
    """

    threshold: float
    share: float
    accuracy: float
    max_loss: float = 1.0
    max_share: float = 1.0


def curve(small: Array, large: Array, labels: Array) -> list[Point]:
    """A point for every threshold that separates samples, beginning with none sent. Scores (N, classes), labels (N,)."""
    confidence = softmax(small).max(axis=1)
    order = np.argsort(confidence, kind="stable")
    confidence = confidence[order]
    small_right, large_right = ((scores.argmax(axis=1) == labels)[order] for scores in (small, large))
    right = np.concatenate([[0], np.cumsum(large_right)]) + np.concatenate([np.cumsum(small_right[::-1])[::-1], [0]])
    lost, gained = (_kept(a & ~b) for a, b in ((large_right, small_right), (small_right, large_right)))
    max_loss = (lost - gained + Z**2 / 2 + Z * np.sqrt(lost + gained + Z**2 / 4)) / len(labels)  # a score interval for counts
    count, points = len(labels), [Point(0.0, 0.0, float(small_right.mean()), float(max_loss[0]), 0.0)]
    for sent in range(1, count + 1):
        if sent == count or confidence[sent] > confidence[sent - 1]:  # equal confidences are sent together
            between = float(confidence[sent - 1] + confidence[sent]) / 2 if sent < count else 1.1
            loss = float(max_loss[sent]) if sent < count else 0.0
            max_share = sent / count + Z * np.sqrt(sent * (count - sent) / count**3)
            points.append(Point(between, sent / count, float(right[sent] / count), loss, float(max_share)))
    return points


def _kept(which: Array) -> Array:
    """The number of these samples that are not sent, for each count of sent samples."""
    return np.concatenate([np.cumsum(which[::-1])[::-1], [0]]).astype(float)


def chosen(points: list[Point], max_loss: float, max_share: float) -> Point:
    """The point with the smallest share that provably loses at most `max_loss` against the large model alone. If none does: the
    one up to `max_share` with the lowest `max_loss`, not the most accurate: few hundred samples often show no loss by chance.
    `max_share` holds at 95 % confidence too.
    """
    allowed = [p for p in points if p.max_share <= max_share]
    enough = [p for p in allowed if p.max_loss <= max_loss]
    return min(enough, key=lambda p: p.share) if enough else min(allowed, key=lambda p: (p.max_loss, -p.share))


def at(threshold: float, small: Array, large: Array, labels: Array) -> Point:
    """The effect of a given threshold on these samples."""
    sent = softmax(small).max(axis=1) < threshold
    answers = np.where(sent, large.argmax(axis=1), small.argmax(axis=1))
    return Point(threshold, float(sent.mean()), float((answers == labels).mean()))
