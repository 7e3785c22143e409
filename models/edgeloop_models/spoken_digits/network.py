"""A small depthwise-separable network for spectrograms (Zhang et al. 2017, "Hello Edge")."""

from __future__ import annotations

from torch import Tensor, nn


class DsCnn(nn.Module):
    """(N, 1, frames, bands) → (N, outputs)."""

    def __init__(self, channels: int, outputs: int, width: int, depth: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(channels, width, (5, 5), (2, 2), (2, 2), bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        for i in range(depth):
            stride = 2 if i == 1 else 1
            layers += [
                nn.Conv2d(width, width, 3, stride, 1, groups=width, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
                nn.Conv2d(width, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            ]  # fmt: skip
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.2)
        self.scores = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.scores(self.dropout(self.pool(self.features(x)).flatten(1)))
        return scores


def ds_cnn(sample_shape: tuple[int, ...], outputs: int, width: int = 64, depth: int = 4) -> nn.Module:
    """`sample_shape`: (channels, frames, bands)."""
    return DsCnn(sample_shape[0], outputs, width, depth)
