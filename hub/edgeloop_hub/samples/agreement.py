"""Whether two people's annotations agree, and what becomes of those that do. Rules, without a database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np

from edgeloop_contract.annotations import AnnotatedBox, AnnotatedMask, AnnotatedPoint, Annotation, BoxMask
from edgeloop_contract.arrays import Array
from edgeloop_contract.boxes import iou_matrix, sigmas_of, similarity
from edgeloop_contract.masks import mask_of

POINTS_NEAR = 0.75  # object keypoint similarity: points are off by some three quarters of what COCO's people differ


@dataclass(frozen=True)
class AgreementRules:
    """`value_steps`: the difference of each quantity that is tolerated, in its unit. `background`: a label that no mask needs.

    `points`: names of a box's points, whose spread decides how near is near.
    """

    box_iou: float
    mask_iou: float
    value_steps: list[float] = field(default_factory=list)
    background: str = ""
    points: Sequence[str] = ()


@dataclass(frozen=True)
class Comparison:
    """`text`: how far two annotations agree, for people."""

    agrees: bool
    text: str


def compare(one: Annotation, other: Annotation, rules: AgreementRules) -> Comparison:
    """Boxes: one to one, with equal labels and an IoU of `box_iou` or more, and their points and masks by `parts_agree`. Masks: by
    mean IoU of the labels that are there.

    Values: each within its step. Labels: the same ones.
    """
    if one.boxes is not None and other.boxes is not None:
        same, most = pairs(one.boxes, other.boxes, rules.box_iou), max(len(one.boxes), len(other.boxes))
        placed = sum(parts_agree(one.boxes[i], other.boxes[j], rules) for i, j in same)
        what = "points" if rules.points else "masks"
        of_parts = f", and the {what} of {placed} of these" if placed < len(same) else ""
        return Comparison(placed == most, f"{len(same)} of {most} boxes agree{of_parts}")
    if one.masks is not None and other.masks is not None:
        iou = mean_iou(one.masks, other.masks, rules.background)
        return Comparison(iou >= rules.mask_iou, f"mean IoU of the masks {iou:.2f}")
    if one.values is not None and other.values is not None:
        steps = rules.value_steps or [0.0] * len(one.values)
        near = [abs(a - b) <= step for a, b, step in zip(one.values, other.values, steps, strict=False)]
        same_length = len(one.values) == len(other.values)
        return Comparison(all(near) and same_length, f"{sum(near)} of {max(len(one.values), len(other.values))} values agree")
    if one.labels is not None and other.labels is not None:
        differing = set(one.labels) ^ set(other.labels)
        return Comparison(not differing, f"{len(differing)} labels differ")
    return Comparison(False, "they say different kinds of things")


def pairs(one: Sequence[AnnotatedBox], other: Sequence[AnnotatedBox], iou: float) -> list[tuple[int, int]]:
    """Indices of boxes that are the same one: as many pairs as possible, each box in one at most."""
    from scipy.optimize import linear_sum_assignment

    if not one or not other:
        return []
    found = iou_matrix(*(np.array([each.box for each in boxes], float) for boxes in (one, other)))
    same = np.array([[a.label == b.label for b in other] for a in one])
    worth = np.where(same & (found >= iou), found + len(one) + len(other), 0.0)  # one pair more is worth any overlap
    rows, columns = linear_sum_assignment(worth, maximize=True)
    return [(int(r), int(c)) for r, c in zip(rows, columns, strict=True) if worth[r, c] > 0]


def parts_agree(one: AnnotatedBox, other: AnnotatedBox, rules: AgreementRules) -> bool:
    """Whether two boxes say the same of their points and masks. Masks of which one says nothing count as the same."""
    return points_agree(one, other, rules) and (
        one.mask is None or other.mask is None or _box_masks_iou(one.mask, other.mask) >= rules.mask_iou
    )


def _box_masks_iou(one: BoxMask, other: BoxMask) -> float:
    if one.size != other.size:
        return 0.0
    a, b = (mask_of(mask.counts, *mask.size) for mask in (one, other))
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 1.0


def points_agree(one: AnnotatedBox, other: AnnotatedBox, rules: AgreementRules) -> bool:
    """Whether two boxes say the same of their points: the same ones are known, and their similarity (OKS) is `POINTS_NEAR` or more.

    Of boxes where one says nothing of its points, or has those of another version of the model, the boxes alone count.
    """
    if not one.points or not other.points or not len(one.points) == len(other.points) == len(rules.points):
        return True
    a, b = (np.array(each.points, float) for each in (one, other))
    known = a[:, 2] > 0
    if (known != (b[:, 2] > 0)).any():
        return False
    truth = np.concatenate([[0.0, *other.box], b.reshape(-1)])
    return not known.any() or bool(similarity(a[None], truth[None], sigmas_of(rules.points))[0, 0] >= POINTS_NEAR)


def mean_iou(one: Sequence[AnnotatedMask], other: Sequence[AnnotatedMask], background: str) -> float:
    """The mean over the labels that either has, but for the background; 1 where neither has any."""
    sides = [{mask.label: mask for mask in masks if mask.label != background} for masks in (one, other)]
    shares = []
    for label in dict.fromkeys([*sides[0], *sides[1]]):
        a, b = (_pixels(side.get(label)) for side in sides)
        union = _count(a) + _count(b) - (int((a & b).sum()) if a is not None and b is not None else 0)
        if union:
            shares.append((_count(a) + _count(b) - union) / union)
    return float(np.mean(shares)) if shares else 1.0


def _mean_points(boxes: Sequence[AnnotatedBox]) -> list[AnnotatedPoint] | None:
    """Of boxes that agree, the mean place of each point; hidden or visible as the newest one that says something of them."""
    said = [box.points for box in boxes if box.points]
    said = [points for points in said if len(points) == len(said[0])]
    if not said:
        return None
    places = np.array([[point[:2] for point in points] for points in said], float).mean(0).round(4).tolist()
    return [(x, y, point[2]) if point[2] else point for (x, y), point in zip(places, said[0], strict=True)]


def _pixels(mask: AnnotatedMask | None) -> Array | None:
    return None if mask is None else mask_of(mask.counts, *mask.size)


def _count(pixels: Array | None) -> int:
    return 0 if pixels is None else int(pixels.sum())


def agreeing(newest: Annotation, earlier: Sequence[Annotation], rules: AgreementRules) -> list[Annotation]:
    """The newest one, and those of the earlier ones, newest first, that agree with it and with each other."""
    group = [newest]
    for one in earlier:
        if all(compare(one, other, rules).agrees for other in group):
            group.append(one)
    return group


def joined(group: Sequence[Annotation], rules: AgreementRules) -> Annotation:
    """What is taken of annotations that agree, the newest first: the mean edges of boxes, the mean of values; else the newest."""
    newest = group[0]
    if newest.boxes is not None:
        same = [dict(pairs(newest.boxes, other.boxes or [], rules.box_iou)) for other in group[1:]]
        boxes = []
        for i, box in enumerate(newest.boxes):
            edges = [box.box, *((other.boxes or [])[of[i]].box for other, of in zip(group[1:], same, strict=True))]
            left, top, right, bottom = (round(float(edge), 4) for edge in np.mean(edges, axis=0))
            every = [box, *((other.boxes or [])[of[i]] for other, of in zip(group[1:], same, strict=True))]
            mask = next((one.mask for one in every if one.mask is not None), None)
            boxes.append(msgspec.structs.replace(box, box=(left, top, right, bottom), points=_mean_points(every), mask=mask))
        return Annotation(boxes=boxes)
    if newest.values is not None:
        return Annotation(values=[float(value) for value in np.mean([each.values or [] for each in group], axis=0)])
    return newest
