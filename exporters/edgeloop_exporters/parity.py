"""Compares torch with the runtimes in steps of the integer grid (LSB): the scores, and each layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from edgeloop_agent.hardware import cores
from edgeloop_agent.runtimes.onnx import session_of
from edgeloop_contract.arrays import Array
from edgeloop_contract.manifest import INPUT
from edgeloop_exporters.figures import Agreement, LayerDifference
from edgeloop_exporters.inputs import inputs_of
from edgeloop_exporters.named_inputs import feeds_of
from edgeloop_exporters.normalization import InputNormalization
from edgeloop_exporters.quantizers import ActivationQuantizer

__all__ = ["LayerDifference", "Recorder", "agreement", "first_difference", "layers"]

TRANSPOSES = {2: (0, 1), 3: (0, 2, 1), 4: (0, 3, 1, 2), 5: (0, 4, 1, 2, 3)}  # channels last → channels first


def agreement(scores: Mapping[str, Array], steps: Array, classes: bool = True) -> list[Agreement]:
    """Every pair of score arrays (N, ...), compared in units of `steps`, (total,) each score's scale."""
    names = list(scores)
    grid = {
        name: np.rint(scores[name].reshape(len(scores[name]), -1).astype(np.float64) / steps).astype(np.int64) for name in names
    }
    rows = []
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            difference = np.abs(grid[a] - grid[b])
            same = float((grid[a].argmax(1) == grid[b].argmax(1)).mean()) if classes else None
            rows.append(Agreement(a, b, int(difference.max()), float((difference == 0).mean()), same, len(grid[a])))
    return rows


class Recorder(fx.Interpreter):
    """Runs the graph and keeps, by quantizer node in order, the integers there with their scale and zero point."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.points: dict[fx.Node, tuple[Array, float, int]] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n.op == "call_module":
            quantizer = self.module.get_submodule(str(n.target))
            if isinstance(quantizer, ActivationQuantizer) and quantizer.rounding:
                scale, zero_point = quantizer.qparams()
                assert isinstance(result, Tensor)
                integers = (result / scale).round() + zero_point
                self.points[n] = (integers.detach().numpy().astype(np.int16), scale.item(), int(zero_point))
        return result


def layers(
    module: fx.GraphModule,
    layer_of: Mapping[str, str],
    normalization: InputNormalization,
    samples: Array,
    runtime: str,
    model: bytes,
) -> list[LayerDifference]:
    """Compare every point that the runtime lets us see. A tensor is recognised by its scale and zero point, the same in both.

    `samples`: raw (N, *sample). `layer_of`: point → name of the user's module. TFLite shows its inner tensors only
    without XNNPACK, so its own kernels are what is compared there.
    """
    recorder = Recorder(module)
    with torch.no_grad():
        recorder.run(normalization.normalize(torch.from_numpy(samples)))
    inputs = inputs_of(module)
    feeds = feeds_of(samples, inputs) if inputs else {INPUT: samples}
    seen = _onnx_tensors(model, feeds) if runtime == "onnx" else _tflite_tensors(model, feeds)
    rows = []
    for node, (expected, scale, zero_point) in recorder.points.items():
        name = node.all_input_nodes[0].name
        actual = _match(seen, np.float32(scale), zero_point, expected.shape)
        if actual is not None:
            difference = np.abs(actual - expected)
            rows.append(LayerDifference(name, layer_of.get(name, ""), runtime, int(difference.max()), float(difference.mean())))
    return rows


def _match(seen: list[tuple[np.float32, int, Array]], scale: np.float32, zero_point: int, shape: tuple[int, ...]) -> Array | None:
    """The first tensor with these quantization parameters and this shape (in either layout); each serves once."""
    for i, (s, z, values) in enumerate(seen):
        if not (np.isclose(s, scale, rtol=1e-6) and z == zero_point):
            continue
        for candidate in (values, values.transpose(TRANSPOSES[values.ndim]) if values.ndim in TRANSPOSES else values):
            if candidate.shape == shape:
                del seen[i]
                return candidate
    return None


def _onnx_tensors(model: bytes, feeds: Mapping[str, Array]) -> list[tuple[np.float32, int, Array]]:
    """(scale, uint8 zero point, integers) behind every QuantizeLinear, from the optimised session."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load_from_string(model)
    constants = {i.name: numpy_helper.to_array(i) for i in graph.graph.initializer}
    nodes = [n for n in graph.graph.node if n.op_type == "QuantizeLinear" and n.input[1] in constants]
    wanted = [n.output[0] for n in nodes]
    graph.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in wanted)
    inferred = onnx.shape_inference.infer_shapes(graph)
    session = session_of(inferred.SerializeToString(), cores())
    values = session.run(wanted, dict(feeds)) if wanted else []  # no names mean all outputs
    moved = [128 if v.dtype == np.int8 else 0 for v in values]  # int8 in uint8 form, as torch has it
    return [
        (np.float32(constants[n.input[1]]), int(constants[n.input[2]]) + by, v.astype(np.int16) + by)
        for n, v, by in zip(nodes, values, moved, strict=True)
    ]


def _tflite_tensors(model: bytes, feeds: Mapping[str, Array]) -> list[tuple[np.float32, int, Array]]:
    """The same from TFLite's own kernels, int8 moved to uint8."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(
        model_content=model, experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )  # fmt: skip
    interpreter.allocate_tensors()
    entries = interpreter.get_input_details()
    given = {entry["index"]: feeds[entry["name"]] if len(entries) > 1 else next(iter(feeds.values())) for entry in entries}
    for entry in entries:
        x = given[entry["index"]]
        counts = entry["dtype"] == np.int8 and x.dtype == np.uint8
        given[entry["index"]] = (x ^ 0x80).view(np.int8) if counts else x.astype(entry["dtype"], copy=False)
    outputs = [int(o) for operation in interpreter._get_ops_details() for o in operation["outputs"]]
    details = {t["index"]: t for t in interpreter.get_tensor_details()}
    order = [i for i in (*given, *outputs) if details[i]["dtype"] == np.int8 and details[i]["quantization"][0]]
    rows: dict[int, list[Array]] = {i: [] for i in order}
    for row in range(len(next(iter(given.values())))):
        for index, x in given.items():
            interpreter.set_tensor(index, x[row : row + 1])
        interpreter.invoke()
        for i in order:
            rows[i].append(interpreter.get_tensor(i))
    return [
        (
            np.float32(details[i]["quantization"][0]),
            details[i]["quantization"][1] + 128,
            np.concatenate(rows[i]).astype(np.int16) + 128,
        )
        for i in order
    ]


def first_difference(rows: list[LayerDifference], above_lsb: int) -> LayerDifference | None:
    """The first layer, in the order of the graph, that is further apart than allowed."""
    return next((row for row in rows if row.max_lsb > above_lsb), None)
