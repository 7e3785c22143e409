"""Memory of training: an estimate before it, activation checkpointing to reduce it, the measured peak after it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from edgeloop_pipeline.system import malloc
from edgeloop_pipeline.training.scoring import copy_of

STATE_VALUES = {"sgd": 1.0, "adamw": 2.0, "adafactor": 0.05}  # per parameter; adafactor keeps a row and a column


@dataclass(frozen=True)
class Estimate:
    """The bytes that training needs above the process itself, for one part of a batch at a time."""

    parameters: int
    gradients: int
    optimizer: int
    activations: int
    batch: int

    @property
    def total(self) -> int:
        return self.parameters + self.gradients + self.optimizer + self.activations + self.batch


def estimate(
    network: nn.Module, x: Tensor, samples: int, optimizer: str, context: Callable[[], Any], recompute: bool = False
) -> Estimate:
    """Estimate the memory. `x`: a few normalized samples, run once through a copy; `samples`: the number in memory at a time."""
    weights = sum(p.numel() * p.element_size() for p in network.parameters())
    trained = sum(p.numel() * p.element_size() for p in network.parameters() if p.requires_grad)
    saved = saved_bytes(network, x, context, recompute) / len(x)
    each = x.element_size() * x[0].numel()
    return Estimate(weights, trained, int(trained * STATE_VALUES[optimizer]), int(saved * samples), each * samples)


def saved_bytes(network: nn.Module, x: Tensor, context: Callable[[], Any], recompute: bool = False) -> int:
    """The bytes that autograd keeps from the forward pass for the backward pass, without parameters."""
    trial = copy_of(network).train()
    own = {p.untyped_storage().data_ptr() for p in (*trial.parameters(), *trial.buffers())}
    kept: dict[int, int] = {}
    alive = []  # so that no address is used twice

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t)
    with torch.random.fork_rng(), checkpointed(trial, recompute), context(), hooks:
        answer = trial(x)
    del answer
    return sum(kept.values())


def resident_bytes() -> tuple[int, int]:
    """The memory of this process now, and its peak so far, in bytes (0 without Linux). On a GPU: the allocator's."""
    if torch.cuda.is_available():
        return torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0, 0
    found = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.startswith(("VmRSS", "VmHWM"))}
    return found.get("VmRSS", 0), found.get("VmHWM", 0)


def free_bytes() -> int:
    """The free memory in bytes: of the GPU, or of this machine within its container's limit."""
    if torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[0])
    return malloc.free_bytes()


def units(network: nn.Module) -> list[tuple[str, nn.Module]]:
    """The modules to recompute as one: blocks that are no plain list of others, or lists of single layers."""
    found: list[tuple[str, nn.Module]] = []

    def walk(name: str, module: nn.Module) -> None:
        children = list(module.named_children())
        lists = isinstance(module, (nn.Sequential, nn.ModuleList))
        if not children:
            return
        if name and not (lists and any(list(child.children()) for _, child in children)):
            found.append((name, module))
            return
        for child, part in children:
            walk(f"{name}.{child}" if name else child, part)

    walk("", network)
    return found


@contextmanager
def checkpointed(network: nn.Module, on: bool) -> Iterator[list[str]]:
    """Context: keep only each unit's input for the backward pass and recompute the rest (Chen et al. 2016).

    A long list of single layers is cut into √n parts. Running statistics are not updated a second time. A copy made
    inside the context would still call this network: copy it before.
    """
    chosen = units(network) if on else []
    for _, module in chosen:
        module.forward = _recomputed(module)
    try:
        yield [name for name, _ in chosen]
    finally:
        for _, module in chosen:
            del module.forward


def _recomputed(module: nn.Module) -> Callable[..., Any]:
    plain = module.forward

    def contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        return nullcontext(), _statistics_stand_still(module)

    def once(function: Callable[..., Any], *inputs: Any) -> Any:
        if not module.training or not torch.is_grad_enabled():
            return function(*inputs)
        return checkpoint(function, *inputs, use_reentrant=False, context_fn=contexts)

    if not isinstance(module, nn.Sequential):
        return lambda *inputs: once(plain, *inputs)
    layers = list(module)
    length = math.ceil(len(layers) / max(1, round(math.sqrt(len(layers)))))
    runs = [nn.Sequential(*layers[i : i + length]) for i in range(0, len(layers), length)] if len(layers) > 4 else [plain]

    def forward(x: Any) -> Any:
        for run in runs:
            x = once(run, x)
        return x

    return forward


@contextmanager
def _statistics_stand_still(module: nn.Module) -> Iterator[None]:
    norms: list[Any] = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._NormBase) and m.track_running_stats]
    before = [(norm.momentum, norm.num_batches_tracked.clone()) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(count)
