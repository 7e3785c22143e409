"""What a model's scores mean, by task: the same arithmetic on the workstation and on the device."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from edgeloop_agent.box_answers import box_feature_names, box_features
from edgeloop_agent.label_answers import Label, label_answers, label_feature_names, label_features
from edgeloop_agent.mask_answers import mask_feature_names, mask_features
from edgeloop_contract.arrays import Array
from edgeloop_contract.drift import MAX_ANSWERS
from edgeloop_contract.manifest import Anomaly, Classification, Regression, Task
from edgeloop_contract.tasks import Detection, Multilabel, Segmentation, Tensors

__all__ = ["answer_features", "answer_names", "canonical_label", "confidence_of", "interpret", "reconstruction_errors", "softmax"]

MANY_CLASSES, MAX_NAMED = 20, 5  # above so many classes only the most probable are named: a thousand take half a millisecond
MAX_OUTPUTS = 4  # of a model without a declared meaning that are watched


def softmax(scores: Array) -> Array:
    """Probabilities of float scores along the last axis."""
    shifted = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


def reconstruction_errors(scores: Array, samples: Array, mean: list[float], std: list[float]) -> Array:
    """Mean squared error of each reconstruction (N, ...), channels first, against its normalized sample (N, ..., C)."""
    normal = (samples.astype(np.float32) - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
    wanted = np.moveaxis(normal, -1, 1).reshape(len(samples), -1)
    return np.asarray(((scores.reshape(len(samples), -1) - wanted) ** 2).mean(axis=1))


class Interpretation(NamedTuple):
    """What scores say, by the task's kind: a label, with probabilities or an anomaly's score; values by quantity; labels."""

    label: str | None = None
    probabilities: dict[str, float] | None = None
    values: dict[str, float] | None = None
    score: float | None = None
    labels: list[Label] | None = None


def interpret(task: Task, scores: Array, sample: Array) -> Interpretation:
    """The meaning of one sample's scores (1, ...). `sample`: (1, *sample)."""
    if isinstance(task, Regression):
        values = scores[0] * np.asarray(task.std) + np.asarray(task.mean)
        return Interpretation(values={n: float(f"{v:.6g}") for n, v in zip(task.quantities, values, strict=True)})
    if isinstance(task, Anomaly):
        error = float(reconstruction_errors(scores, sample, task.mean, task.std)[0])
        return Interpretation(task.labels[error > task.threshold], score=float(f"{error:.6g}"))
    if isinstance(task, Multilabel):
        return Interpretation(labels=label_answers(task, scores))
    assert not isinstance(task, Tensors | Detection | Segmentation)
    row = scores[0]
    best = int(row.argmax())
    if task.scores == "probabilities":
        order = range(len(row)) if len(row) <= MANY_CLASSES else np.argsort(-row, kind="stable")[:MAX_NAMED].tolist()
        return Interpretation(task.labels[best], {task.labels[i]: round(float(row[i]), 4) for i in order})
    if len(row) <= MANY_CLASSES:  # so few are faster without numpy
        largest = float(row[best])
        powers = [math.exp(score - largest) for score in row.tolist()]
        total = sum(powers)
        named = {n: round(power / total, 4) for n, power in zip(task.labels, powers, strict=True)}
        return Interpretation(task.labels[best], named)
    shares = np.exp(row - row[best])
    total = float(shares.sum())
    named = {}
    for _ in range(MAX_NAMED):
        named[task.labels[best]] = round(float(shares[best]) / total, 4)
        shares[best] = -1.0
        best = int(shares.argmax())
    return Interpretation(next(iter(named)), named)


def confidence_of(task: Task, row: Array) -> float:
    """The probability of the most probable label, 0 to 1. `row`: (outputs,) scores of one sample of a classification."""
    if isinstance(task, Classification) and task.scores == "probabilities":
        return float(min(max(row.max(), 0.0), 1.0))
    return float(1 / np.exp(row - row.max()).sum())


def canonical_label(label: str, names: Sequence[str]) -> str:
    """A label from outside in the model's spelling: 1.0 and "1", true and "True" are one class. Unknown labels stay."""
    if label in names:
        return label
    same = [name for name in names if _normal_form(name) == _normal_form(label)]
    return same[0] if len(same) == 1 else label


def _normal_form(name: str) -> float | str:
    plain = name.strip().casefold()
    try:
        return float({"false": "0", "true": "1"}.get(plain, plain)) if "_" not in plain else plain
    except ValueError:
        return plain


def answer_names(task: Task, outputs: Sequence[str] = ("answer",)) -> list[str]:
    """Names of the features that `answer_features` returns. `outputs`: of a model without a declared meaning."""
    if isinstance(task, Regression):
        return [f"value of {name}" for name in task.quantities[:MAX_ANSWERS]]
    if isinstance(task, Anomaly):
        return ["log error"]
    if isinstance(task, Tensors):
        return [f"{what} of {name}" for name in sorted(outputs)[:MAX_OUTPUTS] for what in ("mean", "spread")]
    if isinstance(task, Detection):
        return box_feature_names(task)
    if isinstance(task, Segmentation):
        return mask_feature_names(task)
    if isinstance(task, Multilabel):
        return label_feature_names(task)
    each = [f"score of {name}" for name in task.labels] if len(task.labels) <= MAX_ANSWERS else ["largest score"]
    return [*each, "confidence"]


def answer_features(task: Task, scores: Array | Mapping[str, Array], sample: Array) -> tuple[Array, int, float]:
    """Features of the answer to one sample (1, *sample) for the drift monitor, the label's number, and the confidence (0 to 1).

    `scores`: (1, ...), or by output, of a model without a declared meaning, of boxes and of masks. Without a declared
    meaning there is one label, of which it is always sure.
    """
    if isinstance(task, Detection):
        named = scores if isinstance(scores, Mapping) else {"": scores}
        features, sure = box_features(task, named, sample)
        return features, 0, sure
    if isinstance(task, Segmentation):
        features, sure = mask_features(task, scores if isinstance(scores, Mapping) else {task.output: scores})
        return features, 0, sure
    if isinstance(task, Tensors):
        few = [scores[name] for name in sorted(scores)[:MAX_OUTPUTS]] if isinstance(scores, Mapping) else [scores]
        rows = [np.asarray(values, np.float64) for values in few]
        return np.array([feature for row in rows for feature in (row.mean(), np.log1p(row.std()))]), 0, 1.0
    assert not isinstance(scores, Mapping)
    if isinstance(task, Multilabel):
        features, sure = label_features(task, scores)
        return features, 0, sure
    if isinstance(task, Regression):
        return scores[0, :MAX_ANSWERS] * np.asarray(task.std[:MAX_ANSWERS]) + np.asarray(task.mean[:MAX_ANSWERS]), 0, 1.0
    if isinstance(task, Anomaly):
        error = float(reconstruction_errors(scores, sample, task.mean, task.std)[0])
        return np.array([np.log(error + 1e-12)]), int(error > task.threshold), 1.0
    row = scores[0].astype(np.float64)
    label, certainty = int(row.argmax()), confidence_of(task, row)
    each = row if len(row) <= MAX_ANSWERS else row[label : label + 1]
    return np.concatenate([each, [certainty]]), label, certainty
