"""The network's place in training: whole in every process, or divided over the processes."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import nn

from edgeloop_contract.errors import ModelError
from edgeloop_pipeline.training import memory
from edgeloop_pipeline.training.parallel import Alone
from edgeloop_pipeline.training.scoring import device


class WholeModel:
    """The whole network in every process. `mine`: the module to optimize; `called`: the module to call in training."""

    description = ""

    def __init__(self, network: nn.Module, processes: Alone) -> None:
        self.processes = processes
        self.mine = network
        self.called = processes.prepare(network)

    def unsynchronised(self, network: nn.Module) -> AbstractContextManager[Any]:
        """Context for every backward pass of a step except the last one."""
        return self.processes.unsynchronised(network)

    def gather(self, network: nn.Module, average: bool = True) -> None:
        """Update the whole network in every process; `average`: with the mean of the running statistics."""
        if average:
            self.processes.average_buffers(network)

    def scatter(self, network: nn.Module) -> None:
        """Copy the whole network's values into the trained module."""

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> Any:
        """The optimizer's state for a checkpoint; every process calls this, the first one uses the result."""
        return optimizer.state_dict()

    def load_optimizer(self, optimizer: torch.optim.Optimizer, state: Any) -> None:
        optimizer.load_state_dict(state)


class Sharded(WholeModel):
    """Weights, gradients and optimizer state divided over the processes (FSDP; Zhao et al. 2023), by torch's `fully_shard`.

    `offload`: unused parts wait in the host's memory (GPUs only). A whole copy stays on the host.
    """

    description = "sharded (FSDP)"

    def __init__(self, network: nn.Module, processes: Alone, offload: bool) -> None:
        from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard

        if processes.part.world == 1:
            raise ModelError(
                "shard: one process cannot share a network; start more (--processes, accelerate launch), or leave it out"
            )
        self.processes = processes
        policy = CPUOffloadPolicy() if offload and torch.cuda.is_available() else OffloadPolicy()
        self.mine = copy.deepcopy(network)
        for _, unit in memory.units(self.mine):
            fully_shard(unit, offload_policy=policy)
        self.called: Any = fully_shard(self.mine, offload_policy=policy)
        network.to("cpu")

    @contextmanager
    def _later(self) -> Iterator[None]:
        self.called.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            self.called.set_requires_gradient_sync(True)

    def unsynchronised(self, network: nn.Module) -> AbstractContextManager[Any]:
        return self._later()

    def gather(self, network: nn.Module, average: bool = True) -> None:
        if average:
            self.processes.average_buffers(self.mine)
        network.load_state_dict({name: _full(tensor) for name, tensor in self.mine.state_dict().items()})

    def scatter(self, network: nn.Module) -> None:
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

        set_model_state_dict(self.mine, network.state_dict(), options=StateDictOptions(full_state_dict=True))

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> Any:
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

        return get_optimizer_state_dict(self.mine, optimizer, options=StateDictOptions(full_state_dict=True, cpu_offload=True))

    def load_optimizer(self, optimizer: torch.optim.Optimizer, state: Any) -> None:
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict

        set_optimizer_state_dict(self.mine, optimizer, state, options=StateDictOptions(full_state_dict=True))


def _full(tensor: Any) -> torch.Tensor:
    """The whole of a tensor that is divided over the processes; every process must call this."""
    whole: torch.Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return whole.detach().to("cpu")


def place_model(network: nn.Module, processes: Alone, shard: bool, offload: bool) -> WholeModel:
    if shard:
        return Sharded(network, processes, offload)
    return WholeModel(network.to(device()), processes)
