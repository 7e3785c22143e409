"""What a bundle's shipped file answers to samples, in the form in which its task is judged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from edgeloop_agent.answers import reconstruction_errors
from edgeloop_agent.box_answers import found_boxes, found_points
from edgeloop_agent.engine import Engine
from edgeloop_agent.mask_answers import found_labels
from edgeloop_contract.archive import Bundle
from edgeloop_contract.arrays import Array
from edgeloop_contract.bench_report import VariantChoice
from edgeloop_contract.boxes import Found
from edgeloop_contract.manifest import SCORES, Precision
from edgeloop_contract.tasks import Anomaly, Classification, Detection, Keypoints, Multilabel, Regression, Segmentation, Task

__all__ = ["JUDGED_FROM", "Shipped", "right", "task_of"]

JUDGED_FROM = 0.01  # boxes with scores down to this one are judged, whatever the device's threshold


class Shipped:
    """A bundle's int8 file (TFLite, where it has one), loaded as a device does."""

    def __init__(self, path: Path) -> None:
        with Bundle.open(path) as bundle:
            order = sorted(bundle.manifest.variants, key=lambda v: (v.precision != Precision.INT8, v.runtime != "tflite"))
            self._engine = Engine(bundle, VariantChoice(order[0].name, 1, "judged by retraining"))
        self.task: Task = self._engine.manifest.task

    def labels(self, values: Array) -> Array:
        """Classification: the number (N,) of each sample's label."""
        assert isinstance(self.task, Classification)
        return np.array([int(scores.argmax()) for scores in self._scores(values)], dtype=np.int64)

    def values(self, values: Array) -> Array:
        """Regression: the quantities (N, quantities), in their units."""
        assert isinstance(self.task, Regression)
        rows = [scores.reshape(-1).astype(np.float64) for scores in self._scores(values)]
        return np.asarray(np.stack(rows) * np.asarray(self.task.std) + np.asarray(self.task.mean))

    def label_scores(self, values: Array) -> Array:
        """Multilabel: the score (N, labels) of each label."""
        assert isinstance(self.task, Multilabel)
        return np.stack([scores.reshape(-1) for scores in self._scores(values)])

    def errors(self, values: Array) -> Array:
        """Anomaly: the reconstruction error (N,) of each sample."""
        assert isinstance(self.task, Anomaly)
        mean, std = self.task.mean, self.task.std
        each = enumerate(self._scores(values))
        return np.array([reconstruction_errors(scores, values[i : i + 1], mean, std)[0] for i, scores in each])

    def boxes(self, values: Array) -> list[Found]:
        """Detection: the boxes of each sample, in its pixels."""
        assert isinstance(self.task, Detection)
        height, width = values.shape[1:3]
        return [found_boxes(self.task, outputs, height, width, JUDGED_FROM) for outputs in self._outputs(values)]

    def points(self, values: Array) -> list[tuple[Found, Array]]:
        """Keypoints: the boxes of each sample, and their points (n, points, 3) as x, y and score, in its pixels."""
        assert isinstance(self.task, Keypoints)
        height, width = values.shape[1:3]
        made = []
        for outputs in self._outputs(values):
            found = found_boxes(self.task, outputs, height, width, JUDGED_FROM)
            made.append((found, found_points(self.task, outputs, found, height, width)))
        return made

    def masks(self, values: Array) -> Array:
        """Segmentation: the number of each pixel's label (N, height, width), uint8."""
        assert isinstance(self.task, Segmentation)
        return np.stack([found_labels(self.task, outputs, *values.shape[1:3]) for outputs in self._outputs(values)])

    def _scores(self, values: Array) -> Iterator[Array]:
        name = self._engine.variant.output.name or SCORES
        return (outputs[name] for outputs in self._outputs(values))

    def _outputs(self, values: Array) -> Iterator[Mapping[str, Array]]:
        """The outputs of each sample by name, one sample at a time."""
        given = self._engine.manifest.inputs[0].name
        return (self._engine.outputs({given: values[i : i + 1]}, self._engine.new_memory()) for i in range(len(values)))


def task_of(path: Path) -> Task:
    """What the outputs of a bundle mean."""
    with Bundle.open(path) as bundle:
        return bundle.manifest.task


def right(path: Path, values: Array, labels: Array) -> Array:
    """(N,) whether a bundle's shipped file answers with the label."""
    return np.asarray(Shipped(path).labels(values) == labels)
