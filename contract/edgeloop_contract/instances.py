"""Masks of single things inside of their boxes: prototypes by each box's coefficients (YOLACT, YOLO), or maps of their own."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_contract.boxes import Found, Placement
from edgeloop_contract.errors import DataError
from edgeloop_contract.tasks import Instances

__all__ = ["coefficients_of", "grid_masks", "mask_overlap", "masks_in_picture", "prototypes_of", "run_lengths_at", "without_ones"]

ROWS_AT_ONCE = 256  # of a mask in the picture: memory is bounded
MOST_PIXELS = (
    32_000_000  # of all masks of a picture; where boxes have more, every second one is looked at, or every third: so is time
)


def prototypes_of(task: Instances, outputs: Mapping[str, Array]) -> Array:
    """The prototypes (coefficients, height, width) of one sample, or each row's own map (rows, height, width). Raises DataError."""
    if task.prototypes not in outputs:
        raise DataError(f"masks need the output {task.prototypes!r}; the model gives {', '.join(outputs) or 'none'}")
    given = outputs[task.prototypes]
    maps = given.reshape(without_ones(given.shape))
    maps = np.moveaxis(maps, -1, 0) if task.prototype_channels == "last" and maps.ndim == 3 else maps
    count = task.decode.coefficients or len(_rows_of(task, outputs))
    if maps.ndim != 3 or len(maps) != count or min(maps.shape[1:]) < 1:
        raise DataError(f"prototypes of shape {given.shape}; {count} maps are needed, channels {task.prototype_channels}")
    return np.ascontiguousarray(maps, np.float32) if task.decode.coefficients else maps


def without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Without the batch, and without the one channel of each row's own map: (1, n, 1, h, w) is (n, h, w)."""
    shape = shape[1:] if len(shape) > 3 and shape[0] == 1 else shape
    return (shape[0], *shape[2:]) if len(shape) == 4 and shape[1] == 1 else shape


def coefficients_of(task: Instances, outputs: Mapping[str, Array], found: Found) -> Array:
    """The coefficients (n, coefficients) float32 of boxes that were found: the last values of their rows."""
    rows = _rows_of(task, outputs)
    assert found.rows is not None
    return np.asarray(rows[found.rows, rows.shape[1] - task.decode.coefficients :], np.float32)


def _rows_of(task: Instances, outputs: Mapping[str, Array]) -> Array:
    """The rows (places, values) of one sample."""
    values = outputs[task.decode.rows]
    rows = values[0] if values.ndim == 3 else values
    return rows.T if getattr(task.decode, "channels", "last") == "first" else rows


def _cell_logits(task: Instances, outputs: Mapping[str, Array], found: Found, prototypes: Array) -> Iterator[Array]:
    """Of each box that was found, its values (height, width) float32 in the prototypes' cells, above 0 inside of its thing."""
    assert found.rows is not None
    for number, weights in zip(found.rows.tolist(), coefficients_of(task, outputs, found), strict=True):
        own = np.tensordot(weights, prototypes, 1) if task.decode.coefficients else np.asarray(prototypes[number], np.float32)
        yield own - np.float32(task.mask_threshold) if task.mask_threshold else own


def masks_in_picture(
    task: Instances, outputs: Mapping[str, Array], found: Found, boxes: Array, height: int, width: int, place: Placement
) -> Iterator[tuple[Array, int, int]]:
    """Each box's mask, one after the other: the pixels (h, w) bool of the picture that it covers, and where they begin: top, left.

    `boxes` (n, 4): in pixels of the picture. Logits are interpolated between the middles of cells, as far as the picture goes in
    the sample, and above 0 a pixel belongs to the thing. Above MOST_PIXELS in all boxes, masks are coarser. `height`, `width`: of
    the sample.
    """
    prototypes = prototypes_of(task, outputs)
    cells = prototypes.shape[1:]
    rows = _sampled(place.height, place.y_scale, place.top, height, cells[0])
    columns = _sampled(place.width, place.x_scale, place.left, width, cells[1])
    # A pixel counts where its upper left corner lies in the box.
    edges = np.clip(np.ceil(boxes), 0, [place.width, place.height] * 2).astype(np.intp)
    total = int((np.maximum(edges[:, 2] - edges[:, 0], 0) * np.maximum(edges[:, 3] - edges[:, 1], 0)).sum())
    step = math.ceil(math.sqrt(max(1, total) / MOST_PIXELS))
    each = _cell_logits(task, outputs, found, prototypes)
    for logits, (left, top, right, bottom) in zip(each, edges.tolist(), strict=True):
        mask = np.zeros((max(0, bottom - top), max(0, right - left)), bool)
        across = [part[left:right:step] for part in columns]
        for start in range(top, bottom, ROWS_AT_ONCE * step):
            end = min(start + ROWS_AT_ONCE * step, bottom)
            inside = _between(_between(logits, [part[start:end:step] for part in rows], 0), across, 1) > 0
            mask[start - top : end - top] = inside.repeat(step, 0).repeat(step, 1)[: end - start, : right - left]
        yield mask, top, left


