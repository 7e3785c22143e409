"""A dense autoencoder: it encodes a sample in a few numbers and reconstructs it from them."""

from __future__ import annotations

import math

from torch import Tensor, nn


class Autoencoder(nn.Module):
    """(N, channels, ...) → (N, values of a sample). It reconstructs samples like those of training well, and others badly."""

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
    """The autoencoder. `sample_shape`: (channels, ...); `outputs`: the number of values in a sample."""
    return Autoencoder(math.prod(sample_shape), width, code)
