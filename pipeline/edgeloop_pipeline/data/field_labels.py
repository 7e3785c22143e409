"""Labels of field data in each task's form, by their names, as the numbers that a recipe has for these names."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import DataError
from edgeloop_contract.masks import NOWHERE
from edgeloop_contract.tasks import NOT_KNOWN
from edgeloop_pipeline.data.boxes import NONE, POINT_VALUES, VALUES

__all__ = ["numbered", "stacked"]


def numbered(labels: Array, own: Sequence[str], names: Sequence[str], task: str) -> tuple[Array, Array]:
    """The labels of those rows that a recipe with `names` knows, in its task's form, and which rows these are: (N,) bool.

    `labels`: names (N,); regression (N, quantities); multilabel (N, labels), a column for each of the names `own`; detection
    (N, boxes, 5), keypoints (N, boxes, 5 + 3 × points) and segmentation (N, height, width), whose numbers stand for these names. A
    box of an unknown label is none; a pixel of an unknown label is unknown. Raises DataError.
    """
    known = np.ones(len(labels), bool)
    if task == "regression":
        if labels.dtype.kind != "f" or labels.shape[1:] != (len(names),):
            raise DataError(_foreign(labels, f"{len(names)} values a sample, of {', '.join(names)}"))
        return labels.astype(np.float32), known
    place = {name: number for number, name in enumerate(names)}
    if task == "multilabel":
        if labels.ndim != 2 or labels.dtype != np.uint8:
            raise DataError(_foreign(labels, "a row of labels a sample"))
        columns = {str(name): labels[:, number] for number, name in enumerate(own)}
        nobody = np.full(len(labels), NOT_KNOWN, np.uint8)
        return np.stack([columns.get(name, nobody) for name in names], 1), known
    if task in ("detection", "keypoints"):
        fits = labels.ndim == 3 and labels.shape[2] >= VALUES and (labels.shape[2] - VALUES) % POINT_VALUES == 0
        if not fits or (labels.shape[2] == VALUES) != (task == "detection"):
            raise DataError(_foreign(labels, "boxes" if task == "detection" else "boxes with points"))
        kinds = np.array([place.get(str(name), NONE) for name in own] + [NONE])  # the last one is that of no box
        moved = labels.astype(np.float32)
        moved[..., 0] = kinds[labels[..., 0].astype(np.intp)]
        moved[moved[..., 0] == NONE] = NONE
        return moved, known
    if task == "segmentation":
        if labels.ndim != 3 or labels.dtype != np.uint8:
            raise DataError(_foreign(labels, "masks"))
        kinds = np.full(256, NOWHERE, np.uint8)
        kinds[: len(own)] = [place.get(str(name), NOWHERE) for name in own]
        return kinds[labels], known
    if labels.ndim != 1 or labels.dtype.kind != "U":
        raise DataError(_foreign(labels, "a label a sample"))
    known = np.isin(labels, list(names))
    return np.array([place[str(name)] for name in labels[known]], dtype=np.int64), known


def _foreign(labels: Array, wanted: str) -> str:
    return (
        f"its labels are {labels.dtype} of shape {labels.shape}; the recipe needs {wanted}: the field data belong to another model"
    )


def stacked(parts: Sequence[Array]) -> Array:
    """Labels of several sets of samples as one array; boxes are padded to the same number."""
    if odd := next(
        (part for part in parts if part.ndim == 3 and part.dtype.kind == "f" and part.shape[2] != parts[0].shape[2]), None
    ):
        raise DataError(f"boxes of {odd.shape[2]} values beside boxes of {parts[0].shape[2]}: they have other points")
    if parts[0].ndim == 3 and len({part.shape[1] for part in parts}) > 1:
        most = max(part.shape[1] for part in parts)
        parts = [np.pad(part, ((0, 0), (0, most - part.shape[1]), (0, 0)), constant_values=NONE) for part in parts]
    return np.concatenate(parts)
