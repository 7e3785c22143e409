"""What is kept of a detector's own boxes: those of two answers are matched, one by one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from edgeloop_agent.box_answers import found_points
from edgeloop_contract.arrays import Array
from edgeloop_contract.boxes import Found, Placement, find_boxes, iou_matrix, sigmas_of, similarity
from edgeloop_contract.errors import DataError
from edgeloop_contract.instances import grid_masks, mask_overlap, masks_in_picture
from edgeloop_contract.tasks import Detection, Instances, Keypoints
from edgeloop_exporters.named_outputs import Output, separate

__all__ = ["KeptBoxes"]

OVERLAP = 0.5  # of two boxes that are the same thing
SIMILAR = 0.75  # similarity of their points, 1 being the same places
THERE = 0.5  # the score of a point that is rather there than not


@dataclass(frozen=True)
class KeptBoxes:
    """The boxes of a model's answers (N, …), as its task reads them. `outputs`: several, whose answers are joined."""

    task: Detection
    outputs: tuple[Output, ...]
    height: int
    width: int

    def found(self, answers: Array) -> list[Found]:
        """The boxes of each sample, in its pixels, best first. Raises DataError where the layout does not fit."""
        parts = separate(answers, self.outputs) if self.outputs else {"": answers}
        try:
            return [
                find_boxes(
                    self.task.decode, {name: part[i] for name, part in parts.items()}, self.height, self.width,
                    score_threshold=self.task.score_threshold, iou_threshold=self.task.iou_threshold, most=self.task.max_boxes,
                )
                for i in range(len(answers))
            ]  # fmt: skip
        except DataError as error:
            raise DataError(f"imported.boxes: {error}; give the layout that the model has (docs/detection.md)") from error

    def points(self, answers: Array, found: list[Found]) -> list[Array]:
        """The points (n, points, 3) of boxes that were found, in pixels of the samples; of a task without points none."""
        if not isinstance(self.task, Keypoints):
            return [np.zeros((len(one.boxes), 0, 3)) for one in found]
        parts = separate(answers, self.outputs) if self.outputs else {"": answers}
        return [
            found_points(self.task, {name: part[i] for name, part in parts.items()}, one, self.height, self.width)
            for i, one in enumerate(found)
        ]

    def masks(self, answers: Array, found: list[Found]) -> list[list[tuple[Array, int, int]]]:
        """Of each box the pixels (h, w) bool of its thing, and where they begin: top, left; none of a task without masks."""
        if not isinstance(self.task, Instances):
            return [[] for _ in found]
        parts, place = separate(answers, self.outputs), Placement(self.height, self.width)
        given = [{name: part[i] for name, part in parts.items()} for i in range(len(found))]
        return [
            list(masks_in_picture(self.task, outputs, one, one.boxes, self.height, self.width, place))
            for outputs, one in zip(given, found, strict=True)
        ]

    def matches(self, answers: Array, wanted: Array) -> tuple[Array, Array]:
        """By sample (N,): boxes that both have, counted in each; and all boxes of both."""
        ours, theirs = self.found(answers), self.found(wanted)
        if isinstance(self.task, Instances):
            near: list[Array | bool] = list(self._covered(self.task, answers, ours, wanted, theirs))
        else:
            points = zip(self.points(answers, ours), self.points(wanted, theirs), theirs, strict=True)
            near = [self._near(*each) for each in points]
        same = [2.0 * _same(a, b, close) for a, b, close in zip(ours, theirs, near, strict=True)]
        return np.array(same), np.array([float(len(a.boxes) + len(b.boxes)) for a, b in zip(ours, theirs, strict=True)])

    def _covered(
        self, task: Instances, answers: Array, ours: list[Found], wanted: Array, theirs: list[Found]
    ) -> Iterator[Array]:  # fmt: skip
        """(n, m) of each sample: whether two boxes' masks overlap by `OVERLAP`."""
        parts = separate(answers, self.outputs), separate(wanted, self.outputs)
        for i, both in enumerate(zip(ours, theirs, strict=True)):
            masks = [
                grid_masks(task, {name: values[i] for name, values in part.items()}, one, self.height, self.width)
                for part, one in zip(parts, both, strict=True)
            ]
            yield mask_overlap(*masks) >= OVERLAP

    def _near(self, points: Array, wanted: Array, boxes: Found) -> Array | bool:
        """(n, m): whether the points of two boxes are at the same places, by COCO's similarity."""
        if not isinstance(self.task, Keypoints) or not len(points) or not len(wanted):
            return True
        seen = np.concatenate([wanted[..., :2], wanted[..., 2:] >= THERE], -1).reshape(len(wanted), -1)
        truth = np.concatenate([boxes.labels[:, None], boxes.boxes, seen], 1)
        return similarity(points, truth, sigmas_of(self.task.points)) >= SIMILAR


def _same(found: Found, wanted: Found, near: Array | bool) -> int:
    """How many boxes have a partner of their label that overlaps by `OVERLAP`, each partner once, the best first."""
    if not len(found.boxes) or not len(wanted.boxes):
        return 0
    alike = (found.labels[:, None] == wanted.labels[None]) & near
    overlap = np.where(alike, iou_matrix(found.boxes, wanted.boxes), 0.0)
    free = np.ones(len(wanted.boxes), bool)
    count = 0
    for row in overlap:
        best = int(np.where(free, row, 0.0).argmax())
        if row[best] >= OVERLAP and free[best]:
            free[best] = False
            count += 1
    return count
