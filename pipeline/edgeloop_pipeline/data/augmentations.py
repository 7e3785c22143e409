"""Augmentations for a project's `augment:`, one for each kind of data. All draw from the generator that they get."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from edgeloop_pipeline.data.box_augmentations import augment_boxes, augment_points, augment_upright_boxes
from edgeloop_pipeline.data.mask_augmentations import augment_masks, augment_upright_masks
from edgeloop_pipeline.data.mosaic import augment_mosaic_boxes

__all__ = [
    "augment_boxes",
    "augment_masks",
    "augment_mosaic_boxes",
    "augment_points",
    "augment_upright_boxes",
    "augment_upright_masks",
    "jitter",
    "rand_augment",
    "spec_augment",
]


def rand_augment(batch: Any, generator: Any) -> Any:
    """RandAugment (Cubuk et al. 2020) by kornia, two operations of moderate strength, after a mirror image in half of the cases.

    `batch`: (N, H, W, C) uint8; grey images become colour images first, and grey again afterwards.
    """
    import torch

    x = batch.permute(0, 3, 1, 2).float() / 255
    grey = x.shape[1] == 1
    x = x.expand(-1, 3, -1, -1) if grey else x
    mirrored = torch.rand((len(x), 1, 1, 1), generator=generator) < 0.5
    x = torch.where(mirrored, x.flip(3), x)
    with _drawn_from(generator):
        x = _rand_augment()(x)
    x = x[:, :1] if grey else x
    return (x.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)


@cache
def _rand_augment() -> Any:
    from kornia.augmentation.auto import RandAugment

    return RandAugment(n=2, m=10)


@contextmanager
def _drawn_from(generator: Any) -> Iterator[None]:
    """Context: seeds torch's global generator, from which kornia draws, by `generator`, and restores it afterwards."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
        yield


def spec_augment(batch: Any, generator: Any) -> Any:
    """SpecAugment (Park et al. 2019): two masks of frames, two of bands, and a shift in time. `batch`: (N, frames, bands, 1)."""
    import torch

    n, frames, bands = batch.shape[:3]
    shift = torch.randint(-frames // 8, frames // 8 + 1, (n, 1), generator=generator)
    source = torch.arange(frames) + shift
    x = batch[torch.arange(n)[:, None], source.clamp(0, frames - 1)]
    hidden = ((source < 0) | (source >= frames))[:, :, None]
    for size, axis in ((frames, 1), (bands, 2)):
        for _ in range(2):
            start = torch.randint(0, size, (n, 1), generator=generator)
            length = torch.randint(0, max(2, size // 6), (n, 1), generator=generator)
            at = torch.arange(size)
            mask = (at >= start) & (at < start + length)
            hidden = hidden | (mask[:, :, None] if axis == 1 else mask[:, None, :])
    return x.masked_fill(hidden[..., None], 0)


def jitter(batch: Any, generator: Any) -> Any:
    """Scale each channel by up to 20 %, add noise of 5 % of its deviation, and shift in time (Um et al. 2017).

    `batch`: (N, T, C), integers or floats; returns floats.
    """
    import torch

    x = batch.float()
    n, points, channels = x.shape
    scale = 1 + 0.2 * (2 * torch.rand((n, 1, channels), generator=generator) - 1)
    noise = 0.05 * x.std(dim=(0, 1), keepdim=True) * torch.randn(x.shape, generator=generator)
    shift = torch.randint(-points // 10, points // 10 + 1, (n, 1), generator=generator)
    rolled = x[torch.arange(n)[:, None], (torch.arange(points) + shift) % points]
    return rolled * scale + noise
