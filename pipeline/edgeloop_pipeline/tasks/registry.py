"""The three tasks: what labels mean, what is learnt, how good it is, and what the device is told.

"Accuracy", in recipes, metrics and floors, is each task's metric: the share of right answers, R², or ROC AUC.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from edgeloop_contract import manifest
    from edgeloop_contract.arrays import Array
    from edgeloop_pipeline.data.types import PreparedSplits, Samples
    from edgeloop_pipeline.results.files import TaskFigures
    from edgeloop_pipeline.tasks.losses import Loss

TASKS = {
    "classification": "edgeloop_pipeline.tasks.classification:Classification",
    "regression": "edgeloop_pipeline.tasks.regression:Regression",
    "anomaly": "edgeloop_pipeline.tasks.anomaly:Anomaly",
}
METRICS = {"classification": "accuracy", "regression": "R²", "anomaly": "ROC AUC"}


class Task(Protocol):
    """One task on one data set. Scores are what the network answers: (N, ...) float32."""

    @property
    def outputs(self) -> int:
        """The number that the network's builder is given."""

    def check_answer(self, sample: tuple[int, ...], answer: tuple[int, ...]) -> str:
        """What a network that answers one normalized sample so should return instead, or ''."""

    def loss(self, smoothing: float = 0.0) -> Loss: ...

    def imitation(self, scores: Tensor, wanted: Tensor, temperature: float) -> Tensor:
        """How far a student's scores are from its teacher's."""

    def judge(self, scores: Tensor, samples: Samples) -> tuple[float, float]:
        """The metric and the loss."""

    def estimate(self, scores: Array, samples: Samples) -> manifest.Estimate: ...

    def chance(self, samples: Samples) -> float:
        """The metric of an answer that does not look at the sample."""

    def details(self, scores: Array, samples: Samples, on_validation: Array) -> TaskFigures:
        """More than one figure. `on_validation`: the shipped arithmetic's scores there, from which a threshold may come."""

    def reference(self, on_validation: Array) -> dict[str, Any]:
        """Of the answers on validation data: what drift is held against."""

    def described(self, figures: TaskFigures) -> manifest.Classification | manifest.Regression | manifest.Anomaly: ...

    def card(self, figures: TaskFigures) -> list[str]: ...


def task_for(splits: PreparedSplits) -> Task:
    """The task of these samples. Imports the module of that task alone."""
    module, _, name = TASKS[splits.task].partition(":")
    task: Task = getattr(importlib.import_module(module), name)(splits)
    return task


def module_of(task: str) -> str:
    """The module that holds a task's loss and metric: the cache keys of a recipe with that task name it."""
    return TASKS[task].partition(":")[0]
