"""A detector of one grid, for tests."""

from __future__ import annotations

from torch import Tensor, nn


class OneGrid(nn.Module):
    """(N, 3, H, W) → boxes (N, cells, 4) and scores (N, cells, labels), cells of 8 pixels."""

    def __init__(self, labels: int, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for stride in (2, 2, 2, 1):
            layers += [nn.Conv2d(before, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            before = width
        self.body = nn.Sequential(*layers)
        self.boxes, self.scores = nn.Conv2d(width, 4, 1), nn.Conv2d(width, labels, 1)
        nn.init.constant_(self.scores.bias, -4.0)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.body(x)
        return {name: head(x).permute(0, 2, 3, 1).flatten(1, 2) for name, head in (("boxes", self.boxes), ("scores", self.scores))}


def one_grid(sample_shape: tuple[int, ...], outputs: int, width: int = 16) -> nn.Module:
    return OneGrid(outputs, width)
