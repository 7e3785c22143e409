"""Int8 around zero for TensorRT: where it is rounded, that files keep the rules and torch's scores, and how ranges are chosen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from edgeloop_agent.runtimes import open_runtime
from edgeloop_contract.manifest import Precision
from edgeloop_exporters import convert, parity, quantization
from edgeloop_exporters.file_tensors import output_specs
from edgeloop_exporters.ranges import clipped
from edgeloop_exporters.tensorrt_rules import violations
from edgeloop_pipeline.bundling.variants import TENSORRT, variant_of
from edgeloop_pipeline.quantization import diagnosis, quantized_graph
from edgeloop_pipeline.quantization.quantized_graph import Options
from hard_networks import NETWORKS, conv
from hard_parts import reference, saved_of, splits_of
from matrix import cases


class Blocks(nn.Module):
    """Residual blocks: one with a layer on its side, and two whose side is the stream. Nobody rounds the last one's sum."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv(3, 8, stride=2, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2))
        self.side = nn.Sequential(nn.Conv2d(8, 16, 1, bias=False), nn.BatchNorm2d(16))
        self.first = nn.Sequential(conv(8, 16), nn.BatchNorm2d(16), nn.ReLU(), conv(16, 16), nn.BatchNorm2d(16))
        self.second = nn.Sequential(conv(16, 16), nn.BatchNorm2d(16), nn.ReLU(), conv(16, 16), nn.BatchNorm2d(16))
        self.third = nn.Sequential(conv(16, 16), nn.BatchNorm2d(16))
        self.scores = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.relu(self.first(x) + self.side(x))
        x = torch.relu(self.second(x) + x)
        return self.scores(torch.relu(self.third(x) + x).mean((2, 3)))  # type: ignore[no-any-return]


MADE = {**NETWORKS, "blocks": Blocks}


@pytest.mark.parametrize("name", cases(MADE, ("blocks", "transposed")))
def test_a_file_keeps_the_rules_and_torchs_scores(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    splits = splits_of(name, "float32" if name in ("no bias", "1-D", "GRU") else "uint8")
    saved = saved_of(MADE[name](), splits)
    graph = quantized_graph.prepare(saved, splits, Options(symmetric=True))
    quantized_graph.calibrate(graph, splits.train.values)
    wanted = reference(graph, splits)
    with torch.no_grad():
        plain = saved.network(saved.normalization.normalize(torch.from_numpy(splits.test.values)))
    assert diagnosis.sqnr(plain, torch.from_numpy(wanted)) > 25
    path = tmp_path / "model.onnx"
    convert.to_onnx(graph.module, graph.normalization, splits.shape, path, quantized=True)
    content = path.read_bytes()
    assert [str(found) for found in violations(content)] == []
    assert integers(content) == {np.dtype(np.int8)}
    variant = variant_of("onnx", Precision.INT8, path.name, splits, None, output_specs(graph.module, "onnx", True), TENSORRT)
    assert (variant.name, variant.input.dtype) == ("onnx-int8-symmetric", splits.dtype)
    scores = open_runtime(variant, content).run(splits.test.values)
    (pair,) = parity.agreement({"torch": wanted, "file": scores}, np.array(quantization.output_steps(graph.module)))
    assert pair.max_lsb <= 2


def integers(content: bytes) -> set[np.dtype]:  # type: ignore[type-arg]
    """Types of all zero points."""
    graph = onnx.load_from_string(content).graph
    constants = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    return {constants[n.input[2]].dtype for n in graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")}


def test_sums_are_rounded_on_their_residual_side_alone() -> None:
    torch.manual_seed(0)
    splits = splits_of("blocks")
    graph = quantized_graph.prepare(saved_of(Blocks(), splits), splits, Options(symmetric=True))
    by_layer = {(p.layer, p.name): p for p in graph.plan.points}
    sides = [name for (_, name), p in by_layer.items() if any(r.startswith("add") for r in p.readers or ())]
    layers = {name: layer for layer, name in by_layer}
    assert [layers[name] for name in sides] == ["first.3", ""]  # of two layers the earlier one; then the stream itself
    assert not any(p.rounding for p in graph.plan.points if p.layer == "scores")
    assert all(w.axis == 0 for w in graph.plan.weights)


@pytest.mark.parametrize("method", ["minmax", "percentile", "mse", "entropy"])
def test_ranges_reach_as_far_down_as_up(method: str) -> None:
    rng = np.random.default_rng(0)
    values = torch.from_numpy(np.concatenate([rng.normal(0, 1, 20_000).clip(0), [30.0]]).astype(np.float32))
    low, high = clipped(values, method, 99.9, symmetric=True)  # type: ignore[arg-type]
    assert low == -high
    assert high == 30 if method == "minmax" else 2 < high <= 30 if method == "entropy" else 2 < high < 30
    assert clipped(-values, method, 99.9, symmetric=True) == (low, high)  # type: ignore[arg-type]
    assert clipped(torch.zeros(8), method, 99.9, symmetric=True) == (0, 0)  # type: ignore[arg-type]
