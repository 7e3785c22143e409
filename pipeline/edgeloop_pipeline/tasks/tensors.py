"""The task tensors: the answer is an array, and what counts is how much of the original model's own answers is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeloop_contract.errors import DataError
from edgeloop_pipeline.tasks import confidence_intervals
from edgeloop_pipeline.tasks.regression import refuse_smoothing

if TYPE_CHECKING:
    from torch import Tensor

    from edgeloop_contract import manifest
    from edgeloop_contract.arrays import Array
    from edgeloop_pipeline.data.types import PreparedSplits, Samples
    from edgeloop_pipeline.results.files import TaskFigures
    from edgeloop_pipeline.tasks.losses import Loss

INSIDE = 0.5  # a place with a larger value belongs to a mask
TINY = 1e-12


@dataclass(frozen=True)
class Tensors:
    """Labels and scores are arrays of one shape (N, …). The recipe's `measure` compares them, sample by sample."""

    splits: PreparedSplits

    @property
    def outputs(self) -> int:
        return int(np.prod(self.splits.train.labels.shape[1:]))

    def check_answer(self, sample: tuple[int, ...], answer: tuple[int, ...]) -> str:
        wanted = (1, *self.splits.train.labels.shape[1:])
        return "" if answer == wanted else f"an array of shape {wanted}, as the original does"

    def loss(self, smoothing: float = 0.0) -> Loss:
        """Mean squared error, relative to the power of the answers in training."""
        import torch.nn.functional as F

        refuse_smoothing(smoothing, "tensors")
        power = max(float((self.splits.train.labels.astype(np.float64) ** 2).mean()), TINY)
        return lambda scores, labels, *_: F.mse_loss(scores, labels) / power

    def imitation(self, scores: Tensor, wanted: Tensor, temperature: float) -> Tensor:
        import torch.nn.functional as F

        return F.mse_loss(scores, wanted)

    def judge(self, scores: Tensor, samples: Samples) -> tuple[float, float]:
        found, wanted = scores.numpy(), np.asarray(samples.labels)
        error = float(((found.astype(np.float64) - wanted) ** 2).mean())
        return self._kept(found, wanted)(np.ones(len(samples))), error

    def estimate(self, scores: Array, samples: Samples) -> manifest.Estimate:
        return confidence_intervals.bootstrap(self._kept(scores, np.asarray(samples.labels)), samples.recording)

    def _kept(self, scores: Array, wanted: Array) -> Callable[[Array], float]:
        """The measure, of sample weights (N,)."""
        found = scores.reshape(wanted.shape).astype(np.float64)
        truth = wanted.astype(np.float64)
        kind = self.splits.measure
        if kind == "signal":
            noise, power = (each(values).sum(1) for each, values in ((np.square, _rows(found - truth)), (np.square, _rows(truth))))
            return lambda weights: float(1 - weights @ noise / max(weights @ power, TINY))
        each_sample = {"cosine": _cosine, "mask_iou": _mask_iou, "agreement": _agreement}.get(kind)
        if each_sample is None:
            raise DataError("imported.measure: missing; the task tensors needs cosine, mask_iou, signal or agreement")
        shares = each_sample(found, truth)
        return lambda weights: float(weights @ shares / weights.sum())

    def chance(self, samples: Samples) -> float:
        """Of an answer that ignores the sample: not known, so nothing is called near chance."""
        return 0.0

    def details(self, scores: Array, samples: Samples, on_validation: Array) -> TaskFigures:
        from edgeloop_pipeline.results.files import TaskFigures

        return TaskFigures()

    def reference(self, on_validation: Array) -> dict[str, Any]:
        return {}

    def described(self, figures: TaskFigures) -> manifest.Tensors:
        from edgeloop_contract import manifest

        return manifest.Tensors()

    def card(self, figures: TaskFigures) -> list[str]:
        return [f"Answers each sample with an array of shape {list(self.splits.train.labels.shape[1:])}."]


def _rows(values: Array) -> Array:
    return values.reshape(len(values), -1)


def _cosine(found: Array, wanted: Array) -> Array:
    """Of each sample's whole answer; 1 where both are zero."""
    a, b = _rows(found), _rows(wanted)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.asarray(np.where(norms > TINY, (a * b).sum(1) / np.maximum(norms, TINY), np.allclose(a, b)))


def _mask_iou(found: Array, wanted: Array) -> Array:
    """Intersection over union of what lies above one half; 1 where both masks are empty."""
    a, b = _rows(found) > INSIDE, _rows(wanted) > INSIDE
    union = (a | b).sum(1)
    return np.asarray(np.where(union, (a & b).sum(1) / np.maximum(union, 1), 1.0))


def _agreement(found: Array, wanted: Array) -> Array:
    """The share of places with the same largest channel (the first axis of an answer), as of a class a pixel."""
    return np.asarray(_rows(found.argmax(1) == wanted.argmax(1)).mean(1))
