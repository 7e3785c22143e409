"""An anchor-free single-stage detector with a small feature pyramid, in three widths.

Convolutions of 3×3 with BatchNorm and ReLU, nearest upsampling and additions: every runtime has integer kernels for them. Boxes are
made of the outputs outside of the network, in float.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

WIDTHS = {"small": 32, "medium": 48, "large": 64}  # channels of the pyramid
START_SHARE = 0.01  # of cells that find something, before training


def _layer(inputs: int, outputs: int, size: int = 3, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


class Block(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _layer(channels, channels)
        self.second = nn.Sequential(nn.Conv2d(channels, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels))
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.relu(self.second(self.first(x)) + x)
        return y


class Head(nn.Module):
    """Of one level's cells: distances (N, cells, 4), scores (N, cells, labels), and points (N, cells, 3 × points) if any."""

    def __init__(self, channels: int, labels: int, points: int) -> None:
        super().__init__()
        self.boxes = nn.Sequential(_layer(channels, channels), nn.Conv2d(channels, 4, 1))
        self.scores = nn.Sequential(_layer(channels, channels), nn.Conv2d(channels, labels, 1))
        self.points = nn.Sequential(_layer(channels, channels), nn.Conv2d(channels, 3 * points, 1)) if points else None
        last = self.scores[-1]
        assert isinstance(last, nn.Conv2d) and last.bias is not None
        nn.init.constant_(last.bias, math.log(START_SHARE / (1 - START_SHARE)))

    def forward(self, x: Tensor) -> list[Tensor]:
        parts = [self.boxes(x), self.scores(x), *([self.points(x)] if self.points is not None else [])]
        return [part.permute(0, 2, 3, 1).flatten(1, 2) for part in parts]


class Detector(nn.Module):
    """(N, channels, H, W) → boxes (N, cells, 4), logarithms of distances in strides, and scores (N, cells, labels), logits.

    Cells have strides of 8 and 16 pixels; H and W are multiples of 16. `depths`: blocks at each of them. With `points`, theirs
    (N, cells, 3 × points) too: to the right and downward from the cell's middle in strides, and a logit, for each.
    """

    def __init__(self, channels: int, labels: int, width: int, depths: Sequence[int], points: int) -> None:
        super().__init__()
        fine, coarse = depths
        self.stem = nn.Sequential(
            _layer(channels, width // 4, stride=2), _layer(width // 4, width // 2, stride=2), _layer(width // 2, width // 2)
        )
        self.fine = nn.Sequential(_layer(width // 2, width, stride=2), *(Block(width) for _ in range(fine)))
        self.coarse = nn.Sequential(_layer(width, 2 * width, stride=2), *(Block(2 * width) for _ in range(coarse)))
        self.narrow = _layer(2 * width, width, 1)
        self.wide = nn.Upsample(scale_factor=2, mode="nearest")
        self.beside = nn.Sequential(nn.Conv2d(width, width, 1, bias=False), nn.BatchNorm2d(width))
        self.mixed = _layer(width, width)
        self.heads = nn.ModuleList([Head(width, labels, points) for _ in range(2)])

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        fine = self.fine(self.stem(x))
        coarse = self.narrow(self.coarse(fine))
        mixed = self.mixed(self.beside(fine) + self.wide(coarse))
        levels = [head(level) for head, level in zip(self.heads, (mixed, coarse), strict=True)]
        joined = [torch.cat(list(parts), 1) for parts in zip(*levels, strict=True)]
        return dict(zip(("boxes", "scores", "points"), joined, strict=False))


def detector(
    sample_shape: tuple[int, ...], outputs: int, width: str = "medium", depths: Sequence[int] = (1, 1), points: int = 0
) -> nn.Module:
    """`sample_shape`: (channels, H, W); `outputs`: number of labels; `width`: small, medium or large; `points`: of a box."""
    if width not in WIDTHS:
        raise ValueError(f"width {width!r}; there is {', '.join(WIDTHS)}")
    if any(side % 16 for side in sample_shape[1:]):
        raise ValueError(f"pictures of {sample_shape[1]} × {sample_shape[2]} pixels; both must be multiples of 16")
    return Detector(sample_shape[0], outputs, WIDTHS[width], depths, points)
