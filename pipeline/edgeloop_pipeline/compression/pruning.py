"""Prunes a network: removes whole channels, or sets weights to zero."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch_pruning
from torch import Tensor, nn
from torch.nn.utils import parametrize

from edgeloop_contract.errors import ModelError, UsageError
from edgeloop_contract.settings import nearest
from edgeloop_exporters.onnx_import.sampling import deforms
from edgeloop_exporters.quiet import quiet

WEIGHTED = (nn.Linear, nn.modules.conv._ConvNd)
IMPORTANCES = {
    "magnitude": lambda: torch_pruning.importance.GroupMagnitudeImportance(p=2),
    "taylor": lambda: torch_pruning.importance.GroupTaylorImportance(),
    "batchnorm": lambda: torch_pruning.importance.BNScaleImportance(),
}


@dataclass(frozen=True)
class Channels:
    """Which channels to remove. `layers`: name → share kept there, if it differs from `keep`."""

    keep: float
    round_to: int = 8
    importance: str = "magnitude"
    across_layers: bool = False
    layers: Mapping[str, float] = field(default_factory=dict)
    may_do_nothing: bool = False  # False: an error if rounding leaves all channels in place


def remove_channels(network: nn.Module, sample: Tensor, wanted: Channels) -> None:
    """Remove the least important channels, by groups of channels that depend on each other (DepGraph, Fang et al. 2023).

    `importance: taylor` needs the network's gradients. Raises ModelError naming the layer that cannot be
    pruned, and UsageError for a layer that does not exist.
    """
    modules = dict(network.named_modules())
    for name in wanted.layers:
        if name not in modules:
            raise UsageError(f"stages.prune.layers: {name!r} is no layer{nearest(name, [n for n in modules if n])}")
    if deforms(network):  # torch-pruning follows it without an end
        raise ModelError(f"{type(network).__name__} cannot be pruned: it has a DeformConv; set prune: off")
    before = sum(p.numel() for p in network.parameters())
    try:
        with quiet():  # a traced network prints where it fails
            pruner = torch_pruning.pruner.BasePruner(
                network, sample, importance=IMPORTANCES[wanted.importance](), global_pruning=wanted.across_layers,
                pruning_ratio=1.0 - wanted.keep, pruning_ratio_dict={modules[n]: 1.0 - share for n, share in wanted.layers.items()},
                max_pruning_ratio=0.9, ignored_layers=answering_layers(network, sample), round_to=wanted.round_to,
            )  # fmt: skip
            pruner.step()
            with torch.no_grad():
                network(sample)
    except Exception as error:  # torch-pruning and the network can raise anything
        raise ModelError(
            f"{type(network).__name__} cannot be pruned at layer {_unprunable(network, sample)}: {type(error).__name__}: {error};"
            " write sizes in forward() relative to the tensor's own (x.shape), or set prune: off"
        ) from error
    if (wanted.keep < 1 or wanted.layers) and not wanted.may_do_nothing and sum(p.numel() for p in network.parameters()) == before:
        width, name = min((_channels_a_group(m), n) for n, m in modules.items() if isinstance(m, WEIGHTED))
        raise ModelError(
            f"{type(network).__name__}: keep {wanted.keep} with round_to {wanted.round_to} removes nothing: for example,"
            f" layer {name} has {width} channels per group; lower round_to, or set prune: off"
        )


def _channels_a_group(module: Any) -> int:
    return int(getattr(module, "out_features", 0) or module.out_channels // module.groups)


def answering_layers(network: nn.Module, sample: Tensor) -> list[nn.Module]:
    """The layers with weights whose channels are the network's answers; several where it has several outputs.

    Found by the way back from the answer: what it meets first on each path.
    """
    made_by: dict[Any, nn.Module] = {}
    ran: list[nn.Module] = []

    def remember(module: nn.Module, _: object, output: Any) -> None:
        ran.append(module)
        if isinstance(output, Tensor) and output.grad_fn is not None:
            made_by[output.grad_fn] = module

    hooks = [m.register_forward_hook(remember) for m in network.modules() if isinstance(m, WEIGHTED)]
    try:
        with torch.enable_grad():
            answer = network(sample)
    finally:
        for hook in hooks:
            hook.remove()
    found: list[nn.Module] = []
    waiting, seen = [tensor.grad_fn for tensor in _tensors(answer)], set[Any]()
    while waiting:
        step = waiting.pop()
        if step is None or step in seen:
            continue
        seen.add(step)
        if step in made_by:
            found.append(made_by[step])
        else:
            waiting += [before for before, _ in step.next_functions]
    return list(dict.fromkeys(found)) or ran[-1:]  # without gradients, the one that ran last


def _tensors(answer: Any) -> list[Tensor]:
    if isinstance(answer, Tensor):
        return [answer]
    parts = answer.values() if isinstance(answer, Mapping) else answer if isinstance(answer, list | tuple) else ()
    return [tensor for part in parts for tensor in _tensors(part)]


def _unprunable(network: nn.Module, sample: Tensor) -> str:
    """The name of the first layer at which a run of the network now fails."""
    entered: list[str] = []
    hooks = [m.register_forward_pre_hook(lambda *_, n=n: entered.append(n)) for n, m in network.named_modules() if n]
    try:
        with quiet(), torch.no_grad():
            network(sample)
    except Exception:  # the failure was reported already; only its place matters
        pass
    finally:
        for hook in hooks:
            hook.remove()
    return entered[-1] if entered else "(network)"


class _Masked(nn.Module):
    """A parametrization that keeps masked weights at zero during training."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.mask: Tensor
        self.register_buffer("mask", mask)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask


