"""Cuts a network into stages, one process (and device) each, for networks that do not fit one device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from edgeloop_contract.errors import ModelError
from edgeloop_exporters.network_failure import explain_failure
from edgeloop_exporters.quiet import quiet
from edgeloop_pipeline.training.parallel import Alone
from edgeloop_pipeline.training.scoring import device
from edgeloop_pipeline.training.sharding import WholeModel


class Pipelined(WholeModel):
    """GPipe (Huang et al. 2019) by torch.distributed.pipelining: parts of a batch follow each other through the stages.

    `split_at`: the modules that begin the second stage, the third, and so on; one process per stage. All parts must
    have one size. The gradient is that of the whole batch, as with accumulation.
    """

    def __init__(self, network: nn.Module, part: Tensor, split_at: list[str], parts: int, processes: Alone) -> None:
        from torch.distributed.pipelining import ScheduleGPipe, SplitPoint, pipeline

        world = processes.part.world
        if world != len(split_at) + 1:
            raise ModelError(f"split_at makes {len(split_at) + 1} stages, but {world} processes train: start one for each stage")
        names = dict(network.named_modules())
        unknown = next((name for name in split_at if name not in names), None)
        if unknown is not None:
            raise ModelError(f"split_at: no module {unknown!r}; it has {', '.join(n for n in names if n.count('.') < 2 and n)}")
        try:
            with quiet():
                pipe = pipeline(network.train(), (part,), split_spec=dict.fromkeys(split_at, SplitPoint.BEGINNING))
                self._stage: Any = pipe.build_stage(processes.part.rank, device())
        except Exception as error:  # tracing the user's network can raise anything
            raise ModelError(f"split_at: {explain_failure(network, part, error)}") from error
        self.processes, self.first, self.last = processes, processes.part.rank == 0, processes.part.rank == world - 1
        self.mine: nn.Module = self._stage.submod
        self.called = self.mine
        self.description = f"cut at {', '.join(split_at)}"
        self._loss: Any = None
        self._schedule: Any = ScheduleGPipe(
            self._stage, parts, loss_fn=lambda scores, labels: self._loss(scores, labels, None, None)
        )

    def step(self, parts: list[tuple[Tensor, Tensor]], loss: Any) -> float:
        """Compute the gradients of one batch in this process's stage. Returns the summed loss in the last process, 0 in others."""
        self._loss = loss
        self.mine.zero_grad(set_to_none=True)
        x, labels = (torch.cat(list(side)).to(device()) for side in zip(*parts, strict=True))
        losses: list[Tensor] = []
        given = {"target": labels, "losses": losses} if self.last else {}
        self._schedule.step(*((x,) if self.first else ()), **given)
        return float(torch.stack(losses).mean()) * len(x) if self.last else 0.0

    def gather(self, network: nn.Module, average: bool = True) -> None:
        """Copy every stage's weights and statistics into the whole network."""
        state = {name: tensor.detach().cpu() for name, tensor in self.mine.state_dict().items()}
        for stage in self.processes.collect(state):
            network.load_state_dict(stage, strict=False)

    def scatter(self, network: nn.Module) -> None:
        """Copy the whole network's values into this process's stage."""
        self.mine.load_state_dict({name: tensor for name, tensor in network.state_dict().items() if name in self.mine.state_dict()})

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> Any:
        """The optimizer states of all processes: each has the optimizer of its own stage."""
        return self.processes.collect(optimizer.state_dict())

    def load_optimizer(self, optimizer: torch.optim.Optimizer, state: Any) -> None:
        optimizer.load_state_dict(state[self.processes.part.rank])
