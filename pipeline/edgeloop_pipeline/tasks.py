"""The three tasks: what labels mean, what is learnt, how good it is, and what the device is told.

"Accuracy", in recipes, metrics and floors, is each task's measure: the share of right answers, R², or ROC AUC.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from edgeloop_agent.answers import reconstruction_errors, softmax
from edgeloop_contract import manifest
from edgeloop_contract.errors import DataError, ModelError
from edgeloop_pipeline import intervals

if TYPE_CHECKING:
    from torch import Tensor

    from edgeloop_pipeline.data import Array, PreparedSplits, Samples
    from edgeloop_pipeline.training.steps import Loss

MEASURES = {"classification": "accuracy", "regression": "R²", "anomaly": "ROC AUC"}
MOST_CLASSES_SHOWN = 30
FEWER_RESAMPLES = 500  # an AUC of ten thousand samples takes a millisecond


class Task(Protocol):
    """One task on one data set. Scores are what the network answers: (N, ...) float32."""

    @property
    def outputs(self) -> int:
        """The number that the network's builder is given."""

    def check_answer(self, sample: tuple[int, ...], answer: tuple[int, ...]) -> str:
        """What a network that answers one normalised sample so should return instead, or ''."""

    def loss(self, smoothing: float = 0.0) -> Loss: ...

    def imitation(self, scores: Tensor, wanted: Tensor, temperature: float) -> Tensor:
        """How far a student's scores are from its teacher's."""

    def judge(self, scores: Tensor, samples: Samples) -> tuple[float, float]:
        """The measure and the loss."""

    def estimate(self, scores: Array, samples: Samples) -> manifest.Estimate: ...

    def details(self, scores: Array, samples: Samples, on_validation: Array) -> dict[str, Any]:
        """More than one figure. `on_validation`: the shipped arithmetic's scores there, from which a threshold may come."""

    def reference(self, on_validation: Array) -> dict[str, Any]:
        """Of the answers on validation data: what drift is held against."""

    def described(self, verified: dict[str, Any]) -> manifest.Classification | manifest.Regression | manifest.Anomaly: ...

    def card(self, verified: dict[str, Any]) -> list[str]: ...


def checked_labels(task: str, split: str, labels: Array, names: tuple[str, ...]) -> Array:
    """Labels as the task wants them: (N,) int64 classes, or (N, quantities) float32. Raises DataError."""
    if task == "regression":
        values = np.asarray(labels)
        values = values[:, None] if values.ndim == 1 else values
        if values.dtype.kind not in "iuf" or values.shape[1:] != (len(names),) or not np.isfinite(values).all():
            raise DataError(f"{split}: labels must be finite numbers, one a recording for each of {', '.join(names)}")
        return values.astype(np.float32)
    if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= len(names):
        raise DataError(f"{split}: labels must be integers from 0 to {len(names) - 1}")
    if task == "anomaly":
        if len(names) != 2:
            raise DataError(f"{split}: an anomaly task has two labels, normal (0) and anomalous (1); not {', '.join(names)}")
        if split == "train" and labels.any():
            raise DataError("train: holds anomalous recordings; an autoencoder learns from normal ones alone: move them to test")
        if split != "train" and len(np.unique(labels)) < 2:
            raise DataError(f"{split}: needs normal and anomalous recordings; without both there is nothing to measure")
    return labels.astype(np.int64)


def of(splits: PreparedSplits) -> Task:
    return KINDS[splits.task](splits)


