"""A small training for the tests of its techniques."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgeloop_exporters.normalization import InputNormalization
from edgeloop_pipeline.data.types import PreparedSplits, Samples
from edgeloop_pipeline.tasks.losses import cross_entropy
from edgeloop_pipeline.training.fit import Fitted, fit
from edgeloop_pipeline.training.settings import FitSettings

NORMALIZATION = InputNormalization("uint8", (128.0,), (64.0,))


def images(count: int, seed: int) -> Samples:
    """Bright squares in one of three places, in noise."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    values = rng.integers(0, 140, (count, 12, 12, 1))
    for i, label in enumerate(labels):
        values[i, 4 * label : 4 * label + 4, 2:8] += 70
    rows = np.arange(count)
    return Samples(values.astype(np.uint8), labels.astype(np.int64), rows, rows)


@pytest.fixture(scope="module")
def splits() -> PreparedSplits:
    return PreparedSplits(("top", "middle", "bottom"), images(300, 0), images(90, 1), images(90, 2))


def network(norm: bool = True, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16) if norm else nn.Identity(), nn.ReLU()),
        nn.Sequential(nn.Conv2d(16, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16) if norm else nn.Identity(), nn.ReLU()),
        nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Dropout(dropout), nn.Linear(144, 32), nn.ReLU(), nn.Linear(32, 3),
    )  # fmt: skip


def noise(batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return (batch + torch.randint(0, 20, batch.shape, generator=generator, dtype=torch.uint8)).clamp(max=255)


def train(splits: PreparedSplits, folder: Path, net: nn.Module | None = None, **settings: Any) -> tuple[nn.Module, Fitted]:
    net = net if net is not None else network()
    given = {
        "epochs": 2,
        "batch": 50,
        "learning_rate": 0.05,
        "precision": "float32",
        "channels_last": True,
        "workers": 0,
        **settings,
    }
    folder.mkdir(exist_ok=True, parents=True)
    return net, fit(net, NORMALIZATION, splits, FitSettings(**given), cross_entropy(0.0), seed=3, scratch=folder, augment=noise)


def furthest(a: nn.Module, b: nn.Module) -> float:
    return max(
        float((x.float() - y.float()).abs().max()) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )
