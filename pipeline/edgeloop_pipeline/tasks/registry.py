"""The three tasks: what labels mean, what is learnt, how good it is, and what the device is told.

"Accuracy", in recipes, metrics and floors, is each task's measure: the share of right answers, R², or ROC AUC.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from edgeloop_contract import manifest
from edgeloop_contract.errors import DataError
from edgeloop_pipeline.tasks.anomaly import Anomaly
from edgeloop_pipeline.tasks.classification import Classification
from edgeloop_pipeline.tasks.regression import Regression

if TYPE_CHECKING:
    from torch import Tensor

    from edgeloop_contract.arrays import Array
    from edgeloop_pipeline.data.types import PreparedSplits, Samples
    from edgeloop_pipeline.training.steps import Loss

MEASURES = {"classification": "accuracy", "regression": "R²", "anomaly": "ROC AUC"}


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

    def chance(self, samples: Samples) -> float:
        """The measure of an answer that does not look at the sample."""

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
        flat = values.max(axis=0) == values.min(axis=0)
        if flat.any():
            name = names[int(flat.argmax())]
            if split == "train":
                raise DataError(f"train: {name} is the same in every recording; there is nothing to learn")
            raise DataError(
                f"{split}: {name} is {values[0, int(flat.argmax())]:g} in every recording, and R² cannot be told from it; move"
                f" recordings with other values of {name} to {split}"
            )
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


KINDS: dict[str, Callable[[PreparedSplits], Task]] = {
    "classification": Classification,
    "regression": Regression,
    "anomaly": Anomaly,
}
