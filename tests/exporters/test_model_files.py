"""Model files that somebody else made: what is read from them, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto

from edgeloop_contract.errors import ModelError
from edgeloop_contract.manifest import Precision, Quantization
from edgeloop_exporters.model_files.reading import read
from model_parts import (
    DENSE,
    LSTM_WEIGHTS,
    QUANTIZED,
    C,
    D,
    W,
    inside_if,
    lstm,
    node,
    onnx_file,
    saved,
    scored,
    tflite_file,
    value,
    with_state,
)

# ---------------------------------------------------------------- tensors

ACTIVATIONS = {
    "softmax": (scored(DENSE, node("Softmax", "s", "y", axis=-1)), "softmax", "probabilities"),
    "sigmoid, moved": (scored(DENSE, node("Sigmoid", "s", "p"), node("Identity", "p", "y")), "sigmoid", "probabilities"),
    "sums": (scored(DENSE, node("Add", "s b", "y"), weights={"b": np.zeros(5, np.float32)}), "linear", "logits"),
    "a rectifier": (scored(DENSE, node("Relu", "s", "y")), None, None),
    "two of one kind joined": (
        scored(node("Softmax", "x", "p"), node("Softmax", "x", "q"), node("Concat", "p q", "y", axis=1)), "softmax", "probabilities",
    ),
    "two of different kinds joined": (
        scored(node("Softmax", "x", "p"), node("Sigmoid", "x", "q"), node("Concat", "p q", "y", axis=1)), None, None,
    ),
    "softmax, quantized": (
        scored(
            DENSE, node("Softmax", "s", "p"), node("QuantizeLinear", "p sc z", "q"), node("DequantizeLinear", "q sc z", "y"),
            weights={"sc": np.float32(1 / 256), "z": np.uint8(0)},
        ), "softmax", "probabilities",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", ACTIVATIONS)
def test_scores_are_called_what_the_graph_proves(what: str, tmp_path: Path) -> None:
    model, activation, scores = ACTIVATIONS[what]
    (output,) = read(saved(model, tmp_path)).outputs
    assert (output.activation, output.scores) == (activation, scores)


def conv(
    *before: onnx.NodeProto, reads: str = "x", shape: tuple[Any, ...] = ("n", 3, 8, 8), **weights: np.ndarray
) -> onnx.ModelProto:
    return onnx_file([*before, node("Conv", f"{reads} w", "y")], [value("x", shape)], [value("y", None)], {"w": W, **weights})


LAYOUTS = {
    "as ONNX has it": (conv(), "NCHW"),
    "channels last": (conv(node("Transpose", "x", "t", perm=[0, 3, 1, 2]), reads="t", shape=("n", 8, 8, 3)), "NHWC"),
    "columns before rows": (conv(node("Transpose", "x", "t", perm=[0, 1, 3, 2]), reads="t"), "NCWH"),
    "rounded at each call": (
        onnx_file(
            [node("DynamicQuantizeLinear", "x", "q s z"), node("ConvInteger", "q k z", "y")],
            [value("x", ("n", 3, 8, 8))],
            [value("y", None)],
            {"k": W.astype(np.int8)},
        ),
        "NCHW",
    ),
    "normalized before": (conv(node("Sub", "m x", "t"), reads="t", m=np.float32(1)), "NCHW"),
    "reshaped: no proof": (conv(node("Reshape", "x s", "t"), reads="t", s=np.array([1, 3, 8, 8])), None),
    "no convolution": (scored(node("MatMul", "x w", "y")), None),
}


@pytest.mark.parametrize("what", LAYOUTS)
def test_the_layout_is_what_a_convolution_proves(what: str, tmp_path: Path) -> None:
    model, layout = LAYOUTS[what]
    assert read(saved(model, tmp_path)).inputs[0].layout == layout


def dequantized(kind: Any, activation: bool) -> onnx.ModelProto:
    """A layer whose weights are stored in another type; its data are rounded too, or not."""
    rounded = [node("QuantizeLinear", "x xs xz", "q"), node("DequantizeLinear", "q xs xz", "r")] if activation else []
    weights = {"w": np.ones((4, 5), kind), "ws": np.float32(0.1), "wz": kind(0), "xs": np.float32(0.1), "xz": np.uint8(0)}
    return scored(
        *rounded, node("DequantizeLinear", "w ws wz", "f"), node("MatMul", f"{'r' if activation else 'x'} f", "y"), weights=weights
    )


DYNAMIC = scored(
    node("DynamicQuantizeLinear", "x", "q qs qz"), node("MatMulInteger", "q w qz", "i"), node("Cast", "i", "y", to=1),
    weights={"w": np.ones((4, 5), np.int8)},
)  # fmt: skip
QLINEAR = scored(
    node("QuantizeLinear", "x s z", "q"), node("QLinearMatMul", "q s z w s z s z", "o"), node("DequantizeLinear", "o s z", "y"),
    weights={"w": np.ones((4, 5), np.uint8), "s": np.float32(0.1), "z": np.uint8(0)},
)  # fmt: skip
HALF = onnx_file(
    [node("MatMul", "x w", "y")], [value("x", [1, 4], TensorProto.FLOAT16)], [value("y", [1, 5], TensorProto.FLOAT16)],
    {"w": D.astype(np.float16)},
)  # fmt: skip
STORED_HALF = scored(node("Cast", "w", "f", to=1), node("MatMul", "x f", "y"), weights={"w": D.astype(np.float16)})
PRECISIONS = {
    "float32": (scored(node("MatMul", "x w", "y")), Precision.FLOAT32),
    "float16": (HALF, Precision.FLOAT16),
    "float16, made float32": (STORED_HALF, Precision.FLOAT16),
    "int8 in pairs": (dequantized(np.int8, True), Precision.INT8),
    "int8 operators": (QLINEAR, Precision.INT8),
    "int8 weights alone": (dequantized(np.int8, False), Precision.INT8_WEIGHTS),
    "int8 with scales of each call": (DYNAMIC, Precision.INT8_WEIGHTS),
}


@pytest.mark.parametrize("what", PRECISIONS)
def test_precision_is_found_from_the_tensors(what: str, tmp_path: Path) -> None:
    model, precision = PRECISIONS[what]
    onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])  # the example is a sound model
    assert read(saved(model, tmp_path, "int8-float16.onnx")).precision == precision


def test_every_type_and_shape_is_told(tmp_path: Path) -> None:
    kinds = ("float16", "uint8", "int8", "int16", "int32", "int64", "bool", "float64", "string")
    types = [TensorProto.DataType.Value({"float64": "DOUBLE"}.get(kind, kind.upper())) for kind in kinds]
    inputs = [value(kind, ["n", 2, -1][: 1 + i % 3], number) for i, (kind, number) in enumerate(zip(kinds, types, strict=True))]
    nodes = [node("Identity", kind, f"{kind}_seen") for kind in kinds]
    outputs = [value(f"{kind}_seen", None, number) for kind, number in zip(kinds, types, strict=True)]
    found = read(saved(onnx_file(nodes, inputs, outputs), tmp_path))
    assert [t.dtype for t in found.inputs] == [*kinds] == [t.dtype for t in found.outputs]
    assert [t.shape for t in found.inputs[:3]] == [(None,), (None, 2), (None, 2, None)]
    assert found.outputs[1].shape == (None, 2)  # the file leaves it out: inferred


def test_integer_inputs_and_outputs_tell_their_scales(tmp_path: Path) -> None:
    nodes = [node("DequantizeLinear", "x s z", "f"), node("MatMul", "f w", "m"), node("QuantizeLinear", "m s z", "y")]
    model = onnx_file(
        nodes, [value("x", [1, 4], TensorProto.INT8)], [value("y", [1, 5], TensorProto.INT8)],
        {"w": D, "s": np.float32(0.25), "z": np.int8(-3)},
    )  # fmt: skip
    found = read(saved(model, tmp_path))
    assert found.inputs[0].quantization == found.outputs[0].quantization == Quantization(scale=0.25, zero_point=-3)


def test_initializers_that_are_also_inputs_are_no_inputs(tmp_path: Path) -> None:
    model = onnx_file(
        [node("MatMul", "x w", "y")], [value("x", [1, 4]), value("w", [4, 5])], [value("y", [1, 5])], {"w": D}, opset=8
    )
    model.ir_version = 3
    assert [t.name for t in read(saved(model, tmp_path)).inputs] == ["x"]


# ---------------------------------------------------------------- state


def stacked() -> onnx.ModelProto:
    """One tensor with both states, as silero has it."""
    nodes = [
        node("Split", "state", "h0 c0", axis=0, num_outputs=2), *lstm(), node("Concat", "h1 c1", "stateN", axis=0)]  # fmt: skip
    return with_state(nodes, {"state": "stateN"}, LSTM_WEIGHTS, [2, 1, 6])


def shifted() -> onnx.ModelProto:
    nodes = [
        node("Concat", "past x", "both", axis=1), node("Slice", "both one end axis", "later"), node("Relu", "both", "all")]  # fmt: skip
    edges = {"one": np.array([1]), "end": np.array([99]), "axis": np.array([1])}
    return with_state(nodes, {"past": "later"}, edges, [1, 5, 4])


STATES: dict[str, tuple[onnx.ModelProto, set[tuple[str, str]], set[tuple[str, str]]]] = {
    "a recurrent layer": (with_state(lstm(), {"h0": "h1", "c0": "c1"}, LSTM_WEIGHTS), {("h0", "h1"), ("c0", "c1")}, set()),
    "in branches": (inside_if(), {("h0", "h1"), ("c0", "c1")}, set()),
    "both in one": (stacked(), {("state", "stateN")}, set()),
    "values that move on": (shifted(), {("past", "later")}, set()),
    "by name": (
        with_state([node("Relu", "cache_in", "cache_out"), node("Relu", "x", "all")], {"cache_in": "cache_out"}, {}),
        set(), {("cache_in", "cache_out")},
    ),
    "hn": (with_state([node("Relu", "h", "hn"), node("Relu", "x", "all")], {"h": "hn"}, {}), set(), {("h", "hn")}),
    "an image like its input is none": (
        onnx_file([node("Relu", "input", "output")], [value("input", [1, 4])], [value("output", [1, 4])]), set(), set(),
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", STATES)
def test_states_are_proven_or_called_guesses(what: str, tmp_path: Path) -> None:
    model, proven, guessed = STATES[what]
    onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = read(saved(model, tmp_path))
    assert {(pair.input, pair.output) for pair in found.states} == proven
    assert {(pair.input, pair.output) for pair in found.guessed_states} == guessed


# ---------------------------------------------------------------- TFLite


def test_a_tflite_file_is_read(tmp_path: Path) -> None:
    operators = [("CONV_2D", "x w b", "c"), ("SOFTMAX", "c", "p"), ("DEQUANTIZE", "p", "y")]
    found = read(saved(tflite_file(QUANTIZED, operators, "x", "y"), tmp_path, "float32.tflite"))
    assert (found.runtime, found.precision) == ("tflite", Precision.INT8)
    (entry,), (output,) = found.inputs, found.outputs
    assert (entry.name, entry.dtype, entry.shape, entry.layout) == ("x", "int8", (None, 8, 8, 3), "NHWC")
    assert entry.quantization == Quantization(scale=0.5, zero_point=-1)
    assert (output.activation, output.scores, output.quantization) == ("softmax", "probabilities", None)


def test_precisions_and_layouts_of_tflite(tmp_path: Path) -> None:
    def one(x: Any, w: np.ndarray, *operators: tuple[str, str, str], **more: Any) -> Any:
        tensors = {"x": x, "w": w, "y": ((1, 6, 6, 4), "float32"), **more}
        return read(saved(tflite_file(tensors, operators, "x", "y"), tmp_path, "m.tflite"))

    picture, conv = ((1, 8, 8, 3), "float32"), ("CONV_2D", "x w -", "y")
    assert one(picture, C.astype(np.float32), conv).precision == Precision.FLOAT32
    assert one(picture, C, conv).precision == Precision.INT8_WEIGHTS
    half = one(picture, C.astype(np.float16), ("DEQUANTIZE", "w", "f"), ("CONV_2D", "x f -", "y"), f=(C.shape, "float32"))
    assert half.precision == Precision.FLOAT16
    moved = {"t": ((1, 8, 8, 3), "float32"), "perm": np.array([0, 2, 3, 1], np.int32)}
    first = one(((1, 3, 8, 8), "float32"), C, ("TRANSPOSE", "x perm", "t"), ("CONV_2D", "t w -", "y"), **moved)
    assert first.inputs[0].layout == "NCHW" and first.outputs[0].scores == "logits"


def test_custom_operators_that_the_runtime_lacks_are_named(tmp_path: Path) -> None:
    tensors = {"x": ((1, 4), "float32"), "y": ((1, 4), "float32")}
    for custom, words in (("FlexErf", "Flex delegate"), ("ethos-u\x1b[31m", r"ethos-u\[31m")):
        content = tflite_file(tensors, [("CUSTOM", "x", "y")], "x", "y", custom)
        with pytest.raises(ModelError, match=words):
            read(saved(content, tmp_path, "m.tflite"))
    inner = {**tensors, "long" * 200: ((1, 4), "float32")}  # converters join the names of what they fused
    assert read(saved(tflite_file(inner, [("SOFTMAX", "x", "y")], "x", "y"), tmp_path, "m.tflite")).inputs[0].name == "x"
    known = tflite_file(tensors, [("CUSTOM", "x", "y")], "x", "y", "TFLite_Detection_PostProcess")
    assert read(saved(known, tmp_path, "m.tflite")).operators == ("TFLite_Detection_PostProcess",)
    unsized = tflite_file({**tensors, "y": ((), "float32")}, [("CUSTOM", "x", "y")], "x", "y", "TFLite_Detection_PostProcess")
    assert read(saved(unsized, tmp_path, "m.tflite")).outputs[0].shape is None  # the runtime alone knows it
    foreign = scored(node("Thing", "x", "y", domain="com.acme"))
    with pytest.raises(ModelError, match=r"custom operator com\.acme\.Thing, which ONNX Runtime lacks"):
        read(saved(foreign, tmp_path))
