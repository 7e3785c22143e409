"""Columns as channels: the same integers, by ONNX Runtime's fast kernel, and files that other engines still compute in integers."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeloop_exporters.onnx_columns import columns_as_channels


@dataclass(frozen=True)
class Stem:
    """The first layer of a network. `behind`: its activation; `first`: channels come first; `pads`: before both axes, then behind."""

    size: tuple[int, int] = (32, 48)
    channels: int = 3
    outputs: int = 16
    kernel: tuple[int, int] = (3, 3)
    stride: int = 2
    pads: tuple[int, int, int, int] = (1, 1, 1, 1)
    behind: str = "Relu"
    first: bool = False
    bias: str = "float"
    group: int = 1
    dilation: int = 1
    read_twice: bool = False
    dtype: str = "uint8"


def network(stem: Stem) -> onnx.ModelProto:
    """Two convolutions in QDQ, as torch's exporter writes them."""
    rng = np.random.default_rng(0)
    constants: list[Any] = []

    def put(name: str, value: Any) -> str:
        constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    rows, columns = (
        (stem.size[i] + stem.pads[i] + stem.pads[i + 2] - stem.dilation * (stem.kernel[i] - 1) - 1) // stem.stride + 1
        for i in (0, 1)
    )
    entry = ["x"] if stem.first else ["turned"]
    nodes = [
        helper.make_node(
            "DequantizeLinear",
            ["input", put("s", np.float32(0.02)), put("z", np.array(0 if stem.dtype == "int8" else 3, stem.dtype))],
            ["x"],
        )
    ]
    if not stem.first:
        nodes.append(helper.make_node("Transpose", ["x"], ["turned"], perm=[0, 3, 1, 2]))
    inputs = stem.channels // stem.group
    put("w", rng.integers(-127, 127, (stem.outputs, inputs, *stem.kernel)).astype(np.int8))
    scales = rng.uniform(0.001, 0.01, stem.outputs).astype(np.float32)
    nodes.append(
        helper.make_node("DequantizeLinear", ["w", put("ws", scales), put("wz", np.zeros(stem.outputs, np.int8))], ["wf"], axis=0)
    )
    entry.append("wf")
    if stem.bias == "float":
        entry.append(put("b", rng.normal(size=stem.outputs).astype(np.float32)))
    elif stem.bias == "int32":
        put("bi", rng.integers(-1000, 1000, stem.outputs).astype(np.int32))
        parts = ["bi", put("bs", scales * np.float32(0.02)), put("bz", np.zeros(stem.outputs, np.int32))]
        nodes.append(helper.make_node("DequantizeLinear", parts, ["bf"], axis=0))
        entry.append("bf")
    form = {
        "pads": stem.pads,
        "strides": [stem.stride] * 2,
        "kernel_shape": stem.kernel,
        "group": stem.group,
        "dilations": [stem.dilation] * 2,
    }
    nodes.append(helper.make_node("Conv", entry, ["y"], "stem", **form))
    last = "y"
    if stem.behind == "Clip":
        nodes.append(helper.make_node("Clip", ["y", put("low", np.float32(0)), put("high", np.float32(6))], ["a"]))
        last = "a"
    elif stem.behind:
        nodes.append(helper.make_node(stem.behind, ["y"], ["a"]))
        last = "a"
    nodes.append(helper.make_node("QuantizeLinear", [last, put("s2", np.float32(6 / 255)), put("z2", np.uint8(0))], ["q"]))
    nodes.append(helper.make_node("DequantizeLinear", ["q", "s2", "z2"], ["d"]))
    put("w2", rng.integers(-127, 127, (16, stem.outputs, 3, 3)).astype(np.int8))
    nodes.append(
        helper.make_node(
            "DequantizeLinear",
            ["w2", put("w2s", np.full(16, 0.003, np.float32)), put("w2z", np.zeros(16, np.int8))],
            ["w2f"],
            axis=0,
        )
    )
    nodes.append(helper.make_node("Conv", ["d", "w2f", put("b2", rng.normal(size=16).astype(np.float32))], ["y2"], pads=[1] * 4))
    nodes.append(helper.make_node("QuantizeLinear", ["y2", put("s3", np.float32(0.5)), put("z3", np.uint8(128))], ["q2"]))
    nodes.append(helper.make_node("DequantizeLinear", ["q2", "s3", "z3"], ["out"]))
    taken = helper.np_dtype_to_tensor_dtype(np.dtype(stem.dtype))
    shape = [stem.channels, *stem.size] if stem.first else [*stem.size, stem.channels]
    ends = [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["batch", 16, rows, columns])]
    if stem.read_twice:
        ends.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", stem.outputs, rows, columns]))
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("input", taken, ["batch", *shape])], ends, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return onnx.shape_inference.infer_shapes(model)


