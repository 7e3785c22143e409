"""Augmentations for pictures with boxes. They draw from the generator that they get, and change samples and boxes together."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

NONE = -1.0
MEAN_COUNT = 114.0  # around a picture that is made smaller
ZOOM = (0.75, 1.4)  # of a side; its logarithm is drawn evenly
STRETCH = 0.1  # of one side against the other
LEAST_LEFT = 0.3  # of a box's area inside the new picture; less is not asked for
LEAST_PIXELS = 2.0
LIGHT, CONTRAST, TINT = 0.12, 0.25, 0.08


def augment_boxes(values: Any, boxes: Any, generator: Any) -> tuple[Any, Any]:
    """Mirror left to right and up to down, zoom, stretch, shift, and change light, contrast and tint.

    `values`: (N, H, W, C) uint8; `boxes`: (N, boxes, 5) as label, x1, y1, x2, y2 in pixels, label −1 is none. For things that
    look the same in every direction; for streets and rooms take `augment_upright_boxes`.
    """
    return _augmented(values, boxes, generator, upright=False)


def augment_upright_boxes(values: Any, boxes: Any, generator: Any) -> tuple[Any, Any]:
    """As `augment_boxes`, without mirroring up to down."""
    return _augmented(values, boxes, generator, upright=True)


def augment_points(points: Sequence[str]) -> Callable[[Any, Any, Any], tuple[Any, Any]]:
    """As `augment_upright_boxes`, for boxes with these points; in a mirror, the left eye is the right one.

    Names that differ by `left` and `right`, or by a beginning or an end of `l` and `r`, change places.
    """
    order = mirrored(points)

    def augment(values: Any, boxes: Any, generator: Any) -> tuple[Any, Any]:
        import torch

        changed = changed_pictures(values, generator, upright=True)
        moved = _moved(boxes, changed.factor, changed.shift, values.shape[1], values.shape[2])
        split = moved[..., 5:].reshape(*moved.shape[:2], len(order), 3)
        turned = torch.where((changed.factor[:, 0] < 0)[:, None, None, None], split[:, :, order], split)
        return changed.values, torch.cat([moved[..., :5], turned.reshape(*moved.shape[:2], -1)], -1)

    return augment


def mirrored(points: Sequence[str]) -> list[int]:
    """For each point, the number of the one that is in its place in a mirror."""
    at = {name.lower(): i for i, name in enumerate(points)}

    def other(name: str) -> str:
        for one, two in (("left", "right"), ("right", "left")):
            if one in name:
                return name.replace(one, two)
        parts = re.split(r"([^a-z0-9]+)", name)
        for place in (0, -1):
            if parts[place] in ("l", "r") and len(parts) > 1:
                parts[place] = "r" if parts[place] == "l" else "l"
                return "".join(parts)
        return name

    return [at.get(other(name.lower()), i) for i, name in enumerate(points)]


class Changed(NamedTuple):
    """Pictures (N, H, W, C) uint8, and how they moved: new = middle + factor × (old − middle) + shift × side, by x and y (N, 2).

    `grid`: where each new pixel comes from, (N, H, W, 2) from −1 to 1.
    """

    values: Any
    factor: Any
    shift: Any
    grid: Any


def _augmented(values: Any, boxes: Any, generator: Any, upright: bool) -> tuple[Any, Any]:
    changed = changed_pictures(values, generator, upright)
    return changed.values, _moved(boxes, changed.factor, changed.shift, values.shape[1], values.shape[2])


def changed_pictures(values: Any, generator: Any, upright: bool) -> Changed:
    """Mirror, zoom, stretch, shift, and change light, contrast and tint. `upright`: not up to down."""
    import torch
    import torch.nn.functional as F

    n, height, width, channels = values.shape

    def uniform(low: float, high: float, *shape: int) -> Any:
        return low + (high - low) * torch.rand(n, *shape, generator=generator)

    zoom = torch.exp(uniform(math.log(ZOOM[0]), math.log(ZOOM[1]), 1))
    stretch = torch.exp(uniform(-STRETCH, STRETCH, 1))
    scale = torch.cat([zoom * stretch, zoom / stretch], 1)  # (N, 2): of x and y, from the old picture to the new one
    room = (scale - 1).abs()
    shift = uniform(-1, 1, 2) * room / 2  # shares of the side: what is larger stays in view, what is smaller inside
    mirrored = torch.rand(n, 2, generator=generator) < 0.5
    if upright:
        mirrored[:, 1] = False
    sign = torch.where(mirrored, -1.0, 1.0)
    # new = sign × scale × old + shift, in coordinates from −1 to 1 (shift is a share of the side, so twice that); the inverse:
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = (sign / scale).unbind(1)
    theta[:, :, 2] = -2 * shift * sign / scale
    x = values.permute(0, 3, 1, 2).float() - MEAN_COUNT
    grid = F.affine_grid(theta, [n, channels, height, width], align_corners=False)
    x = F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    contrast = torch.exp(uniform(-CONTRAST, CONTRAST, 1, 1, 1))
    light = 255 * uniform(-LIGHT, LIGHT, 1, 1, 1)
    tint = torch.exp(uniform(-TINT, TINT, channels, 1, 1))
    x = (x * contrast + MEAN_COUNT + light) * tint
    made = x.clamp(0, 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    return Changed(made, sign * scale, shift, grid)


def _moved(boxes: Any, factor: Any, shift: Any, height: int, width: int) -> Any:
    """Boxes under new = middle + factor × (old − middle) + shift × side, cut off at the edges."""
    import torch

    side = torch.tensor([width, height], dtype=torch.float32)
    corners = boxes[..., 1:5].reshape(*boxes.shape[:2], 2, 2)
    new = side / 2 + factor[:, None, None] * (corners - side / 2) + (shift * side)[:, None, None]
    low, high = new.amin(2), new.amax(2)
    area = (high - low).prod(-1)
    low, high = (torch.minimum(edge.clamp_min(0), side) for edge in (low, high))
    size = high - low
    there = (boxes[..., 0] != NONE) & (size.prod(-1) >= LEAST_LEFT * area) & (size.amin(-1) >= LEAST_PIXELS)
    label = torch.where(there, boxes[..., 0], torch.full_like(boxes[..., 0], NONE))
    return torch.cat([label[..., None], low, high, _moved_points(boxes, factor, shift, side)], -1)


def _moved_points(boxes: Any, factor: Any, shift: Any, side: Any) -> Any:
    """The points of boxes (N, boxes, 5 + 3 × points), moved as `_moved` moves corners; one outside is not known."""
    import torch

    points = boxes[..., 5:].reshape(*boxes.shape[:2], (boxes.shape[2] - 5) // 3, 3)
    at = side / 2 + factor[:, None, None] * (points[..., :2] - side / 2) + (shift * side)[:, None, None]
    known = (points[..., 2] > 0) & (at >= 0).all(-1) & (at <= side).all(-1)
    moved = torch.cat([at, points[..., 2:]], -1) * known[..., None]
    return moved.reshape(*boxes.shape[:2], boxes.shape[2] - 5)
