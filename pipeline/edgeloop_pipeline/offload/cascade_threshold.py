"""When a small model asks a large one: the least confidence with which its own answer stands."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np

from edgeloop_agent.answers import softmax

if TYPE_CHECKING:
    from edgeloop_contract.arrays import Array

Z = 1.645  # of a one-sided 95 % interval


class Point(msgspec.Struct, frozen=True):
    """Samples whose confidence is below `threshold` are sent: `share` of them, and `accuracy` comes out.

    `max_loss`: against the large model alone, and `max_share`: the upper ends of one-sided 95 % intervals.
    """

    threshold: float
    share: float
    accuracy: float
    max_loss: float = 1.0
    max_share: float = 1.0


def curve(small: Array, large: Array, labels: Array) -> list[Point]:
    """Every threshold that tells samples apart, from sending nothing on. Scores (N, classes), labels (N,)."""
    confidence = softmax(small).max(axis=1)
    order = np.argsort(confidence, kind="stable")
    confidence = confidence[order]
    small_right, large_right = ((scores.argmax(axis=1) == labels)[order] for scores in (small, large))
    right = np.concatenate([[0], np.cumsum(large_right)]) + np.concatenate([np.cumsum(small_right[::-1])[::-1], [0]])
    lost, gained = (_kept(a & ~b) for a, b in ((large_right, small_right), (small_right, large_right)))
    max_loss = (lost - gained + Z**2 / 2 + Z * np.sqrt(lost + gained + Z**2 / 4)) / len(labels)  # a score interval of counts
    count, points = len(labels), [Point(0.0, 0.0, float(small_right.mean()), float(max_loss[0]), 0.0)]
    for sent in range(1, count + 1):
        if sent == count or confidence[sent] > confidence[sent - 1]:  # equal confidences are sent together
            between = float(confidence[sent - 1] + confidence[sent]) / 2 if sent < count else 1.1
            loss = float(max_loss[sent]) if sent < count else 0.0
            max_share = sent / count + Z * np.sqrt(sent * (count - sent) / count**3)
            points.append(Point(between, sent / count, float(right[sent] / count), loss, float(max_share)))
    return points


def _kept(which: Array) -> Array:
    """How many of these samples are not sent, after so many were."""
    return np.concatenate([np.cumsum(which[::-1])[::-1], [0]]).astype(float)


def chosen(points: list[Point], max_loss: float, max_share: float) -> Point:
    """The smallest share that is shown to lose at most `max_loss` against the large model alone; else, up to `max_share`, the one
    of which least loss can be feared, and not the most accurate: a few hundred samples show no loss long before there is none.
    `max_share` holds at 95 % confidence too.
    """
    allowed = [p for p in points if p.max_share <= max_share]
    enough = [p for p in allowed if p.max_loss <= max_loss]
    return min(enough, key=lambda p: p.share) if enough else min(allowed, key=lambda p: (p.max_loss, -p.share))


def at(threshold: float, small: Array, large: Array, labels: Array) -> Point:
    """What a threshold that was chosen elsewhere does on these samples."""
    sent = softmax(small).max(axis=1) < threshold
    answers = np.where(sent, large.argmax(axis=1), small.argmax(axis=1))
    return Point(threshold, float(sent.mean()), float((answers == labels).mean()))
