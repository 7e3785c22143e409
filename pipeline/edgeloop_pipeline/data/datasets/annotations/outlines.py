"""Where one thing is in a picture, as COCO says it: polygons, or run lengths as numbers or as compressed text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import DataError
from edgeloop_contract.masks import mask_of

__all__ = ["Outline", "counts_of_text", "outline_of", "polygon_mask"]

FINER = 5  # parts of a pixel in which COCO follows a polygon's edges
FEWEST_VALUES = 6  # of a polygon: three corners
TEXT_FROM, TEXT_BITS, MORE, NEGATIVE = 48, 5, 0x20, 0x10  # of COCO's compressed run lengths
MAX_PARTS = 12  # characters of one number


@dataclass(frozen=True)
class Outline:
    """Polygons, each (corners, 2) as x and y, which are joined; or `counts`: run lengths of a mask of `size` (height, width)."""

    polygons: tuple[Array, ...] = ()
    counts: Array = field(default_factory=lambda: np.zeros(0, np.int64))
    size: tuple[int, int] = (0, 0)

    def mask(self, height: int, width: int) -> Array:
        """(height, width) bool. Raises DataError where run lengths are of another size."""
        if not self.polygons:
            if self.size != (height, width):
                raise DataError(f"run lengths of {self.size[0]} × {self.size[1]} pixels in a picture of {height} × {width}")
            return mask_of(self.counts.tolist(), height, width)
        made = np.zeros((height, width), bool)
        for polygon in self.polygons:
            made |= polygon_mask(polygon, height, width)
        return made


def outline_of(given: Any) -> Outline | None:
    """The outline of COCO's field `segmentation`; None where it has none. Raises DataError for what is broken."""
    if not given:
        return None
    if isinstance(given, dict):
        return _run_lengths(given)
    if not isinstance(given, list):
        raise DataError("a segmentation that is neither polygons nor run lengths")
    polygons = []
    for row in given:
        values = np.asarray(row, np.float64) if isinstance(row, list) and all(isinstance(v, (int, float)) for v in row) else None
        if values is None or len(values) < FEWEST_VALUES or len(values) % 2 or not np.isfinite(values).all():
            raise DataError("a polygon without three corners of two numbers")
        polygons.append(values.reshape(-1, 2))
    return Outline(tuple(polygons))


def _run_lengths(given: dict[str, Any]) -> Outline:
    size, counts = given.get("size"), given.get("counts")
    if not (isinstance(size, list) and len(size) == 2 and all(isinstance(n, int) and n > 0 for n in size)):
        raise DataError("run lengths without a size")
    if isinstance(counts, str):
        numbers = counts_of_text(counts)
    elif isinstance(counts, list) and all(isinstance(n, int) for n in counts):
        numbers = np.asarray(counts, np.int64)
    else:
        raise DataError("run lengths that are no numbers")
    if (numbers < 0).any() or int(numbers.sum()) != size[0] * size[1]:
        raise DataError("run lengths that do not fill their mask")
    return Outline((), numbers, (size[0], size[1]))


def counts_of_text(text: str) -> Array:
    """Run lengths of COCO's compressed text: numbers in parts of five bits, from the third on as the change to the one before last.

    Raises DataError for text that is none.
    """
    parts = np.frombuffer(text.encode("utf-8", "replace"), np.uint8).astype(np.int64) - TEXT_FROM
    if not len(parts) or (parts < 0).any() or (parts >= 2 * MORE).any() or parts[-1] & MORE:
        raise DataError("compressed run lengths that are cut off, or no such text")
    ends = np.flatnonzero((parts & MORE) == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > MAX_PARTS:
        raise DataError("compressed run lengths with a number that is too large")
    shifts = TEXT_BITS * (np.arange(len(parts)) - np.repeat(starts, lengths))
    numbers = np.add.reduceat((parts & (MORE - 1)) << shifts, starts)
    numbers -= np.where(parts[ends] & NEGATIVE, np.int64(1) << (TEXT_BITS * lengths), 0)
    for first in (1, 2):
        numbers[first::2] = np.cumsum(numbers[first::2])
    return np.asarray(numbers)


def polygon_mask(corners: Array, height: int, width: int) -> Array:
    """The pixels of a polygon (corners, 2) as COCO's own tools find them, (height, width) bool: by its edges in fifths of a pixel.

    In each column, an edge that goes through its middle begins or ends the pixels below it.
    """
    points = np.trunc(FINER * corners + 0.5).astype(np.int64)
    u, v = _edges(points)
    crossing = np.flatnonzero(u[1:] != u[:-1]) + 1
    at = np.where(u[crossing] < u[crossing - 1], u[crossing], u[crossing] - 1)
    columns = (at + 0.5) / FINER - 0.5
    inside = (np.floor(columns) == columns) & (columns >= 0) & (columns <= width - 1)
    rows = (np.minimum(v[crossing], v[crossing - 1]) + 0.5) / FINER - 0.5
    rows = np.ceil(np.clip(rows, 0, height))
    toggles = np.bincount((columns * height + rows)[inside].astype(np.int64), minlength=height * width + 1)[: height * width]
    return np.asarray((np.cumsum(toggles) % 2 == 1).reshape(width, height).T)


def _edges(points: Array) -> tuple[Array, Array]:
    """Every point (x, y) of the closed polygon's edges, one step at a time along the longer side of each."""
    us, vs = [], []
    for (x1, y1), (x2, y2) in zip(points, np.roll(points, -1, 0), strict=True):
        dx, dy = abs(int(x2 - x1)), abs(int(y2 - y1))
        along_x = dx >= dy
        turned = (along_x and x1 > x2) or (not along_x and y1 > y2)
        (ax, ay), (bx, by) = ((x2, y2), (x1, y1)) if turned else ((x1, y1), (x2, y2))
        steps = np.arange(max(dx, dy) + 1)
        steps = steps[::-1] if turned else steps
        slope = ((by - ay) / dx if dx else 0.0) if along_x else (bx - ax) / dy
        other = np.trunc((ay if along_x else ax) + slope * steps + 0.5).astype(np.int64)
        us.append(steps + ax if along_x else other)
        vs.append(other if along_x else steps + ay)
    return np.concatenate(us), np.concatenate(vs)
