"""A dense autoencoder: squeezes a sample through a few numbers and writes it again."""

from __future__ import annotations

import math

from torch import Tensor, nn


class Autoencoder(nn.Module):
    """(N, channels, ...) → (N, values of a sample). What it saw in training comes back well, other things badly."""

    def __init__(self, values: int, width: int, code: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(values, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(),
            nn.Linear(width, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, code), nn.ReLU(),
        )  # fmt: skip
        self.decoder = nn.Sequential(nn.Linear(code, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, values))

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.decoder(self.encoder(x.flatten(1)))
        return made


def autoencoder(sample_shape: tuple[int, ...], outputs: int, width: int = 64, code: int = 8) -> nn.Module:
    """`sample_shape`: (channels, ...); `outputs`: how many values that is."""
    return Autoencoder(math.prod(sample_shape), width, code)
