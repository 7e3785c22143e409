"""Augmentations for pictures with masks: as those for boxes, and the masks move with their pictures."""

from __future__ import annotations

from typing import Any

from edgeloop_pipeline.data.box_augmentations import changed_pictures

UNKNOWN = 255  # what comes into view from outside of the picture is not asked for


def augment_masks(values: Any, masks: Any, generator: Any) -> tuple[Any, Any]:
    """Mirror left to right and up to down, zoom, stretch, shift, and change light, contrast and tint.

    `values`: (N, H, W, C) uint8; `masks`: (N, H, W) uint8 numbers of labels. For things that look the same in every direction; for
    streets and rooms take `augment_upright_masks`.
    """
    return _augmented(values, masks, generator, upright=False)


def augment_upright_masks(values: Any, masks: Any, generator: Any) -> tuple[Any, Any]:
    """As `augment_masks`, without mirroring up to down."""
    return _augmented(values, masks, generator, upright=True)


def _augmented(values: Any, masks: Any, generator: Any, upright: bool) -> tuple[Any, Any]:
    import torch
    import torch.nn.functional as F

    changed = changed_pictures(values, generator, upright)
    shifted = (masks.to(torch.int16) - UNKNOWN).float()[:, None]  # so that what is outside, which is 0, becomes unknown
    moved = F.grid_sample(shifted, changed.grid, mode="nearest", padding_mode="zeros", align_corners=False)
    return changed.values, (moved[:, 0].round() + UNKNOWN).to(torch.uint8)
