"""Narrows layers of a network, by groups of layers whose channels depend on each other."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import msgspec
import torch_pruning
from torch import Tensor, nn

from edgeloop_contract.errors import ModelError
from edgeloop_pipeline.compression import pruning
from edgeloop_pipeline.networks import saved_network
from edgeloop_pipeline.networks.saved_network import Saved

STEPS = (1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125)  # the shares of a layer's channels to try


def narrowed(saved: Saved, sample: Tensor, widths: Mapping[str, float], round_to: int) -> Saved:
    """A copy with the given share of each layer's channels. `widths`: layer → share; `sample`: (1, channels, ...)."""
    changed = {name: share for name, share in widths.items() if share < 1}
    network = copy.deepcopy(saved.network)
    before = saved_network.sizes(network)
    if changed:
        wanted = pruning.Channels(1.0, round_to, layers=changed, may_do_nothing=True)
        pruning.remove_channels(network, sample, wanted)
    changes = {name: sizes for name, sizes in saved_network.sizes(network).items() if sizes != before[name]}
    return Saved(network, msgspec.structs.replace(saved.structure, changes={**saved.structure.changes, **changes}))


def roots(network: nn.Module, sample: Tensor) -> list[str]:
    """The first layer of every group of dependent layers, without those of the answering layers. Raises ModelError."""
    try:
        pruner = torch_pruning.pruner.BasePruner(
            network, sample, importance=torch_pruning.importance.GroupMagnitudeImportance(), pruning_ratio=0.5,
            ignored_layers=pruning.answering_layers(network, sample),
        )  # fmt: skip
        groups = pruner.DG.get_all_groups(ignored_layers=pruner.ignored_layers, root_module_types=pruner.root_module_types)
        found = {id(group[0].dep.target.module) for group in groups}
    except Exception as error:  # torch-pruning can raise anything
        why = f"{type(error).__name__}: {error}"
        raise ModelError(f"{type(network).__name__}: cannot be pruned ({why}); leave budget out") from error
    return [name for name, module in network.named_modules() if id(module) in found]
