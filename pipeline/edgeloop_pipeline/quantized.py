"""The quantized graph of a network: made, calibrated, saved and loaded, always by the same plan."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch
from safetensors.torch import load_file, save_file
from torch import fx

from edgeloop_contract.errors import ModelError
from edgeloop_exporters import quantization
from edgeloop_exporters.convert import Front
from edgeloop_exporters.graph import fold_batchnorm, simplify, trace
from edgeloop_pipeline.data import Array, PreparedSplits
from edgeloop_pipeline.networks import Saved
from edgeloop_pipeline.training.scoring import channels_last

STATE = "quantized.safetensors"
PLAN = "quantized.json"


@dataclass(frozen=True)
class Graph:
    """A folded graph with quantizers in it."""

    module: fx.GraphModule
    plan: quantization.Plan
    front: Front
    folded: int


def folded(saved: Saved, splits: PreparedSplits) -> tuple[fx.GraphModule, int]:
    """The network's float graph with BatchNorm folded, and how many were."""
    sample = saved.front.normalise(torch.from_numpy(splits.train.values[:2]))
    module = trace(saved.network, sample)
    simplify(module)
    return module, fold_batchnorm(module)


def prepare(saved: Saved, splits: PreparedSplits, percentile: float = 100.0) -> Graph:
    """Trace, fold, plan and insert the quantizers, all switched off."""
    module, count = folded(saved, splits)
    plan = quantization.plan(module, saved.front.input_qparams)
    quantization.insert(module, plan, percentile)
    return Graph(module, plan, saved.front, count)


def calibrate(graph: Graph, front: Front, values: Array) -> None:
    """Observe the ranges on these raw samples and switch to integers."""
    quantization.set_mode(graph.module, "observe", "off")
    with torch.no_grad():
        for rows in torch.from_numpy(values).split(128):
            graph.module(channels_last(front.normalise(rows)))
    quantization.settle(graph.module)
    quantization.set_mode(graph.module, "quantize", "quantize")


def save(folder: Path, graph: Graph) -> None:
    state = {name: tensor.detach().contiguous().clone() for name, tensor in graph.module.state_dict().items()}
    save_file(state, str(folder / STATE))
    described = {"points": graph.plan.points, "weights": graph.plan.weights}
    (folder / PLAN).write_bytes(msgspec.json.encode(described, order="sorted"))


def load(saved: Saved, splits: PreparedSplits, folder: Path) -> Graph:
    """The graph that `save` kept, rebuilt from the float network it was made of."""
    graph = prepare(saved, splits)
    try:
        graph.module.load_state_dict(_reshaped(graph.module, load_file(str(folder / STATE))))
    except (RuntimeError, KeyError) as error:
        raise ModelError(f"{folder}: does not fit the network any more ({error}); run again from quantize") from error
    quantization.set_mode(graph.module, "quantize", "quantize")
    graph.module.eval()
    return graph


def _reshaped(module: fx.GraphModule, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weight quantizers keep a floor per channel once bounded; give the fresh ones that shape before loading."""
    for name, tensor in state.items():
        if name.endswith(".floor"):
            module.get_submodule(name.removesuffix(".floor")).floor = tensor.clone()
    return state
