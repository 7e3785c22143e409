"""The loss of a detector: which cells answer for which box (task-aligned assignment), and how wrong they are."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeloop_pipeline.tasks.detection.cells import SIDES, Cells, points

__all__ = ["DetectionLoss", "Targets", "assigned", "compact", "complete_iou"]

CANDIDATES = 10  # cells that answer for a box, at most
ALPHA, BETA = 0.5, 6.0  # exponents of score and overlap in the alignment (Feng et al. 2021)
BOX_WEIGHT = 5.0
LIMITS = (-4.0, 5.0)  # of the logarithm of a distance in strides
TINY = 1e-7


class Targets(NamedTuple):
    """For each cell: whether it answers (N, cells), the box (N, cells, 4) in pixels, and the wanted scores (N, cells, labels).

    `of`: the number of its box in the truth (N, cells).
    """

    answers: Tensor
    boxes: Tensor
    scores: Tensor
    of: Tensor


@dataclass(frozen=True)
class DetectionLoss:
    """Soft binary cross entropy of scores, and 1 − CIoU of boxes, both weighted by how well a cell is aligned with its box."""

    cells: Cells

    @cached_property
    def places(self) -> tuple[Tensor, Tensor]:
        at, strides = points(self.cells)
        return torch.from_numpy(at), torch.from_numpy(strides)

    def __call__(self, joined: Tensor, labels: Tensor) -> Tensor:
        """`joined`: (N, total) scores; `labels`: (N, boxes, 5), or the same flattened."""
        rows = joined.flatten(1)
        return self.judged(rows, compact(labels.reshape(len(rows), -1, 5)))[0]

    def judged(self, rows: Tensor, truth: Tensor) -> tuple[Tensor, Targets]:
        """The loss, and what each cell is asked for. `rows`: distances and scores (N, total); `truth`: (N, boxes, 5)."""
        ends = self.cells.count * SIDES
        distances = rows[:, :ends].reshape(len(rows), -1, SIDES)
        logits = rows[:, ends:].reshape(len(rows), -1, self.cells.labels)
        at, strides = (part.to(rows.device) for part in self.places)
        reach = distances.clamp(*LIMITS).exp() * strides[:, None]
        boxes = torch.cat([at - reach[..., :2], at + reach[..., 2:]], -1)
        targets = assigned(logits.detach().sigmoid(), boxes.detach(), truth, at)
        total = targets.scores.sum().clamp_min(1.0)
        score_loss = F.binary_cross_entropy_with_logits(logits, targets.scores, reduction="sum") / total
        weight = targets.scores.sum(-1)[targets.answers]
        overlap = complete_iou(boxes[targets.answers], targets.boxes[targets.answers])
        return score_loss + BOX_WEIGHT * ((1 - overlap) * weight).sum() / total, targets


def compact(truth: Tensor) -> Tensor:
    """The same boxes (N, most, values) without the padding that no picture of this batch needs: assignment costs time for each."""
    there = truth[..., 0] >= 0
    order = (~there).to(torch.uint8).argsort(dim=1, stable=True)
    most = max(1, int(there.sum(1).max()))
    return truth.gather(1, order[:, :most, None].expand(-1, -1, truth.shape[2]))


@torch.no_grad()
def assigned(shares: Tensor, boxes: Tensor, truth: Tensor, at: Tensor) -> Targets:
    """Task-aligned assignment: a box is answered by the cells inside it whose score and overlap are best together.

    `shares` (N, cells, labels) and `boxes` (N, cells, 4): of the network now. `truth` (N, boxes, 5), label −1 is none. A cell that
    several boxes want answers for the one that it overlaps most. The wanted score is the alignment, scaled so that each box's best
    cell is asked for its best overlap.
    """
    count, cells, labels = shares.shape
    kinds, wanted = truth[..., 0].long(), truth[..., 1:]
    there = kinds >= 0
    overlap = _iou(wanted[:, :, None], boxes[:, None])  # (N, boxes, cells)
    own = shares.gather(2, kinds.clamp_min(0)[:, None].expand(-1, cells, -1)).transpose(1, 2)
    inside = ((at - wanted[:, :, None, :2]).amin(-1) > 0) & ((wanted[:, :, None, 2:] - at).amin(-1) > 0)
    aligned = own.pow(ALPHA) * overlap.pow(BETA) * (inside & there[..., None])
    best, rows = aligned.topk(min(CANDIDATES, cells), dim=-1)
    chosen = torch.zeros_like(aligned, dtype=torch.bool).scatter_(-1, rows, best > 0)
    contested = chosen.sum(1) > 1
    most = F.one_hot((overlap * chosen).argmax(1), overlap.shape[1]).bool().transpose(1, 2)
    chosen = torch.where(contested[:, None], most & chosen, chosen)
    answers = chosen.any(1)
    of = chosen.to(torch.uint8).argmax(1)  # (N, cells): the box that a cell answers for
    aligned = aligned * chosen
    scale = (overlap * chosen).amax(-1, keepdim=True) / aligned.amax(-1, keepdim=True).clamp_min(TINY)
    quality = (aligned * scale).amax(1)
    scores = torch.zeros(count, cells, labels, device=shares.device)
    scores.scatter_(2, kinds.clamp_min(0).gather(1, of)[..., None], (quality * answers)[..., None])
    return Targets(answers, wanted.gather(1, of[..., None].expand(-1, -1, 4)), scores, of)


def _iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes (…, 4), broadcast."""
    size = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp_min(0)
    both = size[..., 0] * size[..., 1]
    areas = (a[..., 2] - a[..., 0]) * (a[..., 3] - a[..., 1]) + (b[..., 2] - b[..., 0]) * (b[..., 3] - b[..., 1])
    return both / (areas - both).clamp_min(TINY)


def complete_iou(a: Tensor, b: Tensor) -> Tensor:
    """Complete IoU (Zheng et al. 2020) of boxes (n, 4): overlap less the distance of middles and the difference of shapes."""
    overlap = _iou(a, b)
    hull = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).clamp_min(TINY)
    middles = (a[:, :2] + a[:, 2:] - b[:, :2] - b[:, 2:]).pow(2).sum(1) / 4
    sizes_a, sizes_b = ((x[:, 2:] - x[:, :2]).clamp_min(TINY) for x in (a, b))
    shape = (4 / torch.pi**2) * ((sizes_b[:, 0] / sizes_b[:, 1]).atan() - (sizes_a[:, 0] / sizes_a[:, 1]).atan()).pow(2)
    with torch.no_grad():
        share = shape / (1 - overlap + shape + TINY)
    return overlap - middles / hull.pow(2).sum(1) - share * shape
