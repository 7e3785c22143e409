"""Checks and converts labels for each task."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeloop_contract.errors import DataError
from edgeloop_pipeline.data.boxes import NONE, POINT_VALUES, VALUES

if TYPE_CHECKING:
    from edgeloop_contract.arrays import Array


def checked_labels(task: str, split: str, labels: Array, names: tuple[str, ...]) -> Array:
    """The labels in the task's form. Raises DataError.

    (N,) int64 classes, (N, quantities) float32, (N, labels) uint8 of several labels, or (N, boxes, 5) float32.
    """
    if task == "regression":
        values = np.asarray(labels)
        values = values[:, None] if values.ndim == 1 else values
        if values.dtype.kind not in "iuf" or values.shape[1:] != (len(names),) or not np.isfinite(values).all():
            raise DataError(f"{split}: labels must be finite numbers, one per recording for each of {', '.join(names)}")
        flat = values.max(axis=0) == values.min(axis=0)
        if flat.any():
            name = names[int(flat.argmax())]
            if split == "train":
                raise DataError(f"train: {name} is the same in every recording; there is nothing to learn")
            raise DataError(
                f"{split}: {name} is {values[0, int(flat.argmax())]:g} in every recording, which gives no R²; move"
                f" recordings with other values of {name} to {split}"
            )
        return values.astype(np.float32)
    if task in ("detection", "keypoints"):
        return _boxes(task, split, labels)
    if task == "multilabel":
        return labels.astype(np.uint8)
    if task == "tensors":
        return labels.astype(np.int64)
    if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= len(names):
        raise DataError(f"{split}: labels must be integers from 0 to {len(names) - 1}")
    if task == "anomaly":
        if len(names) != 2:
            raise DataError(f"{split}: an anomaly task has two labels, normal (0) and anomalous (1); not {', '.join(names)}")
        if split == "train" and labels.any():
            raise DataError("train: has anomalous recordings; an autoencoder learns only from normal ones: move them to test")
        if split != "train" and len(np.unique(labels)) < 2:
            raise DataError(
                f"{split}: needs normal and anomalous recordings: without both there is no ROC AUC; add the missing kind"
            )
    return labels.astype(np.int64)


def _boxes(task: str, split: str, labels: Array) -> Array:
    if not (labels[..., 0] != NONE).any():
        raise DataError(f"{split}: has no box in {len(labels)} pictures; annotate some, or divide the data in another way")
    if task == "keypoints" and not (labels[..., VALUES + 2 :: POINT_VALUES] > 0).any():
        raise DataError(f"{split}: no box has a known point in {len(labels)} pictures; annotate some, or take task: detection")
    return labels.astype(np.float32)
