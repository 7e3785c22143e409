"""The task anomaly: a sample is normal if a network trained on normal samples reconstructs it well."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from edgeloop_agent.answers import reconstruction_errors
from edgeloop_pipeline.tasks import confidence_intervals
from edgeloop_pipeline.tasks.label_smoothing import refuse_smoothing

if TYPE_CHECKING:
    from torch import Tensor

    from edgeloop_contract import manifest
    from edgeloop_contract.arrays import Array
    from edgeloop_pipeline.data.types import PreparedSplits, Samples
    from edgeloop_pipeline.results.task_figures import Detection, TaskFigures
    from edgeloop_pipeline.tasks.losses import Loss

FEWER_RESAMPLES = 500  # because the AUC of ten thousand samples takes a millisecond


@dataclass(frozen=True)
class Anomaly:
    """Labels are normal (0) and anomalous (1); the network reconstructs its normalized input, trained on normal samples."""

    splits: PreparedSplits
    named: ClassVar[tuple[str, ...]] = ()
    percentile: float = 99.0  # of the validation set's normal scores: a higher score is an anomaly

    @cached_property
    def normalization(self) -> tuple[list[float], list[float]]:
        from edgeloop_pipeline.data.normalization import input_normalization

        normalization = input_normalization(self.splits)
        return list(normalization.mean), list(normalization.std)

    @property
    def outputs(self) -> int:
        return int(np.prod(self.splits.shape))

    def check_answer(self, sample: tuple[int, ...], answer: tuple[int, ...]) -> str:
        return "" if np.prod(answer) == np.prod(sample) else f"a reconstruction of shape {sample}"

    def loss(self, smoothing: float = 0.0) -> Loss:
        import torch.nn.functional as F

        refuse_smoothing(smoothing, "anomaly")
        return lambda scores, labels, x, *_: F.mse_loss(scores.flatten(1), x.flatten(1))

    def imitation(self, scores: Tensor, wanted: Tensor, temperature: float) -> Tensor:
        import torch.nn.functional as F

        return F.mse_loss(scores, wanted)

    def errors(self, scores: Array, samples: Samples) -> Array:
        """The reconstruction error of each sample, (N,)."""
        return reconstruction_errors(scores, np.asarray(samples.values), *self.normalization)

    def judge(self, scores: Tensor, samples: Samples) -> tuple[float, float]:
        errors = self.errors(scores.numpy(), samples)
        return confidence_intervals.auc(errors, samples.labels == 1)(np.ones(len(errors))), float(
            errors[samples.labels == 0].mean()
        )

    def estimate(self, scores: Array, samples: Samples) -> manifest.Estimate:
        statistic = confidence_intervals.auc(self.errors(scores, samples), samples.labels == 1)
        return confidence_intervals.bootstrap(statistic, samples.recording, FEWER_RESAMPLES)

    def shares(self, scores: Array, samples: Samples) -> Array | None:
        return None

    def chance(self, samples: Samples) -> float:
        """The metric of random scores."""
        return 0.5

    def details(self, scores: Array, samples: Samples, on_validation: Array) -> TaskFigures:
        """The effect of the threshold on the test set; the threshold comes from normal validation samples alone."""
        from edgeloop_pipeline.results.task_figures import Detection, TaskFigures

        normal = self.errors(on_validation, self.splits.validation)[self.splits.validation.labels == 0]
        threshold = float(np.percentile(normal, self.percentile))
        errors, truth = self.errors(scores, samples), samples.labels == 1
        return TaskFigures(
            detection=Detection(
                threshold=threshold,
                percentile=self.percentile,
                normal=int((~truth).sum()),
                anomalous=int(truth.sum()),
                false_alarms=float((errors[~truth] > threshold).mean()),
                found=float((errors[truth] > threshold).mean()),
            )
        )

    def reference(self, on_validation: Array) -> dict[str, Any]:
        errors = self.errors(on_validation, self.splits.validation)
        normal = errors[self.splits.validation.labels == 0]
        return {"answer_mean": [float(normal.mean())], "answer_std": [float(normal.std())]}

    def described(self, figures: TaskFigures) -> manifest.Anomaly:
        from edgeloop_contract import manifest

        mean, std = self.normalization
        return manifest.Anomaly(labels=list(self.splits.labels), threshold=_detection(figures).threshold, mean=mean, std=std)

    def card(self, figures: TaskFigures) -> list[str]:
        d = _detection(figures)
        return [
            f"Tells {self.splits.labels[1]} from {self.splits.labels[0]} by the error of its reconstruction; trained on"
            f" {self.splits.labels[0]} samples alone.",
            f"At its threshold: {d.found:.1%} of {d.anomalous} found, {d.false_alarms:.1%} false alarms among"
            f" {d.normal} normal test samples.",
        ]


def _detection(figures: TaskFigures) -> Detection:
    assert figures.detection is not None
    return figures.detection
