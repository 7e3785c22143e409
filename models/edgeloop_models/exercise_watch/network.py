"""A small convolutional network over time: one full convolution, then depthwise-separable ones."""

from __future__ import annotations

from torch import Tensor, nn


class MotionNet(nn.Module):
    """(N, channels, T) → (N, outputs). Time is treated as an image of width 1: 2-D integer kernels exist everywhere."""

    def __init__(self, channels: int, outputs: int, width: int, depth: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(channels, width, (9, 1), (2, 1), (4, 0), bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        for i in range(depth):
            stride = 2 if i % 2 == 0 else 1
            layers += [
                nn.Conv2d(width, width, (5, 1), (stride, 1), (2, 0), groups=width, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
                nn.Conv2d(width, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            ]  # fmt: skip
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.2)
        self.scores = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x.unsqueeze(-1))
        scores: Tensor = self.scores(self.dropout(self.pool(x).flatten(1)))
        return scores


def motion_net(sample_shape: tuple[int, ...], outputs: int, width: int = 64, depth: int = 4) -> nn.Module:
    """`sample_shape`: (channels, T)."""
    return MotionNet(sample_shape[0], outputs, width, depth)
