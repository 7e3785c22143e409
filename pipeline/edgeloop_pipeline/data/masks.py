"""Masks as labels: the number of each pixel's label, moved to where preprocessing puts the picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_contract.boxes import Placement
from edgeloop_contract.errors import DataError
from edgeloop_contract.masks import NOWHERE

__all__ = ["BACKGROUND", "checked_mask", "mask_in_sample", "unlearnt"]

BACKGROUND = "background"  # the label for which a device answers no mask
ROWS = 64  # masks that are looked at together


def checked_mask(given: Any, size: tuple[int, ...], labels: int, where: str) -> Array:
    """The mask of a picture of this height and width as uint8 numbers. Raises DataError that names it."""
    mask = np.asarray(given)
    if mask.shape != tuple(size):
        found = " × ".join(map(str, mask.shape))
        raise DataError(f"{where}: its mask has {found} pixels, the picture {' × '.join(map(str, size))}; give both one size")
    if mask.dtype.kind not in "biu":
        raise DataError(f"{where}: its mask is {mask.dtype}; give whole numbers, one for each label")
    odd = mask[(mask != NOWHERE) & ((mask < 0) | (mask >= labels))]
    if len(odd):
        raise DataError(f"{where}: its mask has the number {int(odd[0])}; labels are 0 to {labels - 1}, and {NOWHERE} is unknown")
    return mask.astype(np.uint8)


def mask_in_sample(mask: Array, place: Placement, height: int, width: int) -> Array:
    """The mask in its sample of `height` × `width` pixels, by the nearest pixel; 255 where the picture does not reach."""
    framed = np.pad(mask, ((0, 1), (0, 1)), constant_values=NOWHERE)
    rows = _pixels(height, place.y_scale, place.top, place.height)
    columns = _pixels(width, place.x_scale, place.left, place.width)
    return np.ascontiguousarray(framed[rows[:, None], columns])


def _pixels(count: int, scale: float, shift: float, have: int) -> Array:
    """The picture's pixel at each of the sample's on one axis; `have`, one too many, outside of the picture."""
    at = (np.arange(count) + 0.5 - shift) / scale
    return np.where((at >= 0) & (at < have), np.clip(np.floor(at).astype(np.intp), 0, have - 1), have)


def unlearnt(masks: Array, labels: Sequence[str]) -> None:
    """Raises DataError where training has no pixel of a label."""
    counts = np.zeros(256, np.int64)
    for start in range(0, len(masks), ROWS):
        counts += np.bincount(masks[start : start + ROWS].reshape(-1), minlength=256)
    lacking = [name for number, name in enumerate(labels) if not counts[number]]
    if lacking:
        raise DataError(f"train: no pixel of {', '.join(lacking)}; move pictures with some to train, or leave the label out")
