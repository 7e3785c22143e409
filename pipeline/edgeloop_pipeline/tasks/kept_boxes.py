"""What is kept of a detector's own boxes: those of two answers are matched, one by one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_contract.boxes import Found, find_boxes, iou_matrix
from edgeloop_contract.errors import DataError
from edgeloop_contract.tasks import Detection
from edgeloop_exporters.named_outputs import Output, separate

__all__ = ["KeptBoxes"]

OVERLAP = 0.5  # of two boxes that are the same thing


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

    def matches(self, answers: Array, wanted: Array) -> tuple[Array, Array]:
        """By sample (N,): boxes that both have, counted in each; and all boxes of both."""
        pairs = list(zip(self.found(answers), self.found(wanted), strict=True))
        return np.array([2.0 * _same(a, b) for a, b in pairs]), np.array([float(len(a.boxes) + len(b.boxes)) for a, b in pairs])


def _same(found: Found, wanted: Found) -> int:
    """How many boxes have a partner of their label that overlaps by `OVERLAP`, each partner once, the best first."""
    if not len(found.boxes) or not len(wanted.boxes):
        return 0
    overlap = np.where(found.labels[:, None] == wanted.labels[None], iou_matrix(found.boxes, wanted.boxes), 0.0)
    free = np.ones(len(wanted.boxes), bool)
    count = 0
    for row in overlap:
        best = int(np.where(free, row, 0.0).argmax())
        if row[best] >= OVERLAP and free[best]:
            free[best] = False
            count += 1
    return count
