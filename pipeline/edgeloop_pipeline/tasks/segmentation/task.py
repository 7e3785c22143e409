"""The task segmentation, as the stages see it. Its metric is the mean intersection over union of labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from edgeloop_contract.masks import label_grid
from edgeloop_pipeline.data.masks import BACKGROUND
from edgeloop_pipeline.tasks import confidence_intervals
from edgeloop_pipeline.tasks.segmentation.measure import Pixels, counted

if TYPE_CHECKING:
    from torch import Tensor

    from edgeloop_contract import manifest
    from edgeloop_contract.arrays import Array
    from edgeloop_pipeline.data.types import PreparedSplits, Samples
    from edgeloop_pipeline.results.task_figures import MaskFigures, TaskFigures
    from edgeloop_pipeline.tasks.losses import Loss

PART = 16  # samples whose loss is computed together


@dataclass(frozen=True)
class Segmentation:
    """Labels are masks (N, height, width) in pixels of the sample; scores are logits of a grid's cells (N, labels, h, w)."""

    splits: PreparedSplits
    named: ClassVar[tuple[str, ...]] = ()

    @property
    def outputs(self) -> int:
        return len(self.splits.labels)

    @property
    def _size(self) -> tuple[int, int]:
        height, width = self.splits.shape[:2]
        return height, width

    def check_answer(self, sample: tuple[int, ...], answer: tuple[int, ...]) -> str:
        height, width = self._size
        fits = len(answer) == 4 and answer[:2] == (1, self.outputs) and not (height % answer[2] or width % answer[3])
        if fits and height // answer[2] == width // answer[3]:
            return ""
        return f"logits (1, {self.outputs}, h, w), whose h and w are {height} and {width} divided by one whole number"

    def loss(self, smoothing: float = 0.0) -> Loss:
        from edgeloop_pipeline.tasks.segmentation.loss import mask_loss

        return lambda scores, labels, *_: mask_loss(scores, labels, *self._size, smoothing)

    def imitation(self, scores: Tensor, wanted: Tensor, temperature: float) -> Tensor:
        """The distillation loss of Hinton et al. 2015, of each cell."""
        import torch.nn.functional as F

        ours, theirs = (F.log_softmax(values / temperature, 1) for values in (scores, wanted))
        cells = scores.shape[0] * scores.shape[2] * scores.shape[3]
        return temperature**2 * F.kl_div(ours, theirs, log_target=True, reduction="sum") / cells

    def _counted(self, scores: Array, samples: Samples) -> Pixels:
        return counted(np.asarray(scores), samples.labels)

    def judge(self, scores: Tensor, samples: Samples) -> tuple[float, float]:
        import torch

        loss, total = self.loss(), 0.0
        with torch.no_grad():
            for start in range(0, len(samples), PART):
                part = slice(start, start + PART)
                labels = torch.from_numpy(np.asarray(samples.labels[part]))
                total += float(loss(scores[part], labels, scores[part], None)) * len(labels)  # type: ignore[arg-type]
        return self._counted(scores.numpy(), samples).mean_iou(np.ones(len(samples))), total / len(samples)

    def estimate(self, scores: Array, samples: Samples) -> manifest.Estimate:
        return confidence_intervals.bootstrap(self._counted(scores, samples).mean_iou, samples.recording)

    def shares(self, scores: Array, samples: Samples) -> Array | None:
        return None

    def chance(self, samples: Samples) -> float:
        """The metric of a model that always answers the most common label."""
        counts = np.bincount(np.asarray(samples.labels).reshape(-1), minlength=256)[: self.outputs]
        return float(counts.max() / max(1, counts.sum()) / max(1, (counts > 0).sum()))

    def details(self, scores: Array, samples: Samples, on_validation: Array) -> TaskFigures:
        """The figures of each label."""
        from edgeloop_pipeline.results.task_figures import LabelMask, MaskFigures, TaskFigures

        pixels, every = self._counted(scores, samples), np.ones(len(samples))
        truth, answered, both = (values.sum(0) for values in (pixels.truth, pixels.answered, pixels.both))
        ious, dices = pixels.ious(every), pixels.dices(every)
        rows = [
            LabelMask(
                name, float(truth[i] / max(1, truth.sum())), _number(ious[i]), _number(dices[i]),
                float(both[i] / max(1, answered[i])), float(both[i] / max(1, truth[i])),
            )
            for i, name in enumerate(self.splits.labels)
        ]  # fmt: skip
        wanted = [row.dice for row in rows if row.label != BACKGROUND and row.dice is not None]
        height, width = scores.shape[2:]
        return TaskFigures(masks=MaskFigures(height, width, float(np.mean(wanted)) if wanted else 0.0, rows))

    def reference(self, on_validation: Array) -> dict[str, Any]:
        """The mean confidence of cells, and the share of each label."""
        total, counts = 0.0, np.zeros(self.outputs)
        for scores in on_validation:
            grid, sure = label_grid(scores)
            total += float(sure.mean())
            counts += np.bincount(grid.reshape(-1), minlength=self.outputs) / grid.size
        return {"mean_confidence": total / len(on_validation), "label_share": (counts / len(on_validation)).tolist()}

    def described(self, figures: TaskFigures) -> manifest.Segmentation:
        from edgeloop_contract import manifest

        measured = figures.masks
        height, width = (measured.height, measured.width) if measured else self._size
        background = BACKGROUND if BACKGROUND in self.splits.labels else ""
        return manifest.Segmentation(labels=list(self.splits.labels), height=height, width=width, background=background)

    def card(self, figures: TaskFigures) -> list[str]:
        found = _masks(figures)
        return [
            f"Gives each pixel one of the labels {', '.join(self.splits.labels[:30])}; mean dice {found.dice:.3f}.",
            *(
                f"{row.label}: {row.share:.1%} of the test set's pixels, IoU {row.iou:.3f}, dice {row.dice:.3f}, recall"
                f" {row.recall:.1%}, precision {row.precision:.1%}."
                for row in found.labels[:30]
                if row.iou is not None and row.dice is not None
            ),
        ]


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _masks(figures: TaskFigures) -> MaskFigures:
    assert figures.masks is not None
    return figures.masks
