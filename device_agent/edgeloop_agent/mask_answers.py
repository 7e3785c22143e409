"""Masks as the agent answers them, in pixels of the picture that came, and what the drift monitor watches of them."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_contract.boxes import Placement
from edgeloop_contract.drift import MAX_ANSWERS
from edgeloop_contract.masks import RunLengths, in_picture, label_grid, logits_of, numbers_of, run_lengths
from edgeloop_contract.tasks import Segmentation

__all__ = ["Mask", "RunLengths", "found_labels", "mask_answers", "mask_feature_names", "mask_features"]

DIGITS = 4


class Mask(msgspec.Struct, frozen=True):
    """Where one label is. `share`: of the picture's pixels, 0 to 1. `confidence`: mean probability there. `mask`: its pixels."""

    label: str
    share: float
    confidence: float
    mask: RunLengths

    def pixels(self) -> Array:
        """(height, width) bool."""
        return self.mask.pixels()


def _values(task: Segmentation, outputs: Mapping[str, Array]) -> Array:
    return outputs[task.output] if task.output in outputs else next(iter(outputs.values()))


def _grid(task: Segmentation, outputs: Mapping[str, Array]) -> tuple[Array, Array]:
    """The label of each cell, and its probability: 1 where the model gives the numbers of labels alone."""
    if task.scores == "numbers":
        grid = numbers_of(task, _values(task, outputs))
        return grid, np.ones(grid.shape, np.float32)
    return label_grid(logits_of(task, _values(task, outputs)))


def found_labels(task: Segmentation, outputs: Mapping[str, Array], height: int, width: int) -> Array:
    """The number of each pixel's label, in pixels of a prepared sample: (height, width) uint8."""
    return in_picture(_grid(task, outputs)[0], height, width, None)


def mask_answers(task: Segmentation, outputs: Mapping[str, Array], height: int, width: int, place: Placement | None) -> list[Mask]:
    """A mask for each label that is there, largest first. `place`: where the picture lies in the sample; None: it is it."""
    grid, sure = _grid(task, outputs)
    pixels = in_picture(grid, height, width, place)
    counts = np.bincount(pixels.reshape(-1), minlength=len(task.labels))[: len(task.labels)]
    found = []
    for number in np.argsort(-counts, kind="stable").tolist():
        if not counts[number] or task.labels[number] == task.background:
            continue
        share, confidence = (round(float(value), DIGITS) for value in (counts[number] / pixels.size, sure[grid == number].mean()))
        runs = RunLengths(list(pixels.shape), run_lengths(pixels == number))
        found.append(Mask(task.labels[number], share, confidence, runs))
    return found


def _watched(task: Segmentation) -> list[int]:
    """The numbers of the labels that drift tells apart."""
    few = [number for number, name in enumerate(task.labels) if name != task.background]
    return few if len(few) <= MAX_ANSWERS else []


def mask_feature_names(task: Segmentation) -> list[str]:
    """Names of the features that `mask_features` returns."""
    each = [f"{what} of {task.labels[number]}" for number in _watched(task) for what in ("share", "confidence")]
    return [*each, "confidence"]


def mask_features(task: Segmentation, outputs: Mapping[str, Array]) -> tuple[Array, float]:
    """Share and confidence of each label in one sample, and the mean confidence of all cells (0 to 1).

    Of a label that is nowhere, the confidence is how far the nearest cell is from it.
    """
    scores = None if task.scores == "numbers" else logits_of(task, _values(task, outputs))
    grid, sure = _grid(task, outputs) if scores is None else label_grid(scores)
    features = []
    for number in _watched(task):
        there = grid == number
        share = float(there.mean())
        if share:
            confidence = float(sure[there].mean())
        elif scores is None:
            confidence = 1.0
        else:
            confidence = 1.0 - float((np.exp(scores[number] - scores.max(0)) * sure).max())
        features += [share, confidence]
    mean = float(sure.mean())
    return np.array([*features, mean]), mean
