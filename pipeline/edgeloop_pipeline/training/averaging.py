"""A moving average of the weights, which is judged and kept in place of the last step's (Polyak & Juditsky 1992)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from edgeloop_contract.errors import ModelError
from edgeloop_pipeline.training.settings import FitSettings

__all__ = ["Average", "average_of"]

WARM_UP = 10  # steps: at the start the average follows quickly


class Average:
    """Follows a network's weights and running statistics; without a `decay` it does nothing."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network, self.decay, self.steps = network, decay, 0
        self._kept = {name: t.detach().clone() for name, t in self._state()} if decay else {}

    def _state(self) -> Iterator[tuple[str, Tensor]]:
        return ((name, t) for name, t in self.network.state_dict().items() if t.is_floating_point())

    def update(self) -> None:
        """After an optimizer step."""
        if not self.decay:
            return
        self.steps += 1
        share = 1 - min(self.decay, (1 + self.steps) / (WARM_UP + self.steps))
        names = list(self._kept)
        now = dict(self._state())
        torch._foreach_lerp_([self._kept[n] for n in names], [now[n] for n in names], share)

    @contextmanager
    def used(self) -> Iterator[None]:
        """Context: the network has the averaged weights."""
        if not self.decay:
            yield
            return
        own = {name: t.detach().clone() for name, t in self._state()}
        self._give(self._kept)
        try:
            yield
        finally:
            self._give(own)

    def _give(self, values: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, tensor in self._state():
                tensor.copy_(values[name])

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs to continue."""
        return {"steps": self.steps, "kept": self._kept}

    def restore(self, state: dict[str, Any]) -> None:
        self.steps, self._kept = int(state["steps"]), dict(state["kept"])


def average_of(network: nn.Module, settings: FitSettings, split_at: bool) -> Average:
    """Raises ModelError where the weights are not all in this process."""
    if settings.average and (settings.shard or split_at):
        raise ModelError("average: needs all weights in one process; remove shard and split_at")
    return Average(network, settings.average)
