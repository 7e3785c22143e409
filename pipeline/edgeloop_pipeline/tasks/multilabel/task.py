"""The task multilabel, as the stages see it. Its metric is mean AP: the mean of the average precisions of the labels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from edgeloop_agent.label_answers import probabilities_of
from edgeloop_contract.tasks import NOT_KNOWN
from edgeloop_pipeline.tasks import confidence_intervals
from edgeloop_pipeline.tasks.multilabel.measure import Ranking, best_thresholds

if TYPE_CHECKING:
    from torch import Tensor

    from edgeloop_contract import manifest
    from edgeloop_contract.arrays import Array
    from edgeloop_pipeline.data.types import PreparedSplits, Samples
    from edgeloop_pipeline.results.task_figures import LabelsFigures, TaskFigures
    from edgeloop_pipeline.tasks.losses import Loss

FEWER_RESAMPLES = 500  # because all labels of all samples are summed again in each
MAX_SHOWN = 30


@dataclass(frozen=True)
class Multilabel:
    """Labels are rows of 1, 0 and 255 (not known), one for each label (N, labels); scores are logits."""

    splits: PreparedSplits
    named: ClassVar[tuple[str, ...]] = ()

    @property
    def outputs(self) -> int:
        return len(self.splits.labels)

    @cached_property
    def _shares(self) -> Array:
        """The share of training samples that have each label (labels,)."""
        return _shares_of(np.asarray(self.splits.train.labels))

    def check_answer(self, sample: tuple[int, ...], answer: tuple[int, ...]) -> str:
        return "" if answer == (1, self.outputs) else f"a logit for each label, of shape {(1, self.outputs)}"

    def loss(self, smoothing: float = 0.0) -> Loss:
        from edgeloop_pipeline.tasks.multilabel.loss import label_loss, weights_of

        weights = weights_of(self._shares)
        return lambda scores, labels, *_: label_loss(scores, labels, weights, smoothing)

    def imitation(self, scores: Tensor, wanted: Tensor, temperature: float) -> Tensor:
        """The distillation loss of Hinton et al. 2015, of each label; less the teacher's own entropy."""
        import torch.nn.functional as F

        asked = (wanted / temperature).sigmoid()
        ours = F.binary_cross_entropy_with_logits(scores / temperature, asked, reduction="none")
        least = F.binary_cross_entropy_with_logits(wanted / temperature, asked, reduction="none")
        return temperature**2 * (ours - least).mean()

    def judge(self, scores: Tensor, samples: Samples) -> tuple[float, float]:
        import torch

        truth = np.asarray(samples.labels)
        loss = self.loss()(scores, torch.from_numpy(truth), scores, None)  # type: ignore[arg-type]
        return Ranking.of(scores.numpy(), truth).mean(np.ones(len(samples))), float(loss)

    def estimate(self, scores: Array, samples: Samples) -> manifest.Estimate:
        ranking = Ranking.of(np.asarray(scores), np.asarray(samples.labels))
        return confidence_intervals.bootstrap(ranking.mean, samples.recording, FEWER_RESAMPLES)

    def shares(self, scores: Array, samples: Samples) -> Array | None:
        return None

    def chance(self, samples: Samples) -> float:
        """The metric of equal scores for all samples: the mean share of samples with a label."""
        shares = _shares_of(np.asarray(samples.labels))
        return float(shares[shares > 0].mean())

    def details(self, scores: Array, samples: Samples, on_validation: Array) -> TaskFigures:
        """The figures of each label. The thresholds come from validation samples: the best F1 of each."""
        from edgeloop_pipeline.results.task_figures import LabelFigures, LabelsFigures, TaskFigures

        shape, validation = self.described(TaskFigures()), np.asarray(self.splits.validation.labels)
        limits = best_thresholds(probabilities_of(shape, on_validation.reshape(validation.shape)), validation).round(4)
        truth = np.asarray(samples.labels)
        scores = np.asarray(scores).reshape(truth.shape)
        known, has = truth != NOT_KNOWN, truth == 1
        answered = (probabilities_of(shape, scores) >= limits) & known
        right, said, true = ((part.sum(0)) for part in (answered & has, answered, has))
        precisions = Ranking.of(scores, truth).precisions(np.ones(len(truth)))
        rows = [
            LabelFigures(
                name, int(true[i]), float(precisions[i]) if true[i] else None, float(limits[i]),
                precision=float(right[i] / max(1, said[i])), recall=float(right[i] / max(1, true[i])),
                f1=float(2 * right[i] / max(1, said[i] + true[i])),
            )
            for i, name in enumerate(self.splits.labels)
        ]  # fmt: skip
        f1 = float(2 * right.sum() / max(1, said.sum() + true.sum()))
        exact = float(((answered == has) | ~known).all(1).mean())
        return TaskFigures(multilabel=LabelsFigures(f1, exact, float(true.sum() / len(truth)), rows))

    def reference(self, on_validation: Array) -> dict[str, Any]:
        """The mean probability of the most probable label, and the mean probability of each."""
        from edgeloop_pipeline.results.task_figures import TaskFigures

        found = probabilities_of(self.described(TaskFigures()), on_validation.reshape(len(on_validation), -1))
        return {"mean_confidence": float(found.max(1).mean()), "label_share": found.mean(0).tolist()}

    def described(self, figures: TaskFigures) -> manifest.Multilabel:
        from edgeloop_contract import manifest

        measured = figures.multilabel
        limits = [row.threshold for row in measured.labels] if measured else [0.5] * self.outputs
        return manifest.Multilabel(labels=list(self.splits.labels), thresholds=limits)

    def card(self, figures: TaskFigures) -> list[str]:
        found = _labels(figures)
        names = ", ".join(self.splits.labels[:MAX_SHOWN]) + " …" * (self.outputs > MAX_SHOWN)
        return [
            f"Says which of these labels a sample has, any number of them: {names}. F1 over all labels {found.f1:.3f}.",
            *(
                f"{row.label}: {row.count} in the test set, average precision {row.ap:.3f}; from a probability of"
                f" {row.threshold:.2f} on, recall {row.recall:.1%} and precision {row.precision:.1%}."
                for row in found.labels[:MAX_SHOWN]
                if row.ap is not None
            ),
        ]


def _shares_of(labels: Array) -> Array:
    return np.asarray((labels == 1).sum(0) / np.maximum((labels != NOT_KNOWN).sum(0), 1))


def _labels(figures: TaskFigures) -> LabelsFigures:
    assert figures.multilabel is not None
    return figures.multilabel
