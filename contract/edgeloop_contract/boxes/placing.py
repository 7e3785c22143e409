"""Where a picture lies in its prepared sample, so that boxes go from the one to the other."""

from collections.abc import Sequence

import msgspec
import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import DataError
from edgeloop_contract.preprocessing import (
    Bgr,
    CenterCrop,
    Clip,
    Colour,
    Counts,
    Grayscale,
    Letterbox,
    Normalize,
    Resize,
    ResizeShorter,
    letterbox_geometry,
)
from edgeloop_contract.preprocessing.base import StepBase

__all__ = ["Placement", "placement"]

STILL = (Bgr, Clip, Colour, Counts, Grayscale, Normalize)  # change counts, and move nothing


class Placement(msgspec.Struct, frozen=True):
    """x in the sample = x in the picture × x_scale + left; y likewise. `height`, `width`: the picture's, in pixels."""

    height: int
    width: int
    x_scale: float = 1.0
    y_scale: float = 1.0
    left: float = 0.0
    top: float = 0.0

    def to_sample(self, boxes: Array) -> Array:
        """Boxes (n, 4) of the picture, in pixels of the sample; those that a crop cuts off reach outside."""
        return np.asarray(boxes * self._factors + self._moves)

    def to_picture(self, boxes: Array) -> Array:
        """Boxes (n, 4) of the sample, in pixels of the picture, cut off at its edges."""
        found = (boxes - self._moves) / self._factors
        return np.asarray(np.clip(found, 0, [self.width, self.height, self.width, self.height]))

    def points_to_sample(self, points: Array) -> Array:
        """Points (…, 2) of the picture, as x and y, in pixels of the sample; those that a crop cuts off lie outside."""
        return np.asarray(points * self._factors[:2] + self._moves[:2])

    def points_to_picture(self, points: Array) -> Array:
        """Points (…, 2) of the sample, in pixels of the picture, moved to its edge where they lie outside."""
        return np.asarray(np.clip((points - self._moves[:2]) / self._factors[:2], 0, [self.width, self.height]))

    @property
    def _factors(self) -> Array:
        return np.array([self.x_scale, self.y_scale, self.x_scale, self.y_scale])

    @property
    def _moves(self) -> Array:
        return np.array([self.left, self.top, self.left, self.top])


def placement(steps: Sequence[StepBase], height: int, width: int) -> Placement:
    """Where these steps put a picture of `height` × `width` pixels. Raises DataError for a step that boxes cannot follow."""
    if height < 1 or width < 1:
        raise DataError(f"a picture of {height} × {width} pixels; boxes need one pixel or more")
    tall, wide = height, width  # of the sample so far
    x_scale = y_scale = 1.0
    left = top = 0.0
    for step in steps:
        if isinstance(step, STILL):
            continue
        if isinstance(step, CenterCrop):
            left += _moved(wide, step.width)
            top += _moved(tall, step.height)
            tall, wide = step.height, step.width
            continue
        x_move = y_move = 0
        if isinstance(step, Letterbox):
            place = letterbox_geometry(tall, wide, step)
            new_tall, new_wide, x_move, y_move = place.height, place.width, place.left, place.top
        elif isinstance(step, Resize):
            new_tall, new_wide = step.height, step.width
        elif isinstance(step, ResizeShorter):
            new_tall, new_wide = step.made(tall, wide)
        else:
            raise DataError(
                f"preprocessing: the step {step.__struct_config__.tag} moves values so that boxes cannot follow; leave it out"
            )
        x, y = new_wide / wide, new_tall / tall
        x_scale, y_scale, left, top = x_scale * x, y_scale * y, left * x + x_move, top * y + y_move
        tall, wide = (step.height, step.width) if isinstance(step, Letterbox) else (new_tall, new_wide)
    return Placement(height, width, x_scale, y_scale, left, top)


def _moved(have: int, want: int) -> int:
    """How far a central crop moves one axis: into its border where it lacks pixels, else to the left."""
    border = max(0, want - have)
    return border // 2 - round((max(have, want) - want) / 2)