@dataclass(frozen=True)
class Classification:
    """Labels are classes; scores are logits."""

    splits: PreparedSplits

    @property
    def outputs(self) -> int:
        return len(self.splits.labels)

    def check_answer(self, sample: tuple[int, ...], answer: tuple[int, ...]) -> str:
        return "" if answer == (1, self.outputs) else f"scores of shape {(1, self.outputs)}"

    def loss(self, smoothing: float = 0.0) -> Loss:
        from edgeloop_pipeline.training.steps import cross_entropy

        return cross_entropy(smoothing)

    def imitation(self, scores: Tensor, wanted: Tensor, temperature: float) -> Tensor:
        """Hinton et al. 2015."""
        import torch.nn.functional as F

        soft = F.kl_div(
            F.log_softmax(scores / temperature, 1), F.log_softmax(wanted / temperature, 1), log_target=True, reduction="batchmean"
        )
        return temperature**2 * soft

    def judge(self, scores: Tensor, samples: Samples) -> tuple[float, float]:
        import torch
        import torch.nn.functional as F

        labels = torch.from_numpy(np.asarray(samples.labels))
        return float((scores.argmax(1) == labels).double().mean()), float(F.cross_entropy(scores, labels))

    def estimate(self, scores: Array, samples: Samples) -> manifest.Estimate:
        return intervals.bootstrap(intervals.share(scores.argmax(1) == samples.labels), samples.recording)

    def details(self, scores: Array, samples: Samples, on_validation: Array) -> dict[str, Any]:
        """`confusion`: rows are true classes, columns answers. `classes`: precision, recall, F1 and count of each."""
        names = self.splits.labels
        classes, truth = len(names), np.asarray(samples.labels)
        matrix = np.bincount(truth * classes + scores.argmax(1), minlength=classes**2).reshape(classes, classes)
        hits, said, counts = np.diag(matrix), matrix.sum(0), matrix.sum(1)
        figures = {  # of a class that was never said, or never true: 0
            "precision": hits / np.maximum(said, 1),
            "recall": hits / np.maximum(counts, 1),
            "f1": 2 * hits / np.maximum(said + counts, 1),
        }
        # A table of a thousand rows says nothing: the commonest ones.
        shown = np.sort(np.argsort(-counts, kind="stable")[:MOST_CLASSES_SHOWN])
        return {
            "confusion": matrix[np.ix_(shown, shown)].tolist(),
            "classes": [
                {"label": names[i], "count": int(counts[i]), **{k: float(v[i]) for k, v in figures.items()}} for i in shown
            ],
        }

    def reference(self, on_validation: Array) -> dict[str, Any]:
        shares = softmax(on_validation)
        counts = np.bincount(shares.argmax(1), minlength=self.outputs) / len(shares)
        return {"mean_confidence": float(shares.max(1).mean()), "label_share": counts.tolist()}

    def described(self, verified: dict[str, Any]) -> manifest.Classification:
        return manifest.Classification(labels=list(self.splits.labels))

    def card(self, verified: dict[str, Any]) -> list[str]:
        weakest = min(verified["classes"], key=lambda c: c["recall"])
        return [
            f"Classifies into {', '.join(self.splits.labels[:MOST_CLASSES_SHOWN])}{' …' * (self.outputs > MOST_CLASSES_SHOWN)}.",
            f"Weakest class: {weakest['label']}, recall {weakest['recall']:.1%} of {weakest['count']}.",
        ]


@dataclass(frozen=True)
class Regression:
    """Labels are quantities; scores are these, standardised by the training set."""

    splits: PreparedSplits

    @cached_property
    def scale(self) -> tuple[Array, Array]:
        """Mean and std of each quantity, float32."""
        labels = self.splits.train.labels.astype(np.float64)
        std = labels.std(axis=0)
        if (std < 1e-12).any():
            name = self.splits.labels[int((std < 1e-12).argmax())]
            raise DataError(f"train: {name} is the same in every recording; there is nothing to learn")
        return labels.mean(axis=0).astype(np.float32), std.astype(np.float32)

    @property
    def outputs(self) -> int:
        return len(self.splits.labels)

    def check_answer(self, sample: tuple[int, ...], answer: tuple[int, ...]) -> str:
        return "" if answer == (1, self.outputs) else f"one standardised value a quantity, of shape {(1, self.outputs)}"

    def loss(self, smoothing: float = 0.0) -> Loss:
        import torch
        import torch.nn.functional as F

        _refuse_smoothing(smoothing, "regression")
        mean, std = (torch.from_numpy(side) for side in self.scale)
        return lambda scores, labels, *_: F.mse_loss(scores, (labels - mean.to(labels.device)) / std.to(labels.device))

    def imitation(self, scores: Tensor, wanted: Tensor, temperature: float) -> Tensor:
        import torch.nn.functional as F

        return F.mse_loss(scores, wanted)

    def judge(self, scores: Tensor, samples: Samples) -> tuple[float, float]:
        import torch

        labels = torch.from_numpy(np.asarray(samples.labels))
        found = intervals.r2(self._values(scores.numpy()), samples.labels.astype(np.float64))(np.ones(len(samples)))
        return found, float(self.loss()(scores, labels, scores, _nothing))

    def _values(self, scores: Array) -> Array:
        mean, std = self.scale
        return np.asarray(scores.astype(np.float64) * std + mean)

    def estimate(self, scores: Array, samples: Samples) -> manifest.Estimate:
        return intervals.bootstrap(intervals.r2(self._values(scores), samples.labels.astype(np.float64)), samples.recording)

    def details(self, scores: Array, samples: Samples, on_validation: Array) -> dict[str, Any]:
        """Of each quantity, in its unit: mean absolute error, root mean squared error, and R²."""
        values, truth, once = self._values(scores), samples.labels.astype(np.float64), np.ones(len(samples))
        off = values - truth
        return {
            "quantities": [
                {
                    "name": name,
                    "mae": float(np.abs(off[:, i]).mean()),
                    "rmse": float(np.sqrt((off[:, i] ** 2).mean())),
                    "r2": intervals.r2(values[:, i : i + 1], truth[:, i : i + 1])(once),
                    "low": float(truth[:, i].min()),
                    "high": float(truth[:, i].max()),
                }
                for i, name in enumerate(self.splits.labels)
            ]
        }

    def reference(self, on_validation: Array) -> dict[str, Any]:
        values = self._values(on_validation)
        return {"answer_mean": values.mean(0).tolist(), "answer_std": values.std(0).tolist()}

    def described(self, verified: dict[str, Any]) -> manifest.Regression:
        mean, std = (side.astype(np.float64).tolist() for side in self.scale)
        return manifest.Regression(quantities=list(self.splits.labels), mean=mean, std=std)

    def card(self, verified: dict[str, Any]) -> list[str]:
        return [
            f"Estimates {q['name']}: off by {q['mae']:.3g} on average ({q['low']:.3g} to {q['high']:.3g} in the test set)."
            for q in verified["quantities"]
        ]


