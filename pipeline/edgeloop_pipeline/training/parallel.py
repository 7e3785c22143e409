"""One process, or several that `accelerate launch` (torchrun, srun) started: the loop sees the same door."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import nn

from edgeloop_pipeline.training.batches import Part
from edgeloop_pipeline.training.scoring import device


class Alone:
    """One process on one device."""

    part = Part()
    description = "one process"

    def prepare(self, network: nn.Module) -> nn.Module:
        """The network as it is called in training."""
        return network.to(device())

    def unsynchronised(self, network: nn.Module) -> AbstractContextManager[Any]:
        """Around every backward pass of a step but its last."""
        return nullcontext()

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """Sum over all processes."""
        return values

    def every(self, rows: torch.Tensor) -> torch.Tensor:
        """All processes' rows, in the order of the processes."""
        return rows

    def wait(self) -> None:
        """Until every process is here."""


class Together(Alone):
    """Data parallel by accelerate: each process has the whole network and its part of every batch."""

    def __init__(self) -> None:
        from accelerate import Accelerator

        self._accelerator = Accelerator(cpu=not torch.cuda.is_available())
        self.part = Part(self._accelerator.process_index, self._accelerator.num_processes)
        kind = str(self._accelerator.distributed_type).removeprefix("DistributedType.")
        self.description = f"{self.part.world} processes ({kind}, {self._accelerator.device.type})"

    def prepare(self, network: nn.Module) -> nn.Module:
        made: nn.Module = self._accelerator.prepare_model(network)
        return made

    def unsynchronised(self, network: nn.Module) -> AbstractContextManager[Any]:
        return self._accelerator.no_sync(network)  # type: ignore[no-any-return]

    def total(self, values: torch.Tensor) -> torch.Tensor:
        return self._accelerator.reduce(values.to(self._accelerator.device), "sum").cpu()  # type: ignore[no-any-return]

    def every(self, rows: torch.Tensor) -> torch.Tensor:
        from accelerate.utils import gather_object

        return torch.cat(gather_object([rows]))

    def wait(self) -> None:
        self._accelerator.wait_for_everyone()


@cache
def processes() -> Alone:
    """Who trains. Read from the variables that every launcher sets."""
    return Together() if int(os.environ.get("WORLD_SIZE", "1")) > 1 else Alone()
