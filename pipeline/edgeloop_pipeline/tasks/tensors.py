"""The task tensors: the answer is an array, and what counts is how much of the original model's own answers is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from edgeloop_contract.errors import DataError
from edgeloop_exporters.named_outputs import separate
from edgeloop_pipeline.tasks import confidence_intervals
from edgeloop_pipeline.tasks.kept_boxes import KeptBoxes
from edgeloop_pipeline.tasks.label_smoothing import refuse_smoothing

if TYPE_CHECKING:
    from torch import Tensor

    from edgeloop_contract import manifest
    from edgeloop_contract.arrays import Array
    from edgeloop_pipeline.data.types import PreparedSplits, Samples
    from edgeloop_pipeline.results.task_figures import TaskFigures
    from edgeloop_pipeline.tasks.losses import Loss

SUMS = 1e-2  # probabilities of one place are so near to 1 in all
INSIDE = 0.5  # a place with a larger value belongs to a mask
TINY = 1e-12
SILENT = 1e-2
AT = {
    "last": "Accuracy: the answer at a recording's last window has its label.",
    "any": "Accuracy: the surest answer of a recording that is not the first label has its label.",
    "every": "Accuracy: the share of windows whose answer has their recording's label.",
}


@dataclass(frozen=True)
class Tensors:
    """Labels and scores are arrays of one shape (N, …). The recipe's `measure` compares them, sample by sample.

    Of several outputs, joined (N, total), each counts by itself, and the metric is that of the worst one.
    """

    splits: PreparedSplits
    named: ClassVar[tuple[str, ...]] = ()

    @property
    def outputs(self) -> int:
        return int(np.prod(self.splits.train.labels.shape[1:]))

    def check_answer(self, sample: tuple[int, ...], answer: tuple[int, ...]) -> str:
        wanted = (1, *self.splits.train.labels.shape[1:])
        return "" if answer == wanted else f"an array of shape {wanted}, as the original does"

    def loss(self, smoothing: float = 0.0) -> Loss:
        """Mean squared error, relative to the power of the answers in training; of several outputs, the sum of theirs."""
        refuse_smoothing(smoothing, "tensors")
        return lambda scores, labels, *_: self._error(scores, labels)

    def imitation(self, scores: Tensor, wanted: Tensor, temperature: float) -> Tensor:
        return self._error(scores, wanted)

    def _error(self, scores: Tensor, wanted: Tensor) -> Tensor:
        import torch
        import torch.nn.functional as F

        found, right = self._parts(scores), self._parts(wanted.reshape(scores.shape))
        return torch.stack([F.mse_loss(found[name], right[name]) / power for name, power in self._powers.items()]).sum()

    @cached_property
    def _powers(self) -> dict[str, float]:
        """By output, of the answers in training."""
        parts = self._parts(np.asarray(self.splits.train.labels))
        return {name: max(float(np.square(part, dtype=np.float64).mean()), TINY) for name, part in parts.items()}

    def _parts(self, values: Any) -> dict[str, Any]:
        """By output; "" is the only one."""
        return separate(values, self.splits.outputs) if self.splits.outputs else {"": values}

    def _answers(self, values: Any) -> dict[str, Any]:
        """By output, without those that come back as inputs: what they do to the answers is what counts."""
        states = {entry.output for entry in self.splits.inputs if entry.output}
        return {name: part for name, part in self._parts(values).items() if name not in states}

    def judge(self, scores: Tensor, samples: Samples) -> tuple[float, float]:
        found, wanted = scores.numpy(), np.asarray(samples.labels)
        error = float(((found.astype(np.float64) - wanted) ** 2).mean())
        if self.splits.sequence is not None:
            return float(self._right(found, samples)[0].mean()), error
        return self._kept(found, wanted)(np.ones(len(samples))), error

    def _right(self, scores: Array, samples: Samples) -> tuple[Array, Array]:
        """Of each answer that is held against a recording's label, whether it is right, and the recording."""
        sequence = self.splits.sequence
        assert sequence is not None
        answers = self._answers(scores.reshape(np.asarray(samples.labels).shape))
        found, rows = sequence.answers(answers[sequence.output if sequence.output in answers else ""], samples.recording)
        return (found == samples.truth[rows]).astype(np.float64), samples.recording[rows]

    def estimate(self, scores: Array, samples: Samples) -> manifest.Estimate:
        if self.splits.sequence is not None:
            right, recording = self._right(scores, samples)
            return confidence_intervals.bootstrap(confidence_intervals.share(right), recording)
        return confidence_intervals.bootstrap(self._kept(scores, np.asarray(samples.labels)), samples.recording)

    def _kept(self, scores: Array, wanted: Array) -> Callable[[Array], float]:
        """The measure, of sample weights (N,)."""
        if self.splits.measure == "boxes":
            matched, boxes = self._boxes.matches(scores.reshape(wanted.shape), wanted)
            return lambda weights: float(weights @ matched / (weights @ boxes)) if weights @ boxes else 1.0
        each = list(self._kept_each(scores, wanted).values())
        return each[0] if len(each) == 1 else lambda weights: min(kept(weights) for kept in each)

    def _kept_each(self, scores: Array, wanted: Array) -> dict[str, Callable[[Array], float]]:
        """The measure of each output."""
        right = self._answers(wanted)
        return {name: self._kept_of(found, right[name]) for name, found in self._answers(scores.reshape(wanted.shape)).items()}

    @cached_property
    def _boxes(self) -> KeptBoxes:
        if self.splits.boxes is None or len(self.splits.shape) != 3:
            raise DataError("imported.boxes: missing; the measure boxes needs a detector's layout, and pictures")
        return KeptBoxes(self.splits.boxes, self.splits.outputs, self.splits.shape[0], self.splits.shape[1])

    def _kept_of(self, found: Array, wanted: Array) -> Callable[[Array], float]:
        """The measure of one output."""
        found, truth = found.astype(np.float64), wanted.astype(np.float64)
        kind = self.splits.measure
        if kind in ("signal", "r2"):
            signal = truth - truth.mean(0) if kind == "r2" else truth
            noise, power = (np.square(_rows(values)).sum(1) for values in (found - truth, signal))
            if kind == "signal" and is_silent(truth):
                power = np.maximum(power, SILENT**2 * _rows(truth).shape[1])
            return lambda weights: float(1 - weights @ noise / max(weights @ power, TINY))
        each_sample = EACH.get(kind)
        if each_sample is None:
            raise DataError("imported.measure: missing; the task tensors needs cosine, mask_iou, r2, signal, agreement or boxes")
        shares = each_sample(self._maps(found), self._maps(truth))
        return lambda weights: float(weights @ shares / weights.sum())

    def _maps(self, values: Array) -> Array:
        """Of a label for each pixel, as the measures read it: labels first, and of a single map probabilities."""
        masks = self.splits.masks
        if masks is None:
            return values
        values = np.moveaxis(values, -1, 1) if masks.channels == "last" and values.ndim == 4 else values
        return 1 / (1 + np.exp(-np.clip(values, -60, 60))) if masks.single and masks.scores == "logits" else values

    def shares(self, scores: Array, samples: Samples) -> Array | None:
        """Of the worst output; of labelled recordings, of each answer that is judged."""
        if self.splits.sequence is not None:
            return self._right(scores, samples)[0]
        wanted = np.asarray(samples.labels)
        right = self._answers(wanted)
        each = (
            [
                EACH[self.splits.measure](self._maps(found.astype(np.float64)), self._maps(right[name].astype(np.float64)))
                for name, found in self._answers(scores.reshape(wanted.shape)).items()
            ]
            if self.splits.measure in EACH
            else []
        )
        return min(each, key=lambda share: float(share.mean()), default=None)

    def chance(self, samples: Samples) -> float:
        """Of an answer that ignores the sample: the most common label's share; else not known, so nothing is called near chance."""
        return float(np.bincount(samples.truth).max() / len(samples.truth)) if self.splits.sequence is not None else 0.0

    def details(self, scores: Array, samples: Samples, on_validation: Array) -> TaskFigures:
        from edgeloop_pipeline.results.task_figures import OutputFigures, TaskFigures

        wanted = np.asarray(samples.labels)
        right = self._answers(wanted)
        if len(right) < 2 or self.splits.measure in ("boxes", "accuracy"):
            return TaskFigures()
        kept = {name: measure(np.ones(len(samples))) for name, measure in self._kept_each(scores, wanted).items()}
        rows = [
            OutputFigures(name, share, float(np.abs(right[name]).max()), is_silent(right[name])) for name, share in kept.items()
        ]
        return TaskFigures(outputs=sorted(rows, key=lambda row: row.kept))

    def reference(self, on_validation: Array) -> dict[str, Any]:
        return {}

    def described(self, figures: TaskFigures) -> manifest.Task:
        from edgeloop_contract import manifest

        if self.splits.sequence is not None:
            return self.splits.sequence.task(list(self.splits.labels))
        return self.splits.boxes or self.splits.masks or manifest.Tensors()

    def card(self, figures: TaskFigures) -> list[str]:
        if self.splits.boxes is not None:
            least = f"those with a score of {self.splits.boxes.score_threshold:g} or more"
            return [f"Answers boxes with {len(self.splits.labels)} labels, {least}."]
        if self.splits.masks is not None:
            names = [label for label in self.splits.masks.labels if label != self.splits.masks.background]
            return [f"Answers masks with {len(names)} label{'s' * (len(names) != 1)}."]
        if self.splits.sequence is not None:
            return [f"Answers each window of a recording: {', '.join(self.splits.labels)}. {AT[self.splits.sequence.at]}"]
        answers = {name: part.shape[1:] for name, part in self._answers(np.asarray(self.splits.train.labels)).items()}
        if len(answers) > 1:
            shown = ", ".join(f"{name} {list(shape)}" for name, shape in answers.items())
            return [f"Answers each sample with {len(answers)} arrays: {shown}."]
        return [f"Answers each sample with an array of shape {list(next(iter(answers.values())))}."]


def is_silent(answers: Array) -> bool:
    """Whether all are from 0 to SILENT: scores of what is never there, whose noise is measured against SILENT."""
    return bool(answers.size and answers.min() >= 0 and answers.max() < SILENT)


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
    """The share of places with the same largest channel: the first axis of an answer, as of a class a pixel; or the last one, where
    the values along it are probabilities, as of a letter at each place of a line.
    """
    last = wanted.ndim == 3 and np.abs(wanted.sum(-1) - 1).max(initial=0.0) < SUMS and np.abs(wanted.sum(1) - 1).max() >= SUMS
    axis = -1 if last else 1
    return np.asarray(_rows(found.argmax(axis) == wanted.argmax(axis)).mean(1))


EACH: dict[str, Callable[[Array, Array], Array]] = {"cosine": _cosine, "mask_iou": _mask_iou, "agreement": _agreement}
