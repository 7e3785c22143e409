"""Answers of a part of a picture, in pixels of the whole picture."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from edgeloop_agent.box_answers import PIXEL_DIGITS, Box
from edgeloop_agent.mask_answers import Mask, RunLengths
from edgeloop_contract.instances import run_lengths_at
from edgeloop_contract.masks import run_lengths

__all__ = ["in_whole", "moved"]

DIGITS = 4


def in_whole(
    boxes: list[Box] | None, masks: list[Mask] | None, region: Sequence[int], size: Sequence[int]
) -> tuple[list[Box] | None, list[Mask] | None]:  # fmt: skip
    """`region`: left, top, right, bottom of the part; `size`: height and width of the whole."""
    found = None if boxes is None else moved(boxes, region, size)
    return found, None if masks is None else [_spread(mask, region, size) for mask in masks]


def moved(boxes: Sequence[Box], corner: Sequence[int], size: Sequence[int] | None = None) -> list[Box]:
    """Boxes of a crop, with their points, in the picture. `corner`: left and top of the crop.

    `size`: height and width of the picture; None: boxes have no masks.
    """
    x, y = corner[:2]
    found = []
    for box in boxes:
        x1, y1, x2, y2 = box.box
        points = box.points and [
            msgspec.structs.replace(p, point=[round(p.point[0] + x, PIXEL_DIGITS), round(p.point[1] + y, PIXEL_DIGITS)])
            for p in box.points
        ]
        found.append(
            msgspec.structs.replace(
                box,
                box=[round(edge, PIXEL_DIGITS) for edge in (x1 + x, y1 + y, x2 + x, y2 + y)],
                points=points,
                mask=box.mask and size and RunLengths(list(size), run_lengths_at(box.mask.pixels(), y, x, *size)),
            )
        )
    return found


def _spread(mask: Mask, region: Sequence[int], size: Sequence[int]) -> Mask:
    left, top, right, bottom = region
    pixels = np.zeros(tuple(size), bool)
    pixels[top:bottom, left:right] = mask.pixels()
    runs = RunLengths(list(size), run_lengths(pixels))
    return msgspec.structs.replace(mask, mask=runs, share=round(float(pixels.mean()), DIGITS))
