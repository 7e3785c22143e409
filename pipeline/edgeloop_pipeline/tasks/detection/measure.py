"""Mean average precision as COCO computes it, of weighted pictures, so that a bootstrap can resample them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_contract.boxes import Found, iou_matrix
from edgeloop_pipeline.data.boxes import NONE

__all__ = ["OVERLAPS", "SIZES", "Judged", "LabelCounts", "judged"]

OVERLAPS = np.linspace(0.5, 0.95, 10)  # of a box and its truth, from which on it counts
RECALLS = np.linspace(0, 1, 101)
EVERY = (0.0, float("inf"))
SIZES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, float("inf"))}  # COCO's areas, in pixels


@dataclass(frozen=True)
class _OfLabel:
    """One label's boxes in all pictures, best first: picture (n,), score (n,), right (overlaps, n); its truths by picture (N,).

    `counts` (overlaps, n): whether a box counts; not one that finds a truth which does not.
    """

    picture: Array
    score: Array
    right: Array
    truths: Array
    counts: Array

    @cached_property
    def hits(self) -> list[Array]:
        """The places of the right boxes at each overlap: between them precision only falls."""
        return [np.flatnonzero(row) for row in self.right]


@dataclass(frozen=True)
class LabelCounts:
    """Of one label at a threshold and an overlap of 0.5: truths, boxes that are right, and boxes in all."""

    truths: int
    right: int
    answered: int


@dataclass(frozen=True)
class Judged:
    """Every box of every picture, right or wrong at each of OVERLAPS."""

    labels: Sequence[_OfLabel]
    pictures: int

    def mean_precision(self, weights: Array, overlaps: slice = slice(None)) -> float:
        """The mean average precision over labels and overlaps; `weights`: of the pictures (N,). NaN without a truth."""
        found = [self._precision(label, weights, overlaps) for label in self.labels]
        return float(np.mean([p for p in found if p is not None])) if any(p is not None for p in found) else float("nan")

    def metric(self) -> Callable[[Array], float]:
        """mAP@0.5:0.95 of weights."""
        return self.mean_precision

    def precisions(self, weights: Array) -> Array:
        """The average precision of each label over all overlaps; NaN without a truth. `weights`: as in `mean_precision`."""
        found = [self._precision(label, weights, slice(None)) for label in self.labels]
        return np.array([np.nan if precision is None else precision for precision in found])

    def of_label(self, number: int, overlaps: slice = slice(None)) -> float | None:
        """The average precision of one label, every picture once; None where it has no truth."""
        return self._precision(self.labels[number], np.ones(self.pictures), overlaps)

    @staticmethod
    def _precision(label: _OfLabel, weights: Array, overlaps: slice) -> float | None:
        truths = float(weights @ label.truths)
        if truths <= 0:
            return None
        levels = label.hits[overlaps]
        weight = weights[label.picture]
        total = 0.0
        for places, counted in zip(levels, label.counts[overlaps], strict=True):
            seen = np.cumsum(weight * counted)
            hits = np.cumsum(weight[places])
            precision = hits / np.maximum(seen[places], 1e-12)
            precision = np.maximum.accumulate(precision[::-1])[::-1]
            at = np.searchsorted(hits / truths, RECALLS, side="left")
            total += float(precision[at[at < len(places)]].sum()) / len(RECALLS)
        return total / len(levels)

    def counts(self, threshold: float) -> list[LabelCounts]:
        """At an overlap of 0.5, of boxes with at least this score."""
        found = []
        for label in self.labels:
            sure = label.score >= threshold
            found.append(LabelCounts(int(label.truths.sum()), int(label.right[0, sure].sum()), int(label.counts[0, sure].sum())))
        return found

    def best_threshold(self) -> float:
        """The score from which on F1 over all labels, the harmonic mean of precision and recall, is highest; 0.5 without boxes."""
        score = np.concatenate([label.score for label in self.labels])
        right = np.concatenate([label.right[0] for label in self.labels])
        truths = sum(int(label.truths.sum()) for label in self.labels)
        if not right.any():
            return 0.5
        counts = np.concatenate([label.counts[0] for label in self.labels])
        order = np.argsort(-score, kind="stable")
        hits = np.cumsum(right[order])
        f1 = 2 * hits / (np.cumsum(counts[order]) + truths)
        return float(np.clip(score[order][int(f1.argmax())], 0.01, 0.99))


def judged(
    found: Sequence[Found],
    truth: Array,
    labels: int,
    overlap_of: Callable[[int, Array], Array] | None = None,
    ignored: Callable[[Array], Array] | None = None,
    most: int | None = None,
    areas: tuple[float, float] = EVERY,
) -> Judged:
    """Compare the boxes of each picture with its truth (N, boxes, 5 or more), best first: a truth is found once.

    `overlap_of`: of a picture's number and its truths (m, values), how alike its boxes and these are (n, m); default: the IoU.
    `ignored`: which truths are not asked for (m,); who finds one does not count. `most`: so many of a label and picture are judged.
    `areas`: the least and the largest area in pixels of a truth that is asked for; boxes of others that find none do not count.
    """
    parts: list[list[tuple[Array, Array, Array, Array]]] = [[] for _ in range(labels)]
    truths = np.zeros((labels, len(truth)))
    for i, answer in enumerate(found):
        wanted = truth[i][truth[i][:, 0] != NONE]
        boxes = answer.boxes.astype(np.float64)
        overlap = iou_matrix(boxes, wanted[:, 1:5].astype(np.float64)) if overlap_of is None else overlap_of(i, wanted)
        out = _outside(wanted[:, 1:5].astype(np.float64), areas) | (False if ignored is None else ignored(wanted))
        beyond = _outside(boxes, areas)
        for label in range(labels):
            theirs = wanted[:, 0] == label
            truths[label, i] = (theirs & ~out).sum()
            mine = np.flatnonzero(answer.labels == label)
            if len(mine):
                mine = mine[np.argsort(-answer.scores[mine], kind="stable")][:most]
                right = _matched(overlap[mine][:, theirs & ~out])
                counts = right | ~beyond[mine]
                if (theirs & out).any():
                    counts &= right | ~_matched(overlap[mine][:, theirs & out], ~right)
                parts[label].append((np.full(len(mine), i), answer.scores[mine], right, counts))
    return Judged([_joined(part, truths[label]) for label, part in enumerate(parts)], len(truth))


def _outside(boxes: Array, areas: tuple[float, float]) -> Array:
    """Which boxes (n, 4) have an area outside of these."""
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return np.asarray((area < areas[0]) | (area > areas[1]))


def _joined(parts: list[tuple[Array, Array, Array, Array]], truths: Array) -> _OfLabel:
    if not parts:
        none = np.zeros((len(OVERLAPS), 0), bool)
        return _OfLabel(np.zeros(0, np.intp), np.zeros(0), none, truths, none)
    picture, score, right, counts = (np.concatenate(part, -1) for part in zip(*parts, strict=True))
    order = np.argsort(-score, kind="stable")
    return _OfLabel(picture[order], score[order], right[:, order], truths, counts[:, order])


def _matched(overlap: Array, asked: Array | None = None) -> Array:
    """Whether each box (rows of `overlap`, best first) finds a truth that is still free, at each of OVERLAPS: (overlaps, n).

    `asked`: which boxes look for one, in the same form; default: all.
    """
    right = np.zeros((len(OVERLAPS), len(overlap)), bool)
    if not overlap.shape[1]:
        return right
    free = np.ones((len(OVERLAPS), overlap.shape[1]), bool)
    levels = np.arange(len(OVERLAPS))
    for i in np.flatnonzero(overlap.max(1) >= OVERLAPS[0]):
        row = np.where(free & (overlap[i] >= OVERLAPS[:, None]), overlap[i], -1.0)
        if asked is not None:
            row[~asked[:, i]] = -1.0
        best = row.argmax(1)
        right[:, i] = row[levels, best] >= 0
        free[levels[right[:, i]], best[right[:, i]]] = False
    return right
