"""Settings of everything that trains (no torch here: a cached run reads them)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec

Count = Annotated[int, msgspec.Meta(ge=1)]
Rate = Annotated[float, msgspec.Meta(gt=0)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


@dataclass(frozen=True)
class FitSettings:
    """One-cycle training (Smith 2018): the rate rises for `warm_up` of the steps, then falls."""

    epochs: Count = 20
    batch: Count = 128
    learning_rate: Rate = 0.1
    weight_decay: Annotated[float, msgspec.Meta(ge=0)] = 5e-4
    optimizer: Literal["sgd", "adamw"] = "sgd"
    warm_up: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.2
    precision: Literal["auto", "bf16", "float32"] = "auto"
    keep: Literal["best", "last"] = "best"  # which epoch, by validation accuracy
    clip_norm: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    label_smoothing: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0
