"""The mosaic augmentation for pictures with boxes: four pictures meet at a point of a new one (Bochkovskiy et al. 2020)."""

from __future__ import annotations

from typing import Any

from edgeloop_pipeline.data.box_augmentations import LEAST_LEFT, LEAST_PIXELS, MEAN_COUNT, NONE, augment_upright_boxes

__all__ = ["augment_mosaic_boxes", "mosaic"]

SHARE = 0.5  # of the pictures that become mosaics; the others are as a device sees them
MEETING = (0.35, 0.65)  # where the four meet, as shares of the sides
SHRUNK = (0.5, 1.0)  # of each picture's side


def augment_mosaic_boxes(values: Any, boxes: Any, generator: Any) -> tuple[Any, Any]:
    """As `augment_upright_boxes`; then half of the pictures become mosaics of four of the same batch.

    Small things are seen more often, and things at the edge of others' pictures. A mosaic that would have more boxes than the
    labels' array holds stays a plain picture.
    """
    return mosaic(*augment_upright_boxes(values, boxes, generator), generator)


def mosaic(values: Any, boxes: Any, generator: Any, share: float = SHARE) -> tuple[Any, Any]:
    """A `share` of pictures (N, H, W, C) uint8 as mosaics, with their boxes (N, boxes, 5 or more), label −1 is none."""
    import torch

    n, height, width, _ = values.shape
    side = torch.tensor([width, height], dtype=torch.float32)

    def uniform(low: float, high: float, *shape: int) -> Any:
        return low + (high - low) * torch.rand(n, *shape, generator=generator)

    chosen = torch.rand(n, generator=generator) < share
    meeting = uniform(*MEETING, 2) * side
    made, parts = values.clone(), []
    for number in range(4):
        right, below = number % 2, number // 2
        of = torch.arange(n) if not number else torch.randperm(n, generator=generator)
        factor = uniform(*SHRUNK, 1)
        start = meeting - factor * side * (1 - torch.tensor([right, below]))  # where its upper left corner comes to lie
        low = meeting * torch.tensor([right, below])
        high = torch.where(torch.tensor([right, below]) > 0, side, meeting)
        placed = _placed(values[of], factor, start)
        made = torch.where(_within(low, high, height, width) & chosen[:, None, None, None], placed, made)
        parts.append(_boxes(boxes[of], factor, start, low, high))
    joined = torch.cat(parts, 1)
    there = joined[..., 0] != NONE
    fits = chosen & (there.sum(1) <= boxes.shape[1])
    order = (~there).to(torch.uint8).argsort(dim=1, stable=True)[:, : boxes.shape[1]]
    kept = joined.gather(1, order[..., None].expand(-1, -1, boxes.shape[2]))
    return torch.where(fits[:, None, None, None], made, values), torch.where(fits[:, None, None], kept, boxes)


def _placed(values: Any, factor: Any, start: Any) -> Any:
    """Pictures made smaller by `factor` (N, 1), with their upper left corner at `start` (N, 2); grey around them."""
    import torch
    import torch.nn.functional as F

    n, height, width, channels = values.shape
    side = torch.tensor([width, height], dtype=torch.float32)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = 1 / factor[:, 0]
    theta[:, :, 2] = (1 - 2 * start / side) / factor - 1
    grid = F.affine_grid(theta, [n, channels, height, width], align_corners=False)
    x = F.grid_sample(values.permute(0, 3, 1, 2).float() - MEAN_COUNT, grid, mode="bilinear", align_corners=False)
    return (x + MEAN_COUNT).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def _within(low: Any, high: Any, height: int, width: int) -> Any:
    """Which pixels lie between two corners (N, 2): (N, H, W, 1)."""
    import torch

    x, y = torch.arange(width) + 0.5, torch.arange(height) + 0.5
    columns = (x >= low[:, :1]) & (x < high[:, :1])
    rows = (y >= low[:, 1:]) & (y < high[:, 1:])
    return (rows[:, :, None] & columns[:, None])[..., None]


def _boxes(boxes: Any, factor: Any, start: Any, low: Any, high: Any) -> Any:
    """Boxes under new = start + factor × old, cut off at the corners `low` and `high`; points outside are not known."""
    import torch

    factor, start, low, high = (part[:, None] for part in (factor, start, low, high))
    edges = boxes[..., 1:5] * factor + torch.cat([start, start], -1)
    cut = torch.cat([torch.maximum(edges[..., :2], low), torch.minimum(edges[..., 2:], high)], -1)
    size, whole = (part[..., 2:] - part[..., :2] for part in (cut, edges))
    left = size.clamp_min(0).prod(-1)
    there = (boxes[..., 0] != NONE) & (left >= LEAST_LEFT * whole.prod(-1)) & (size.amin(-1) >= LEAST_PIXELS)
    points = boxes[..., 5:].reshape(*boxes.shape[:2], (boxes.shape[2] - 5) // 3, 3)
    at = points[..., :2] * factor[:, None] + start[:, None]
    known = (points[..., 2] > 0) & (at >= low[:, None]).all(-1) & (at <= high[:, None]).all(-1)
    moved = (torch.cat([at, points[..., 2:]], -1) * known[..., None]).reshape(*boxes.shape[:2], boxes.shape[2] - 5)
    made = torch.cat([boxes[..., :1], cut, moved], -1)
    return torch.where(there[..., None], made, torch.full_like(made, NONE))
