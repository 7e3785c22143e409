"""Hard networks as saved, quantized and shipped ones."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from edgeloop_agent.runtimes import open_runtime
from edgeloop_contract.manifest import Precision
from edgeloop_exporters import convert, kernels, parity, quantization
from edgeloop_exporters.figures import KernelCounts
from edgeloop_exporters.file_tensors import output_specs
from edgeloop_pipeline.bundling.variants import variant_of
from edgeloop_pipeline.data.normalization import input_normalization
from edgeloop_pipeline.data.types import PreparedSplits, Samples
from edgeloop_pipeline.networks import saved_network
from edgeloop_pipeline.quantization import quantized_graph
from hard_networks import SERIES, Residual


def splits_of(name: str, dtype: str = "uint8") -> PreparedSplits:
    rng = np.random.default_rng(0)
    shape = (32, 3) if name in SERIES else (32, 32, 3)

    def some(count: int) -> Samples:
        values = rng.integers(0, 255, (count, *shape)) if dtype == "uint8" else rng.normal(0, 1, (count, *shape))
        if dtype == "float32":
            values[..., 1] = 0.5  # a constant feature
        return Samples(values.astype(dtype), rng.integers(0, 5, count), np.arange(count), np.arange(count))

    return PreparedSplits(tuple("abcde"), some(128), some(64), some(48))


def saved_of(network: nn.Module, splits: PreparedSplits) -> saved_network.Saved:
    """With running statistics of the data in its BatchNorms, and scores that differ between samples."""
    normalization = input_normalization(splits)
    x = normalization.normalize(torch.from_numpy(splits.train.values))
    network.train()
    with torch.no_grad():
        for _ in range(10):
            network(x)
    return saved_network.Saved(network.eval(), saved_network.Structure("-", {}, {}, normalization))


def shipped(graph: quantized_graph.Graph, splits: PreparedSplits, folder: Path) -> dict[str, tuple[np.ndarray, KernelCounts]]:
    """Scores and kernels of each runtime's int8 file."""
    found = {}
    counts = graph.normalization.input_qparams if convert.takes_counts(graph.module, graph.normalization) else None
    for runtime, write in (("onnx", convert.to_onnx), ("tflite", convert.to_tflite)):
        path = folder / f"model.{runtime}"
        write(graph.module, graph.normalization, splits.shape, path, quantized=True)
        variant = variant_of(runtime, Precision.INT8, path.name, splits, counts, output_specs(graph.module, runtime, True))
        model = path.read_bytes()
        loaded = open_runtime(variant, model)
        scores = np.concatenate([loaded.run(splits.test.values[i : i + 1]) for i in range(len(splits.test))])
        found[runtime] = (scores, kernels.count(variant, model))
    return found


def reference(graph: quantized_graph.Graph, splits: PreparedSplits) -> np.ndarray:
    with torch.no_grad():
        scores: np.ndarray = graph.module(graph.normalization.normalize(torch.from_numpy(splits.test.values))).numpy()
    return scores


def furthest(graph: quantized_graph.Graph, scores: np.ndarray, found: dict[str, tuple[np.ndarray, KernelCounts]]) -> int:
    """LSB between any two of torch and the runtimes."""
    everyone = {"torch": scores, **{name: s for name, (s, _) in found.items()}}
    return max(pair.max_lsb for pair in parity.agreement(everyone, np.array(quantization.output_steps(graph.module))))


def shared_zero_points(path: Path) -> list[str]:
    """Zero points that several weights have in common: such a file cannot be opened exactly on every CPU."""
    graph = onnx.load(str(path)).graph
    constants = {i.name for i in graph.initializer}
    weights = [n for n in graph.node if n.op_type == "DequantizeLinear" and n.input[0] in constants]
    counted = Counter(node.input[2] for node in weights if len(node.input) > 2)
    return [name for name, count in counted.items() if count > 1]


def spoiled(network: Residual) -> Residual:
    """The same function, with channels scaled apart: what equalization is for (Nagel et al. 2019)."""
    factors = torch.logspace(-1.7, 1.7, 16)
    first, norm = network.second[0], network.first[1]
    with torch.no_grad():
        norm.weight.mul_(factors)  # type: ignore[union-attr,operator]
        norm.bias.mul_(factors)  # type: ignore[union-attr,operator]
        first.weight.div_(factors.reshape(1, -1, 1, 1))  # type: ignore[union-attr,operator]
    return network
