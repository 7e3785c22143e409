"""Answers of two models to the same samples, whose errors come by chance: what the gate is held against."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgeloop_contract.boxes import Found
from edgeloop_pipeline.data.boxes import padded
from edgeloop_pipeline.data.types import Samples
from edgeloop_pipeline.retraining import judging
from edgeloop_pipeline.retraining.paired_measure import PairedMeasure

EACH = 3  # samples of a recording
Rng = np.random.Generator


def _samples(labels: np.ndarray, recordings: int, values: np.ndarray | None = None) -> tuple[Samples, np.ndarray]:
    place = np.repeat(np.arange(recordings), EACH)
    groups = np.array([f"device {i % 2}" for i in place])
    return Samples(np.zeros((len(place), 1)) if values is None else values, labels, place, groups), groups


def anomalies(rng: Rng, recordings: int, gain: float = 0.0, scale: float = 1.0) -> PairedMeasure:
    """Errors of both; a recording is harder for both, and for each by itself. `gain`, `scale`: of the challenger."""
    count = recordings * EACH
    truth = (np.arange(recordings) % 3 == 0).repeat(EACH).astype(np.int64)
    both = rng.normal(0, 0.5, recordings).repeat(EACH)
    errors = [
        (1.0 + more) * truth + both + rng.normal(0, 0.5, recordings).repeat(EACH) + rng.normal(0, 0.7, count)
        for more in (0.0, gain)
    ]
    samples, groups = _samples(truth, recordings)
    return judging.of_errors([errors[0], errors[1] * scale], samples, groups)


def quantities(rng: Rng, recordings: int, gain: float = 0.0, scale: float = 1.0) -> PairedMeasure:
    """Two quantities. `gain`: the share by which the challenger's errors are smaller."""
    truth = rng.normal(0, 1, (recordings * EACH, 2))
    answers = []
    for off in (1.0, 1.0 - gain):
        bias = rng.normal(0, 0.4, (recordings, 2)).repeat(EACH, 0)
        answers.append(truth + off * (bias + rng.normal(0, 0.4, truth.shape)))
    samples, groups = _samples(truth.astype(np.float32), recordings)
    return judging.of_values(answers, samples, groups, ("a", "b"))


def boxes(rng: Rng, recordings: int, gain: float = 0.0, scale: float = 1.0) -> PairedMeasure:
    """Two labels; a recording's boxes are found badly together. `gain`: less of the error; `scale`: of the challenger's scores."""
    count = recordings * EACH
    low = rng.uniform(0, 150, (count, 4, 2))
    truth = [np.concatenate([rng.integers(0, 2, (4, 1)), at, at + rng.uniform(20, 40, (4, 2))], 1) for at in low]
    found: list[list[Found]] = []
    for more, factor in ((0.0, 1.0), (gain, scale)):
        hard = rng.gamma(2, 1.2, recordings).repeat(EACH) * (1 - more)
        mine = []
        for rows, off in zip(truth, hard, strict=True):
            moved = rows[:, 1:] + rng.normal(0, off, (4, 4))
            extra = rng.uniform(0, 150, (2, 2))
            every = np.concatenate([moved, np.concatenate([extra, extra + 25], 1)]).astype(np.float32)
            sure = np.concatenate([rng.beta(5, 2, 4), rng.beta(2, 4, 2)]) * factor
            kinds = np.concatenate([rows[:, 0], rng.integers(0, 2, 2)]).astype(int)
            order = np.argsort(-sure)
            mine.append(Found(every[order], sure[order].astype(np.float32), kinds[order]))
        found.append(mine)
    samples, groups = _samples(padded([rows.astype(np.float32) for rows in truth], 4), recordings)
    return judging.of_boxes(found, samples, groups, ("a", "b"))


def masks(rng: Rng, recordings: int, gain: float = 0.0, scale: float = 1.0) -> PairedMeasure:
    """Two labels of 12 × 12 pixels, some of which are answered wrongly, more in hard recordings."""
    count = recordings * EACH
    truth = (rng.random((count, 12, 12)) < rng.uniform(0.1, 0.6, (count, 1, 1))).astype(np.uint8)
    answers = []
    for more in (0.0, gain):
        wrong = rng.beta(2, 8, recordings).repeat(EACH)[:, None, None] * (1 - more)
        answers.append(np.where(rng.random(truth.shape) < wrong, 1 - truth, truth).astype(np.uint8))
    samples, groups = _samples(truth, recordings)
    return judging.of_masks(answers, samples, groups, ("background", "cell"))


def labels(rng: Rng, recordings: int, gain: float = 0.0, scale: float = 1.0) -> PairedMeasure:
    """Two labels, of which a sample has any. `gain`, `scale`: of the challenger's scores."""
    truth = (rng.random((recordings * EACH, 2)) < [0.4, 0.2]).astype(np.uint8)
    scores = [
        (1.0 + more) * truth + rng.normal(0, 0.5, (recordings, 2)).repeat(EACH, 0) + rng.normal(0, 0.7, truth.shape)
        for more in (0.0, gain)
    ]
    samples, groups = _samples(truth, recordings)
    return judging.of_labels([scores[0], scores[1] * scale], samples, groups, ("a", "b"))


MODELS: dict[str, Callable[..., PairedMeasure]] = {
    "ROC AUC": anomalies,
    "R²": quantities,
    "mAP": boxes,
    "mean IoU": masks,
    "mean AP": labels,
}
