"""The loss of boxes with points: a detector's, and how far the points of cells that answer are off, for the size of the box."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeloop_pipeline.data.boxes import POINT_VALUES, VALUES
from edgeloop_pipeline.tasks.detection.cells import SIDES, Cells
from edgeloop_pipeline.tasks.detection.loss import DetectionLoss, compact

__all__ = ["PointLoss"]

POINT_WEIGHT, FAR_WEIGHT, THERE_WEIGHT = 8.0, 1.0, 0.5
TINY = 1e-6


@dataclass(frozen=True)
class PointLoss:
    """`sigmas`: spread of each point (points,), as in the metric."""

    cells: Cells
    sigmas: Tensor

    @cached_property
    def boxes(self) -> DetectionLoss:
        return DetectionLoss(self.cells)

    def __call__(self, joined: Tensor, labels: Tensor) -> Tensor:
        """`joined`: (N, total) scores; `labels`: (N, boxes, 5 + 3 × points), or the same flattened."""
        rows, count = joined.flatten(1), self.cells.count
        truth = compact(labels.reshape(len(rows), -1, VALUES + self.cells.more))
        ends = count * (SIDES + self.cells.labels)
        loss, targets = self.boxes.judged(rows[:, :ends], truth[..., :VALUES])
        chosen = targets.answers
        if not bool(chosen.any()):
            return loss + 0 * rows[:, ends:].sum()
        weight = targets.scores.sum(-1)[chosen]
        mine = rows[:, ends:].reshape(len(rows), count, -1, POINT_VALUES)[chosen]
        at, strides = (part.to(rows.device).expand(len(rows), *part.shape)[chosen] for part in self.boxes.places)
        asked = truth.gather(1, targets.of[..., None].expand(-1, -1, truth.shape[2]))[chosen]
        wanted = asked[:, VALUES:].reshape(mine.shape)
        known = (wanted[..., 2] > 0).to(mine.dtype)
        sides = (asked[:, 3:VALUES] - asked[:, 1:3]).clamp_min(1.0)
        area = sides.prod(-1)[:, None]
        away = (at[:, None] + mine[..., :2] * strides[:, None, None] - wanted[..., :2]).pow(2).sum(-1)
        near = 1 - torch.exp(-away / (2 * area * (2 * self.sigmas.to(rows.device)).pow(2)))
        far = (away / area + TINY).sqrt()  # the similarity alone has no slope where a point is far off
        each = ((near + FAR_WEIGHT * far) * known).sum(-1) / known.sum(-1).clamp_min(1)
        there = F.binary_cross_entropy_with_logits(mine[..., 2], known, reduction="none").mean(-1) * (known.sum(-1) > 0)
        return loss + ((POINT_WEIGHT * each + THERE_WEIGHT * there) * weight).sum() / weight.sum().clamp_min(1.0)