@dataclass(frozen=True)
class Anomaly:
    """Labels are normal (0) and anomalous (1); the network reconstructs its normalised input, trained on normal samples."""

    splits: PreparedSplits
    percentile: float = 99.0  # of the validation set's normal scores: what is above it is called an anomaly

    @cached_property
    def normalisation(self) -> tuple[list[float], list[float]]:
        from edgeloop_pipeline.networks import front_of

        front = front_of(self.splits)
        return list(front.mean), list(front.std)

    @property
    def outputs(self) -> int:
        return int(np.prod(self.splits.shape))

    def check_answer(self, sample: tuple[int, ...], answer: tuple[int, ...]) -> str:
        return "" if np.prod(answer) == np.prod(sample) else f"a reconstruction of shape {sample}"

    def loss(self, smoothing: float = 0.0) -> Loss:
        import torch.nn.functional as F

        _refuse_smoothing(smoothing, "anomaly")
        return lambda scores, labels, x, *_: F.mse_loss(scores.flatten(1), x.flatten(1))

    def imitation(self, scores: Tensor, wanted: Tensor, temperature: float) -> Tensor:
        import torch.nn.functional as F

        return F.mse_loss(scores, wanted)

    def errors(self, scores: Array, samples: Samples) -> Array:
        """Reconstruction error of each sample, (N,)."""
        return reconstruction_errors(scores, np.asarray(samples.values), *self.normalisation)

    def judge(self, scores: Tensor, samples: Samples) -> tuple[float, float]:
        errors = self.errors(scores.numpy(), samples)
        return intervals.auc(errors, samples.labels == 1)(np.ones(len(errors))), float(errors[samples.labels == 0].mean())

    def estimate(self, scores: Array, samples: Samples) -> manifest.Estimate:
        statistic = intervals.auc(self.errors(scores, samples), samples.labels == 1)
        return intervals.bootstrap(statistic, samples.recording, FEWER_RESAMPLES)

    def details(self, scores: Array, samples: Samples, on_validation: Array) -> dict[str, Any]:
        """What the threshold does on the test set; it comes from normal validation samples alone."""
        normal = self.errors(on_validation, self.splits.validation)[self.splits.validation.labels == 0]
        threshold = float(np.percentile(normal, self.percentile))
        errors, truth = self.errors(scores, samples), samples.labels == 1
        return {
            "detection": {
                "threshold": threshold,
                "percentile": self.percentile,
                "normal": int((~truth).sum()),
                "anomalous": int(truth.sum()),
                "false_alarms": float((errors[~truth] > threshold).mean()),
                "found": float((errors[truth] > threshold).mean()),
            }
        }

    def reference(self, on_validation: Array) -> dict[str, Any]:
        errors = self.errors(on_validation, self.splits.validation)
        normal = errors[self.splits.validation.labels == 0]
        return {"answer_mean": [float(normal.mean())], "answer_std": [float(normal.std())]}

    def described(self, verified: dict[str, Any]) -> manifest.Anomaly:
        mean, std = self.normalisation
        return manifest.Anomaly(labels=list(self.splits.labels), threshold=verified["detection"]["threshold"], mean=mean, std=std)

    def card(self, verified: dict[str, Any]) -> list[str]:
        d = verified["detection"]
        return [
            f"Tells {self.splits.labels[1]} from {self.splits.labels[0]} by how badly it reconstructs a sample; learnt from"
            f" {self.splits.labels[0]} samples alone.",
            f"At its threshold: {d['found']:.1%} of {d['anomalous']} found, {d['false_alarms']:.1%} false alarms among"
            f" {d['normal']} normal test samples.",
        ]


def _refuse_smoothing(smoothing: float, task: str) -> None:
    if smoothing:
        raise ModelError(f"label_smoothing: is for classes; remove it from a {task} recipe")


def _nothing() -> Any:
    from contextlib import nullcontext

    return nullcontext()


KINDS: dict[str, Callable[[PreparedSplits], Task]] = {
    "classification": Classification,
    "regression": Regression,
    "anomaly": Anomaly,
}
