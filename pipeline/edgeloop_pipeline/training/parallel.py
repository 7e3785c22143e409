"""One interface for one process and for several that `accelerate launch` (torchrun, srun) started."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any, TypeVar

import torch
from torch import nn

from edgeloop_pipeline.training.batches import Part
from edgeloop_pipeline.training.scoring import device

T = TypeVar("T")


class Alone:
    """One process on one device."""

    part = Part()
    description = "one process"

    def prepare(self, network: nn.Module) -> nn.Module:
        """The module to call in training."""
        return network.to(device())

    def unsynchronised(self, network: nn.Module) -> AbstractContextManager[Any]:
        """Context for every backward pass of a step except the last one."""
        return nullcontext()

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over all processes."""
        return values

    def every(self, rows: torch.Tensor) -> torch.Tensor:
        """The rows of all processes, in the order of the processes."""
        return rows

    def agree(self, value: T | None) -> T:
        """The first process's value, given to all processes."""
        assert value is not None
        return value

    def collect(self, value: T) -> list[T]:
        """Every process's value, in the order of the processes."""
        return [value]

    def average_buffers(self, network: nn.Module) -> None:
        """Give every process the mean of all processes' running statistics."""


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
        return torch.cat(self.collect(rows))

    def agree(self, value: T | None) -> T:
        from accelerate.utils import broadcast_object_list

        found: list[Any] = broadcast_object_list([value])
        return found[0]  # type: ignore[no-any-return]

    def collect(self, value: T) -> list[T]:
        from accelerate.utils import gather_object

        found: list[T] = gather_object([value])
        return found

    def average_buffers(self, network: nn.Module) -> None:
        for buffer in network.buffers():
            if buffer.is_floating_point():
                buffer.copy_(self._accelerator.reduce(buffer, "mean"))


@cache
def processes() -> Alone:
    """The processes that train, by the environment variables that every launcher sets."""
    return Together() if int(os.environ.get("WORLD_SIZE", "1")) > 1 else Alone()