def changed(model: onnx.ModelProto) -> tuple[onnx.ModelProto, bool]:
    new = copy.deepcopy(model)
    columns_as_channels(new)
    onnx.checker.check_model(new, full_check=True)
    return new, new.graph.node != model.graph.node


def session(model: onnx.ModelProto, written: str = "") -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.optimized_model_filepath = 4, written
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


WON = {
    "a camera's picture": Stem(),
    "padding as TensorFlow's": Stem(pads=(0, 0, 1, 1)),
    "gray": Stem(channels=1),
    "gray, stride 1": Stem(channels=1, stride=1),
    "two channels": Stem(channels=2, stride=1),
    "six channels": Stem(channels=6, stride=1),
    "ten channels, first": Stem(channels=10, stride=1, first=True),
    "seven by seven": Stem(kernel=(7, 7), pads=(3, 3, 3, 3), outputs=64),
    "five by five, stride 1": Stem(kernel=(5, 5), pads=(2, 2, 2, 2), stride=1),
    "patches of four": Stem(kernel=(4, 4), stride=4, pads=(0, 0, 0, 0)),
    "a series in time, as one column": Stem(size=(100, 1), channels=6, kernel=(9, 1), pads=(4, 0, 4, 0), outputs=32, stride=2),
    "a bias in integers": Stem(bias="int32"),
    "no bias": Stem(bias=""),
    "one output": Stem(outputs=1),
    "one output, a bias in integers": Stem(outputs=1, bias="int32"),
    "relu6": Stem(behind="Clip"),
    "no activation": Stem(behind=""),
}
LEFT = {
    "four channels": Stem(channels=4),
    "groups of channels": Stem(channels=6, outputs=12, group=2),
    "columns that do not go up": Stem(size=(32, 46)),
    "windows that end before": Stem(pads=(0, 0, 0, 0)),
    "stride 3: eight times the products": Stem(size=(36, 36), stride=3),
    "dilated": Stem(dilation=2, pads=(2, 2, 2, 2)),
    "long rows, copied fast": Stem(size=(96, 96), kernel=(16, 16), stride=16, pads=(0, 0, 0, 0)),
    "few places": Stem(size=(8, 8)),
    "another activation in float": Stem(behind="Sigmoid"),
    "its floats are an output": Stem(read_twice=True),
    "signed, for TensorRT": Stem(dtype="int8"),
    "points": Stem(kernel=(1, 1), stride=1, pads=(0, 0, 0, 0)),
}


@pytest.mark.parametrize("name", WON)
def test_the_same_integers_by_the_fast_kernel(name: str, tmp_path: Any) -> None:
    model = network(WON[name])
    new, is_changed = changed(model)
    assert is_changed
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim][1:]
    samples = np.random.default_rng(1).integers(0, 256, (3, *shape), dtype=np.uint8)
    before, after = session(model), session(new, str(tmp_path / "ready.onnx"))
    assert (before.run(None, {"input": samples})[0] == after.run(None, {"input": samples})[0]).all()
    ready = onnx.load(tmp_path / "ready.onnx").graph
    layers = [node for node in ready.node if node.op_type == "QLinearConv"]
    weights = {i.name: i for i in ready.initializer}
    assert len(layers) == 2 and weights[layers[0].input[3]].dims[1] % 4 == 0
    # What was put in is moved by nobody: ONNX Runtime works with channels last.
    turns = 2 if WON[name].first else 1  # to channels last where they come first; and the answer's
    assert sum(node.op_type == "Transpose" for node in ready.node) <= turns


@pytest.mark.parametrize("name", LEFT)
def test_what_is_left_as_it_is(name: str) -> None:
    assert not changed(network(LEFT[name]))[1]


def test_openvino_still_computes_integers() -> None:
    openvino = pytest.importorskip("openvino", reason="OpenVINO is an extra of the device")
    model, is_changed = changed(network(Stem(size=(64, 64), first=False)))
    assert is_changed
    read = openvino.Core().read_model(model.SerializeToString(), b"")
    read.reshape({"input": [1, 64, 64, 3]})
    compiled = openvino.Core().compile_model(read, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "PERF_COUNT": True})
    request = compiled.create_infer_request()
    request.infer({"input": np.zeros((1, 64, 64, 3), np.uint8)})
    kinds = [row.exec_type for row in request.profiling_info if row.node_type == "Convolution"]
    assert len(kinds) == 2 and all(kind.endswith("I8") for kind in kinds)
