"""The task keypoints, as the stages see it: a detector whose cells have points. Its metric is OKS mAP@0.5:0.95."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
import numpy as np

from edgeloop_contract.boxes import Found, find_points, sigmas_of, similarity
from edgeloop_pipeline.data.boxes import NONE, POINT_VALUES, VALUES
from edgeloop_pipeline.tasks.detection.cells import BOXES, POINTS, SCORES, SIDES, wanted
from edgeloop_pipeline.tasks.detection.measure import EVERY, Judged, judged
from edgeloop_pipeline.tasks.detection.task import AT_HALF, Detection
from edgeloop_pipeline.tasks.keypoints import measure
from edgeloop_pipeline.tasks.label_smoothing import refuse_smoothing

if TYPE_CHECKING:
    from torch import Tensor

    from edgeloop_contract import manifest
    from edgeloop_contract.arrays import Array
    from edgeloop_pipeline.data.types import Samples
    from edgeloop_pipeline.results.task_figures import PointFigures, PointsFigures, TaskFigures
    from edgeloop_pipeline.tasks.losses import Loss

NEAR = 0.1  # of the root of a box's area: a point that is nearer is found


@dataclass(frozen=True)
class Keypoints(Detection):
    """Labels are boxes with points (N, boxes, 5 + 3 × points); scores are distances, scores and points of grid cells, joined."""

    named: ClassVar[tuple[str, ...]] = (BOXES, SCORES, POINTS)

    @property
    def more(self) -> int:
        return POINT_VALUES * len(self.splits.points)

    @cached_property
    def sigmas(self) -> Array:
        return sigmas_of(self.splits.points)

    def check_outputs(self, shapes: Mapping[str, tuple[int, ...]]) -> str:
        boxes, points = shapes.get(BOXES, ()), shapes.get(POINTS, ())
        if len(boxes) != 3 or tuple(points[1:]) != (boxes[1], self.more):
            return wanted(*self._size, self.outputs, self.more)
        scores = shapes.get(SCORES, ())
        fits = len(scores) == 3 and tuple(scores[1:]) == (boxes[1], self.outputs) and boxes[2] == SIDES
        total = boxes[1] * (SIDES + self.outputs + self.more)
        return self.check_answer((), (total,)) if fits else wanted(*self._size, self.outputs, self.more)

    def loss(self, smoothing: float = 0.0) -> Loss:
        import torch

        from edgeloop_pipeline.tasks.keypoints.loss import PointLoss

        refuse_smoothing(smoothing, "keypoints")
        made: dict[int, PointLoss] = {}

        def loss(scores: Tensor, labels: Tensor, *_: Any) -> Tensor:
            total = scores.flatten(1).shape[1]
            if total not in made:
                made[total] = PointLoss(self.cells(total), torch.from_numpy(self.sigmas).float())
            return made[total](scores, labels)

        return loss

    def imitation(self, scores: Tensor, wanted: Tensor, temperature: float) -> Tensor:
        """As of a detector, with the teacher's points where it is sure of something."""
        import torch.nn.functional as F

        cells = self.cells(scores.flatten(1).shape[1])
        ends = cells.count * (SIDES + self.outputs)
        ours, theirs = (part.flatten(1) for part in (scores, wanted))
        sure = theirs[:, cells.count * SIDES : ends].sigmoid().reshape(len(ours), cells.count, -1).amax(-1)
        off = F.smooth_l1_loss(ours[:, ends:], theirs[:, ends:], reduction="none").reshape(len(ours), cells.count, -1).mean(-1)
        boxes = self._imitated(cells, ours[:, :ends], theirs[:, :ends])
        return boxes + (off * sure).sum() / sure.sum().clamp_min(1.0)

    def points(self, scores: Array, found: list[Found]) -> list[Array]:
        """The points (n, points, 3) of the boxes of every sample, in its pixels: x, y and score."""
        cells = self.cells(int(np.prod(scores.shape[1:])))
        values = cells.separate(np.asarray(scores))[POINTS]
        return [find_points(cells.layout, values[i], _rows(one), *self._size) for i, one in enumerate(found)]

    def _judged(
        self, scores: Array, samples: Samples, areas: tuple[float, float] = EVERY, found: list[Found] | None = None
    ) -> Judged:
        found = self.found(scores) if found is None else found
        points = self.points(scores, found)

        def overlap(i: int, truth: Array) -> Array:
            return similarity(points[i], truth, self.sigmas)

        labels = np.asarray(samples.labels)
        return judged(found, labels, self.outputs, overlap, measure.without_points, measure.MOST, areas)

    def details(self, scores: Array, samples: Samples, on_validation: Array) -> TaskFigures:
        """The figures of each label, by OKS; those of boxes by IoU; and how far each point is off where its box is found."""
        from edgeloop_pipeline.results.task_figures import PointsFigures

        figures = super().details(scores, samples, on_validation)
        assert figures.boxes is not None
        found = self.found(scores)
        boxes = judged(found, np.asarray(samples.labels), self.outputs)
        once = np.ones(len(samples))
        shown = PointsFigures(
            box_map=boxes.mean_precision(once), box_map_half=boxes.mean_precision(once, AT_HALF),
            points=self._figures(self.points(scores, found), found, np.asarray(samples.labels), figures.boxes.threshold),
        )  # fmt: skip
        return msgspec.structs.replace(figures, points=shown)

    def _figures(self, points: list[Array], found: list[Found], truth: Array, threshold: float) -> list[PointFigures]:
        """Of each point: how often it is known where its thing is found, how far it is off, and how often it is near."""
        from edgeloop_contract.boxes import iou_matrix
        from edgeloop_pipeline.results.task_figures import PointFigures

        offs: list[list[float]] = [[] for _ in self.splits.points]
        for i, one in enumerate(found):
            rows = truth[i][truth[i][:, 0] != NONE]
            sure = one.scores >= threshold
            overlap = iou_matrix(one.boxes[sure].astype(np.float64), rows[:, 1:VALUES].astype(np.float64))
            for j, row in enumerate(rows):
                if not len(overlap) or overlap[:, j].max() < 0.5:
                    continue
                mine = points[i][sure][int(overlap[:, j].argmax())]
                wanted = row[VALUES:].reshape(-1, POINT_VALUES)
                side = float(np.sqrt((row[3] - row[1]) * (row[4] - row[2])))
                for k in np.flatnonzero(wanted[:, 2] > 0).tolist():
                    offs[k].append(float(np.hypot(*(mine[k, :2] - wanted[k, :2]))) / side)
        return [
            PointFigures(
                name, len(off), float(np.median(off)) if off else None, float(np.mean(np.array(off) < NEAR)) if off else None
            )
            for name, off in zip(self.splits.points, offs, strict=True)
        ]

    def described(self, figures: TaskFigures) -> manifest.Keypoints:
        from edgeloop_contract import manifest

        boxes = super().described(figures)
        return manifest.Keypoints(**msgspec.structs.asdict(boxes), points=list(self.splits.points), points_output=POINTS)

    def card(self, figures: TaskFigures) -> list[str]:
        found = _points(figures)
        offs = [row.off for row in found.points if row.off is not None]
        return [
            *(line.replace("mAP@0.5 ", "OKS mAP@0.5 ", 1).replace("AP@", "OKS AP@") for line in super().card(figures)),
            f"Each box has {len(self.splits.points)} points: {', '.join(self.splits.points[:30])}."
            f" They are off by {np.median(offs) if offs else 0:.1%} of the box's side in the middle case; boxes alone have mAP"
            f" {found.box_map:.3f}.",
        ]


def _rows(found: Found) -> Array:
    assert found.rows is not None
    return found.rows


def _points(figures: TaskFigures) -> PointsFigures:
    assert figures.points is not None
    return figures.points
