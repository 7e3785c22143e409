"""Makes the optimizers, and the schedules of the learning rate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from edgeloop_pipeline.training.settings import FitSettings

PLATEAU_FACTOR, PLATEAU_PATIENCE = 0.3, 3


def optimizer_of(network: nn.Module, settings: FitSettings, rate: float) -> torch.optim.Optimizer:
    """The optimizer. Weight decay acts on weights only: on biases and normalization it costs accuracy (He et al. 2019)."""
    weights = [p for p in network.parameters() if p.requires_grad and p.dim() > 1]
    others = [p for p in network.parameters() if p.requires_grad and p.dim() <= 1]
    groups = [{"params": weights, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, rate, momentum=0.9, nesterov=True, fused=True)
    if settings.optimizer == "adafactor":
        return torch.optim.Adafactor(groups, rate)
    return torch.optim.AdamW(groups, rate, fused=True)


@dataclass
class Schedule:
    """The schedule: call `step` after every optimizer step, and `epoch` after every epoch with its validation loss."""

    scheduler: Any
    by_epoch: bool = False

    def step(self) -> None:
        if not self.by_epoch:
            self.scheduler.step()

    def epoch(self, validation_loss: float) -> None:
        if self.by_epoch:
            self.scheduler.step(validation_loss)


def schedule_of(optimizer: torch.optim.Optimizer, settings: FitSettings, rate: float, total_steps: int) -> Schedule:
    if settings.schedule == "one-cycle":
        cycle = settings.optimizer != "adafactor"  # it has no momentum to cycle
        return Schedule(
            torch.optim.lr_scheduler.OneCycleLR(
                optimizer, rate, total_steps=total_steps, pct_start=settings.warm_up, cycle_momentum=cycle
            )
        )
    if settings.schedule == "plateau":
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=PLATEAU_FACTOR, patience=PLATEAU_PATIENCE)
        return Schedule(plateau, by_epoch=True)
    warm = max(1, round(settings.warm_up * total_steps))

    def share(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        if settings.schedule == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total_steps - warm)))

    return Schedule(torch.optim.lr_scheduler.LambdaLR(optimizer, share))
