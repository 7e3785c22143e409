"""Masks: the label of each pixel from a model's scores, in the picture that came, and as COCO's run lengths; in numpy alone."""

from collections.abc import Sequence

import msgspec
import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_contract.boxes import Placement
from edgeloop_contract.errors import DataError
from edgeloop_contract.tasks import Segmentation

__all__ = ["BACKGROUNDS", "NOWHERE", "RunLengths", "in_picture", "label_grid", "logits_of", "mask_of", "numbers_of", "run_lengths"]

BACKGROUNDS = ("background", "__background__")  # labels that widely used models give what is nothing
TINY = np.float32(1e-7)
NOWHERE = 255  # the number of a pixel without a label: unknown truth, or outside of what the model saw


class RunLengths(msgspec.Struct, frozen=True):
    """COCO's uncompressed run lengths. `size`: height and width. `counts`: column by column, first the pixels outside."""

    size: list[int]
    counts: list[int]

    def pixels(self) -> Array:
        """(height, width) bool."""
        return mask_of(self.counts, *self.size)


def logits_of(task: Segmentation, scores: Array) -> Array:
    """One sample's scores as logits (labels, height, width) float32, whichever way the model gives them."""
    maps = task.maps
    values: Array = np.asarray(scores, np.float32)
    if task.channels == "last":
        values = np.moveaxis(values.reshape(task.height, task.width, maps), -1, 0)
    values = values.reshape(maps, task.height, task.width)
    if task.scores == "probabilities":
        sure = np.clip(values, TINY, 1)
        values = np.log(sure) - (np.log(np.clip(1 - values, TINY, 1)) if task.single else 0)
    return np.concatenate([np.zeros_like(values), values]) if task.single else values


def numbers_of(task: Segmentation, scores: Array) -> Array:
    """The label of each cell (height, width) uint8, of an output that gives their numbers; NOWHERE for one that no label has."""
    values = np.rint(np.asarray(scores, np.float64)).reshape(task.height, task.width)
    known = (values >= 0) & (values < len(task.labels))
    return np.where(known, values, NOWHERE).astype(np.uint8)


def label_grid(scores: Array) -> tuple[Array, Array]:
    """The label of each cell (h, w) uint8 and its probability (h, w) float32, of logits (labels, h, w)."""
    best = scores.argmax(0)
    total = np.exp(scores - scores.max(0)).sum(0)
    return best.astype(np.uint8), (1 / total).astype(np.float32)


def in_picture(grid: Array, height: int, width: int, place: Placement | None) -> Array:
    """A grid (h, w) of a sample of `height` × `width` pixels, as the pixels of the picture; None: the sample is the picture.

    Each pixel has the value of the cell that its middle lies in; NOWHERE where preprocessing cut it off.
    """
    if place is None:
        place = Placement(height, width)
    rows = _cells(place.height, place.y_scale, place.top, height, grid.shape[0])
    columns = _cells(place.width, place.x_scale, place.left, width, grid.shape[1])
    framed = np.pad(grid, ((0, 1), (0, 1)), constant_values=NOWHERE)
    return np.asarray(framed[rows[:, None], columns])


def _cells(pixels: int, scale: float, shift: float, side: int, cells: int) -> Array:
    """The number of the cell at each pixel of one axis; `cells`, one too many, outside of the sample."""
    at = (np.arange(pixels) + 0.5) * scale + shift
    found = np.floor(at * cells / side).astype(np.intp)
    return np.where((at >= 0) & (at < side), np.clip(found, 0, cells - 1), cells)


def run_lengths(mask: Array) -> list[int]:
    """COCO's uncompressed run lengths of a mask (height, width): column by column, first how many pixels are outside."""
    flat = np.asarray(mask, bool).T.reshape(-1)
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    lengths: list[int] = np.diff([0, *edges.tolist(), len(flat)]).tolist()
    return [0, *lengths] if len(flat) and flat[0] else lengths


def mask_of(counts: Sequence[int], height: int, width: int) -> Array:
    """The mask (height, width) bool of run lengths. Raises DataError where they do not fill it."""
    if any(count < 0 for count in counts) or sum(counts) != height * width:
        raise DataError(f"run lengths of {sum(counts)} pixels for a mask of {height} × {width}; they must fill it")
    inside = np.arange(len(counts)) % 2 == 1
    return np.asarray(np.repeat(inside, counts).reshape(width, height).T)
