"""The task detection, as the stages see it. Its metric is mAP@0.5:0.95."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from edgeloop_contract.boxes import Found, find_boxes
from edgeloop_contract.errors import ModelError
from edgeloop_pipeline.tasks import confidence_intervals
from edgeloop_pipeline.tasks.detection.cells import BOXES, SCORES, SIDES, STRIDES, Cells, cells_of, wanted
from edgeloop_pipeline.tasks.detection.measure import EVERY, SIZES, Judged, judged
from edgeloop_pipeline.tasks.label_smoothing import refuse_smoothing

if TYPE_CHECKING:
    from torch import Tensor

    from edgeloop_contract import manifest
    from edgeloop_contract.arrays import Array
    from edgeloop_pipeline.data.types import PreparedSplits, Samples
    from edgeloop_pipeline.results.task_figures import BoxFigures, SizeFigures, TaskFigures
    from edgeloop_pipeline.tasks.losses import Loss

FEWER_RESAMPLES = 500  # because the mAP of a hundred pictures takes some milliseconds
JUDGED_FROM = 0.01  # scores down to this one count in the metric; a device's threshold is chosen on validation data
OVERLAP = 0.6  # above which the better of two boxes with one label stays
MOST = 100  # boxes of a picture
AT_HALF = slice(0, 1)


@dataclass(frozen=True)
class Detection:
    """Labels are boxes (N, boxes, 5) in pixels of the sample; scores are distances and scores of grid cells, joined."""

    splits: PreparedSplits
    named: ClassVar[tuple[str, ...]] = (BOXES, SCORES)

    @property
    def outputs(self) -> int:
        return len(self.splits.labels)

    @property
    def _size(self) -> tuple[int, int]:
        height, width = self.splits.shape[:2]
        return height, width

    @property
    def more(self) -> int:
        """Values of a cell beside its distances and scores."""
        return 0

    def cells(self, total: int) -> Cells:
        """The grids of a network with `total` values. Raises ModelError."""
        return cells_of(total, *self._size, self.outputs, self.more)

    def check_answer(self, sample: tuple[int, ...], answer: tuple[int, ...]) -> str:
        try:
            self.cells(int(np.prod(answer)) if answer else 0)
        except ModelError:
            return wanted(*self._size, self.outputs, self.more)
        return ""

    def check_outputs(self, shapes: Mapping[str, tuple[int, ...]]) -> str:
        boxes, scores = shapes.get(BOXES, ()), shapes.get(SCORES, ())
        fits = len(boxes) == len(scores) == 3 and boxes[1] == scores[1] and (boxes[2], scores[2]) == (SIDES, self.outputs)
        return self.check_answer((), (boxes[1] * (SIDES + self.outputs),)) if fits else wanted(*self._size, self.outputs)

    def loss(self, smoothing: float = 0.0) -> Loss:
        from edgeloop_pipeline.tasks.detection.loss import DetectionLoss

        refuse_smoothing(smoothing, "detection")
        made: dict[int, DetectionLoss] = {}

        def loss(scores: Tensor, labels: Tensor, *_: Any) -> Tensor:
            total = scores.flatten(1).shape[1]
            if total not in made:
                made[total] = DetectionLoss(self.cells(total))
            return made[total](scores, labels)

        return loss

    def imitation(self, scores: Tensor, wanted: Tensor, temperature: float) -> Tensor:
        """Scores like the teacher's, where they differ most; distances like its own where the teacher is sure of something."""
        return self._imitated(self.cells(scores.flatten(1).shape[1]), scores.flatten(1), wanted.flatten(1))

    def _imitated(self, cells: Cells, scores: Tensor, wanted: Tensor) -> Tensor:
        """Of distances and scores (N, total)."""
        import torch.nn.functional as F

        ours, theirs = ((part[:, : cells.count * SIDES], part[:, cells.count * SIDES :]) for part in (scores, wanted))
        asked = theirs[1].sigmoid()
        focus = (asked - ours[1].sigmoid()).abs().detach().square()
        sure = asked.reshape(len(scores), cells.count, self.outputs).amax(-1)
        total = sure.sum().clamp_min(1.0)
        scored = (F.binary_cross_entropy_with_logits(ours[1], asked, reduction="none") * focus).sum() / total
        off = (ours[0] - theirs[0]).abs().reshape(len(scores), cells.count, SIDES).mean(-1)
        return scored + (off * sure).sum() / total

    def found(self, scores: Array, least: float = JUDGED_FROM) -> list[Found]:
        """The boxes of every sample, in its pixels."""
        cells = self.cells(int(np.prod(scores.shape[1:])))
        outputs = cells.separate(np.asarray(scores))
        return [
            find_boxes(
                cells.layout, {name: values[i] for name, values in outputs.items()}, *self._size,
                score_threshold=least, iou_threshold=OVERLAP, most=MOST,
            )
            for i in range(len(scores))
        ]  # fmt: skip

    def judge(self, scores: Tensor, samples: Samples) -> tuple[float, float]:
        import torch

        found = self._judged(scores.numpy(), samples).mean_precision(np.ones(len(samples)))
        loss, total = self.loss(), 0.0
        with torch.no_grad():
            for start in range(0, len(samples), MOST):
                part = slice(start, start + MOST)
                labels = torch.from_numpy(np.asarray(samples.labels[part]))
                total += float(loss(scores[part], labels, scores[part], None)) * len(labels)  # type: ignore[arg-type]
        return found, total / len(samples)

    def estimate(self, scores: Array, samples: Samples) -> manifest.Estimate:
        return confidence_intervals.bootstrap(self._judged(scores, samples).metric(), samples.recording, FEWER_RESAMPLES)

    def shares(self, scores: Array, samples: Samples) -> Array | None:
        return None

    def chance(self, samples: Samples) -> float:
        """Boxes that ignore the picture find next to nothing."""
        return 0.0

    def details(self, scores: Array, samples: Samples, on_validation: Array) -> TaskFigures:
        """The figures of each label. The threshold comes from validation pictures: the best F1."""
        from edgeloop_pipeline.results.task_figures import BoxFigures, LabelBoxes, TaskFigures

        threshold = self._judged(on_validation, self.splits.validation).best_threshold()
        found = self.found(scores)
        here = self._judged(scores, samples, found=found)
        rows = []
        for number, (name, counts) in enumerate(zip(self.splits.labels, here.counts(threshold), strict=True)):
            precision = counts.right / counts.answered if counts.answered else 0.0
            recall = counts.right / counts.truths if counts.truths else 0.0
            whole, half = here.of_label(number), here.of_label(number, AT_HALF)
            rows.append(LabelBoxes(name, counts.truths, whole, half, precision, recall))
        return TaskFigures(
            boxes=BoxFigures(
                strides=list(self.cells(int(np.prod(scores.shape[1:]))).strides), threshold=threshold,
                map_half=here.mean_precision(np.ones(len(samples)), AT_HALF), labels=rows,
                sizes=self._sizes(scores, samples, found),
            )
        )  # fmt: skip

    def _judged(
        self, scores: Array, samples: Samples, areas: tuple[float, float] = EVERY, found: list[Found] | None = None
    ) -> Judged:
        """`found`: the boxes of these scores, where they are known already."""
        return judged(self.found(scores) if found is None else found, np.asarray(samples.labels), self.outputs, areas=areas)

    def _sizes(self, scores: Array, samples: Samples, found: list[Found]) -> list[SizeFigures]:
        """The figures of small, medium and large boxes."""
        from edgeloop_pipeline.results.task_figures import SizeFigures

        rows = []
        for name, areas in SIZES.items():
            here = self._judged(scores, samples, areas, found)
            truths = int(sum(label.truths.sum() for label in here.labels))
            rows.append(SizeFigures(name, truths, here.mean_precision(np.ones(len(samples))) if truths else None))
        return rows

    def reference(self, on_validation: Array) -> dict[str, Any]:
        """The mix of labels and the mean score of boxes that would be answered."""
        found = self.found(on_validation, 0.25)
        labels = np.concatenate([answer.labels for answer in found])
        if not len(labels):
            return {}
        shares = np.bincount(labels, minlength=self.outputs) / len(labels)
        return {
            "mean_confidence": float(np.concatenate([answer.scores for answer in found]).mean()),
            "label_share": shares.tolist(),
        }

    def described(self, figures: TaskFigures) -> manifest.Detection:
        from edgeloop_contract import manifest

        measured = figures.boxes
        cells = Cells(tuple(measured.strides) if measured else STRIDES[0], *self._size, self.outputs)
        return manifest.Detection(
            labels=list(self.splits.labels), decode=cells.layout, iou_threshold=OVERLAP, max_boxes=MOST,
            score_threshold=round(measured.threshold, 4) if measured else 0.25,
        )  # fmt: skip

    def card(self, figures: TaskFigures) -> list[str]:
        found = _boxes(figures)
        return [
            f"Finds {', '.join(self.splits.labels[:30])} and answers boxes; mAP@0.5 {found.map_half:.3f}.",
            *(
                f"{row.label}: {row.truths} in the test set, AP@0.5:0.95 {row.ap:.3f}, AP@0.5 {row.ap_half:.3f}; from a score of"
                f" {found.threshold:.2f} on, recall {row.recall:.1%} and precision {row.precision:.1%}."
                for row in found.labels[:30]
                if row.ap is not None and row.ap_half is not None
            ),
        ]


def _boxes(figures: TaskFigures) -> BoxFigures:
    assert figures.boxes is not None
    return figures.boxes
