"""Stores networks without pickle: weights as safetensors, the user's builder, and the layer sizes that pruning changed."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from edgeloop_contract.errors import ModelError
from edgeloop_exporters.normalization import InputNormalization
from edgeloop_exporters.outputs import Joining
from edgeloop_pipeline.data.types import PreparedSplits
from edgeloop_pipeline.recipe.project import Project
from edgeloop_pipeline.recipe.user_code import load_object
from edgeloop_pipeline.tasks.registry import NamedOutputs, task_for

WEIGHTS = "network.safetensors"
VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
STRUCTURE = "network.json"
# The integer sizes that structured pruning changes, by layer family.
SIZES = ("in_channels", "out_channels", "groups", "num_features", "in_features", "out_features", "num_channels")


class Structure(msgspec.Struct, frozen=True):
    """The description to rebuild a network. `changes`: module → {size: value}, where sizes differ from the builder's."""

    builder: str
    arguments: dict[str, Any]
    changes: dict[str, dict[str, int]]
    normalization: InputNormalization


@dataclass(frozen=True)
class Saved:
    """A network with its input normalization."""

    network: nn.Module
    structure: Structure

    @property
    def normalization(self) -> InputNormalization:
        return self.structure.normalization


def build(project: Project, builder: str, arguments: dict[str, Any], splits: PreparedSplits) -> nn.Module:
    """Call the user's builder with the channels-first sample shape and the number of outputs. Raises ModelError."""
    if not builder:
        from edgeloop_pipeline.networks.imported import imported_network

        given = project.recipe.head.imported
        assert given is not None
        return imported_network(project.recipe.folder, given, flat=splits.task == "classification")
    shape = (splits.shape[-1], *splits.shape[:-1])
    task = task_for(splits)
    outputs = task.outputs
    make = load_object(project.recipe.folder, builder)
    try:
        network = make(shape, outputs, **arguments)
    except Exception as error:  # the user's code can raise anything
        raise ModelError(
            f"{builder}: called with shape {shape}, {outputs} outputs and {arguments or 'no arguments'}:"
            f" {type(error).__name__}: {error}"
        ) from error
    if not isinstance(network, nn.Module):
        raise ModelError(f"{builder}: returned {type(network).__name__}; return a torch.nn.Module")
    return Joining(network, task.named) if task.named else network


def load_weights(network: nn.Module, path: Path) -> None:
    """Load the weights of a network of the same structure. Raises ModelError."""
    try:
        network.load_state_dict(load_file(path))
    except (OSError, RuntimeError, ValueError) as error:
        raise ModelError(f"{path}: not weights of this network: {' '.join(str(error).split())[:300]}") from error


def sizes(network: nn.Module) -> dict[str, dict[str, int]]:
    return {
        name: {key: getattr(module, key) for key in SIZES if isinstance(getattr(module, key, None), int)}
        for name, module in network.named_modules()
    }


def save(folder: Path, network: nn.Module, structure: Structure) -> None:
    state = {name: tensor.detach().contiguous().clone() for name, tensor in network.state_dict().items()}
    save_file(state, str(folder / WEIGHTS))
    (folder / STRUCTURE).write_bytes(msgspec.json.encode(structure, order="sorted"))


def load(project: Project, folder: Path) -> Saved:
    """Build the network, give its layers the saved sizes, and load the weights. Raises ModelError if they do not fit."""
    structure = msgspec.json.decode((folder / STRUCTURE).read_bytes(), type=Structure)
    network = build(project, structure.builder, structure.arguments, project.splits)
    state = load_file(str(folder / WEIGHTS))
    for name, changed in structure.changes.items():
        module = network.get_submodule(name)
        for key, size in changed.items():
            setattr(module, key, size)
        families: tuple[tuple[str, Any], ...] = (("parameter", module._parameters), ("buffer", module._buffers))
        for kind, tensors in families:
            for leaf, old in list(tensors.items()):
                new = state.get(f"{name}.{leaf}" if name else leaf)
                if old is not None and new is not None and old.shape != new.shape:
                    value = torch.empty_like(new)
                    tensors[leaf] = nn.Parameter(value) if kind == "parameter" else value
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        first = str(error).splitlines()[-1].strip()
        raise ModelError(f"{folder}: the saved weights do not fit {structure.builder} ({first}); run again from train") from error
    return Saved(network, structure)


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def multiply_adds(network: nn.Module, sample: Tensor) -> int:
    """The multiply-accumulates of one sample in convolutions and linear layers. `sample`: (1, channels, ...)."""
    total = 0

    def count(module: nn.Module, _: object, output: Tensor) -> None:
        nonlocal total
        weight = module.weight
        assert isinstance(weight, Tensor)
        per_output = weight.numel() // max(1, weight.shape[0])
        total += output.numel() * per_output if not isinstance(module, nn.modules.conv._ConvTransposeNd) else 0

    layers = [m for m in network.modules() if isinstance(m, (nn.Linear, nn.modules.conv._ConvNd))]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    try:
        with torch.no_grad():
            network.eval()(sample)
    finally:
        for hook in hooks:
            hook.remove()
    return total


def dry_run(network: nn.Module, normalization: InputNormalization, splits: PreparedSplits) -> Tensor:
    """Run one sample and check that the outputs suit the task. Returns the normalized sample (1, channels, ...)."""
    from edgeloop_exporters.network_failure import explain_failure

    inputs = [p for p in inspect.signature(network.forward).parameters.values() if p.default is p.empty and p.kind not in VARIADIC]
    if len(inputs) > 1:
        raise ModelError(
            f"{type(network).__name__}: forward() takes {len(inputs)} inputs ({', '.join(p.name for p in inputs)}); a sample is one"
            " tensor: make them channels of one input, and separate them in forward()"
        )
    sample = normalization.normalize(torch.from_numpy(splits.train.values[:1]))
    try:
        with torch.no_grad():
            scores = network.eval()(sample)
    except Exception as error:  # the user's code can raise anything
        raise ModelError(explain_failure(network, sample, error)) from error
    task = task_for(splits)
    if isinstance(task, NamedOutputs) and isinstance(network, Joining):
        with torch.no_grad():
            shapes = {name: tuple(values.shape) for name, values in network.parts(sample).items()}
        if wanted := task.check_outputs(shapes):
            raise ModelError(f"{type(network.network).__name__}: answers one sample with {shapes}; return {wanted}")
        return sample
    got = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
    wanted = task.check_answer(tuple(sample.shape), got if isinstance(got, tuple) else ())
    if wanted:
        raise ModelError(f"{type(network).__name__}: answers one sample with {got}; return {wanted}")
    return sample