def _sampled(pixels: int, scale: float, shift: float, side: int, cells: int) -> tuple[Array, Array, Array]:
    """Of each pixel of one axis: the two cells that it lies between, and the second one's share. None of the border counts."""
    share = cells / side
    first = max(0, round(shift * share - 0.1))
    last = min(cells, max(first + 1, first + round(pixels * scale * share))) - 1
    at = np.clip(((np.arange(pixels) + 0.5) * scale + shift) * share - 0.5, min(first, last), last)
    low = np.floor(at).astype(np.intp)
    return low, np.minimum(low + 1, last), (at - low).astype(np.float32)


def _between(values: Array, at: list[Array], axis: int) -> Array:
    low, high, share = at
    share = share[:, None] if axis == 0 else share
    first = values.take(low, axis)
    return np.asarray(first + (values.take(high, axis) - first) * share)


def run_lengths_at(mask: Array, top: int, left: int, height: int, width: int) -> list[int]:
    """COCO's run lengths of a picture of `height` × `width` where `mask` (h, w) lies at `top`, `left`, and nothing else is."""
    framed = np.zeros((mask.shape[1], mask.shape[0] + 1), bool)  # a pixel outside ends each column
    framed[:, :-1] = mask.T
    flat = framed.reshape(-1)
    edges = np.flatnonzero(np.diff(flat, prepend=False))
    column, row = np.divmod(edges, mask.shape[0] + 1)
    at = (left + column) * height + top + row
    joined = np.flatnonzero(at[1:-1:2] == at[2::2])  # a column that ends where the next one begins
    at = np.delete(at, np.concatenate([2 * joined + 1, 2 * joined + 2]))
    lengths: list[int] = np.diff(np.concatenate([[0], at, [height * width]])).tolist()
    return lengths[:-1] if lengths[-1] == 0 and len(lengths) > 1 else lengths


def grid_masks(task: Instances, outputs: Mapping[str, Array], found: Found, height: int, width: int) -> Array:
    """The masks (n, h, w) bool of boxes that were found, in cells of the prototypes; of a sample of `height` × `width` pixels."""
    prototypes = prototypes_of(task, outputs)
    rows, columns = prototypes.shape[1:]
    masks = np.zeros((len(found.boxes), rows, columns), bool)
    for mask, logits in zip(masks, _cell_logits(task, outputs, found, prototypes), strict=True):
        mask[:] = logits > 0
    boxes = found.boxes * np.array([columns / width, rows / height] * 2, np.float32)
    x, y = np.arange(columns) + 0.5, np.arange(rows) + 0.5
    masks &= ((x >= boxes[:, :1]) & (x < boxes[:, 2:3]))[:, None]
    masks &= ((y >= boxes[:, 1:2]) & (y < boxes[:, 3:]))[..., None]
    return masks


def mask_overlap(a: Array, b: Array) -> Array:
    """Intersection over union (n, m) of masks (n, h, w) and (m, h, w); 1 where both are empty."""
    flat, other = (masks.reshape(len(masks), math.prod(masks.shape[1:])).astype(np.float32) for masks in (a, b))
    both = flat @ other.T
    either = flat.sum(1)[:, None] + other.sum(1)[None] - both
    return np.asarray(np.divide(both, either, out=np.ones_like(both), where=either > 0))
