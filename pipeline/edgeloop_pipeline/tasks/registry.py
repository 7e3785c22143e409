"""The tasks: each defines the meaning of labels, the loss, the metric, and the texts for the device.

"Accuracy", in recipes, metrics and floors, is each task's metric: the share of right answers, R², ROC AUC, mAP@0.5:0.95, mean IoU,
OKS mAP, mean AP of labels, or what is kept of an imported model's own answers.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor

    from edgeloop_contract import manifest
    from edgeloop_contract.arrays import Array
    from edgeloop_pipeline.data.types import PreparedSplits, Samples
    from edgeloop_pipeline.recipe.settings import RecipeHead
    from edgeloop_pipeline.results.task_figures import TaskFigures
    from edgeloop_pipeline.tasks.losses import Loss

TASKS = {
    "classification": "edgeloop_pipeline.tasks.classification:Classification",
    "regression": "edgeloop_pipeline.tasks.regression:Regression",
    "anomaly": "edgeloop_pipeline.tasks.anomaly:Anomaly",
    "tensors": "edgeloop_pipeline.tasks.tensors:Tensors",
    "detection": "edgeloop_pipeline.tasks.detection.task:Detection",
    "keypoints": "edgeloop_pipeline.tasks.keypoints.task:Keypoints",
    "segmentation": "edgeloop_pipeline.tasks.segmentation.task:Segmentation",
    "multilabel": "edgeloop_pipeline.tasks.multilabel.task:Multilabel",
}
LATE = {  # what a task imports when it trains, because it needs torch
    "detection": ("edgeloop_pipeline.tasks.detection.loss",),
    "keypoints": ("edgeloop_pipeline.tasks.keypoints.loss", "edgeloop_pipeline.tasks.detection.loss"),
    "segmentation": ("edgeloop_pipeline.tasks.segmentation.loss",),
    "multilabel": ("edgeloop_pipeline.tasks.multilabel.loss",),
}
METRICS = {
    "classification": "accuracy",
    "regression": "R²",
    "anomaly": "ROC AUC",
    "detection": "mAP",
    "keypoints": "OKS mAP",
    "segmentation": "mean IoU",
    "multilabel": "mean AP",
}
# Where the original model's answers are the labels, nothing is accuracy.
MEASURES = {
    "agreement": "agreement",
    "cosine": "cosine similarity",
    "mask_iou": "mask IoU",
    "boxes": "boxes kept",
    "r2": "R²",
    "signal": "signal kept",
    "accuracy": "accuracy",  # by labels of recordings, of a model that keeps state
}


class Task(Protocol):
    """One task on one data set. Scores are the network's outputs: (N, ...) float32."""

    named: ClassVar[tuple[str, ...]]  # outputs that the network returns by name, in a dict; (): it returns one tensor

    @property
    def outputs(self) -> int:
        """The number of outputs, which the network's builder gets."""

    def check_answer(self, sample: tuple[int, ...], answer: tuple[int, ...]) -> str:
        """The output that the network should return for one normalized sample; '' if this answer is right."""

    def loss(self, smoothing: float = 0.0) -> Loss: ...

    def imitation(self, scores: Tensor, wanted: Tensor, temperature: float) -> Tensor:
        """The loss between a student's scores and its teacher's."""

    def judge(self, scores: Tensor, samples: Samples) -> tuple[float, float]:
        """The metric and the loss."""

    def estimate(self, scores: Array, samples: Samples) -> manifest.Estimate: ...

    def shares(self, scores: Array, samples: Samples) -> Array | None:
        """The metric of each sample (N,), where the metric is their mean; None where it is not."""

    def chance(self, samples: Samples) -> float:
        """The metric of the best answer that ignores the sample."""

    def details(self, scores: Array, samples: Samples, on_validation: Array) -> TaskFigures:
        """The detailed figures. `on_validation`: the quantized scores of validation samples, which may give a threshold."""

    def reference(self, on_validation: Array) -> dict[str, Any]:
        """The statistics of the answers on validation data, for the drift reference."""

    def described(self, figures: TaskFigures) -> manifest.Task: ...

    def card(self, figures: TaskFigures) -> list[str]: ...


@runtime_checkable
class NamedOutputs(Protocol):
    """A task whose network returns several outputs by name (`Task.named`)."""

    def check_outputs(self, shapes: Mapping[str, tuple[int, ...]]) -> str:
        """The outputs that the network should return for one sample; '' if these shapes, with the batch, are right."""


def metric_name(task: str, measure: str | None = "") -> str:
    """The metric of a task in words; `measure`: the recipe's, where an imported model's own answers are the labels."""
    return MEASURES[measure] if measure else METRICS.get(task, "accuracy")


def metric_of(head: RecipeHead) -> str:
    return metric_name(head.task, head.imported.measure if head.imported else None)


def task_for(splits: PreparedSplits) -> Task:
    """The task of these samples. Imports only that task's module."""
    module, _, name = TASKS[splits.task].partition(":")
    task: Task = getattr(importlib.import_module(module), name)(splits)
    return task


def modules_of(task: str) -> tuple[str, ...]:
    """The names of the modules with a task's loss and metric: they are in the cache keys of recipes with this task."""
    return (TASKS[task].partition(":")[0], *LATE.get(task, ()))
