"""A small residual network for small images (He et al. 2016), in two sizes by its arguments."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


def _conv(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False), nn.BatchNorm2d(outputs))


class Block(nn.Module):
    """Two 3×3 convolutions beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = _conv(inputs, outputs, 3, stride)
        self.second = _conv(outputs, outputs, 3)
        self.shortcut = nn.Identity() if inputs == outputs and stride == 1 else _conv(inputs, outputs, 1, stride)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.relu(self.second(self.relu(self.first(x))) + self.shortcut(x))
        return y


class ResNet(nn.Module):
    """(N, channels, H, W) → (N, outputs). `widths`: channels of each stage; every stage but the first halves the image.

    `stem_stride` 2 halves it from the start, under a 5×5 convolution: a quarter of the work, in layers that runtimes like.
    """

    def __init__(self, channels: int, outputs: int, widths: Sequence[int], blocks: int, stem_stride: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(_conv(channels, widths[0], 3 if stem_stride == 1 else 5, stem_stride), nn.ReLU())
        layers: list[nn.Module] = []
        previous = widths[0]
        for i, width in enumerate(widths):
            for j in range(blocks):
                layers.append(Block(previous, width, 2 if i and not j else 1))
                previous = width
        self.blocks = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.scores = nn.Linear(previous, outputs)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.scores(self.pool(self.blocks(self.stem(x))).flatten(1))
        return scores


def resnet(
    sample_shape: tuple[int, ...], outputs: int, widths: Sequence[int] = (32, 64, 128), blocks: int = 2, stem_stride: int = 1
) -> nn.Module:
    """`sample_shape`: (channels, H, W)."""
    return ResNet(sample_shape[0], outputs, widths, blocks, stem_stride)