def mask_of(weight: Tensor, pattern: str, keep: float) -> Tensor:
    """The mask: one where `weight` (outputs, inputs, ...) stays. 2:4: the two largest of every four inputs (Mishra et al. 2021)."""
    size = weight.detach().abs()
    if pattern == "unstructured":
        kept = round(keep * size.numel())
        return (size >= size.flatten().kthvalue(max(1, size.numel() - kept + 1)).values).to(weight.dtype)
    rows = size.transpose(1, -1).reshape(-1, size.shape[1])  # inputs last, the order in which the hardware reads
    fours = rows[:, : rows.shape[1] // 4 * 4].reshape(len(rows), -1, 4)
    kept_fours = torch.zeros_like(fours).scatter_(2, fours.topk(2, dim=2).indices, 1.0)
    mask = torch.ones_like(rows)
    mask[:, : kept_fours[0].numel()] = kept_fours.reshape(len(rows), -1)
    moved = size.transpose(1, -1)
    return mask.reshape(moved.shape).transpose(1, -1).contiguous().to(weight.dtype)


@contextmanager
def sparse(network: nn.Module, pattern: str, keep: float) -> Iterator[list[str]]:
    """Context: the smallest weights are zero inside it and afterwards. Gives the layers' names. Biases and norms stay."""
    chosen = {
        n: m for n, m in network.named_modules()
        if isinstance(m, WEIGHTED) and m.weight[0].numel() > 1 and (pattern == "unstructured" or m.weight.shape[1] % 4 == 0)
    }  # fmt: skip
    for module in chosen.values():
        parametrize.register_parametrization(module, "weight", _Masked(mask_of(module.weight, pattern, keep)))
    try:
        yield list(chosen)
    finally:
        for module in chosen.values():
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)


def compressed_bytes(network: nn.Module) -> int:
    """The bytes of the weights as int8 after deflate, like in a compressed download."""
    total = 0
    for module in network.modules():
        if isinstance(module, WEIGHTED):
            weight = module.weight.detach()
            integers = (weight / weight.abs().max().clamp(min=1e-12) * 127).round().to(torch.int8).numpy()
            total += len(zlib.compress(np.ascontiguousarray(integers).tobytes(), 9))
    return total
