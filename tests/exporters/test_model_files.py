"""Model files that somebody else made: what is read from them, and what is refused."""

from __future__ import annotations

import os
import pickle
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto

from edgeloop_contract.errors import DataError, EdgeloopError, ModelError
from edgeloop_contract.manifest import Precision, Quantization
from edgeloop_exporters.model_files.reading import content_of, read
from model_parts import node, onnx_file, tflite_file, value

RNG = np.random.default_rng(0)
W = RNG.normal(size=(4, 3, 3, 3)).astype(np.float32)  # of a convolution
D = RNG.normal(size=(4, 5)).astype(np.float32)  # of a layer


def saved(model: onnx.ModelProto | bytes, folder: Path, name: str = "model.onnx") -> Path:
    path = folder / name
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    return path


def scored(*nodes: onnx.NodeProto, weights: dict[str, np.ndarray] | None = None, **more: Any) -> onnx.ModelProto:
    """From x (batch, 4) to y (batch, 5)."""
    return onnx_file(nodes, [value("x", ["batch", 4])], [value("y", ["batch", 5])], {"w": D} | (weights or {}), **more)


# ---------------------------------------------------------------- tensors

DENSE = node("MatMul", "x w", "s")
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

H = ["layers", 1, 6]
LSTM_WEIGHTS = {"lw": np.zeros((1, 24, 4), np.float32), "lr": np.zeros((1, 24, 6), np.float32)}


def lstm(old: str = "h0 c0", new: str = "h1 c1") -> list[onnx.NodeProto]:
    return [node("LSTM", f"x lw lr - - {old}", f"all {new}", hidden_size=6)]


def with_state(
    nodes: list[onnx.NodeProto], states: dict[str, str], weights: dict[str, np.ndarray], shape: Any = H
) -> onnx.ModelProto:
    inputs = [value("x", [1, 1, 4]), *(value(name, shape) for name in states)]
    return onnx_file(nodes, inputs, [value("all", None), *(value(name, shape) for name in states.values())], weights)


def inside_if() -> onnx.ModelProto:
    """The layer in both branches of an If, which read the state from outside."""
    branches = [
        onnx.helper.make_graph(lstm(new=f"{side}h {side}c"), side, [], [value(f"{side}h", None), value(f"{side}c", None)])
        for side in ("then", "else")
    ]
    chosen = node("If", "which", "h1 c1", then_branch=branches[0], else_branch=branches[1])
    nodes = [node("Identity", "h0", "h0copy"), chosen, node("Identity", "x", "all")]
    return with_state(nodes, {"h0": "h1", "c0": "c1"}, LSTM_WEIGHTS | {"which": np.array(True)})


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

C = np.ones((4, 3, 3, 3), np.int8)
QUANTIZED = {
    "x": ((-1, 8, 8, 3), "int8", 0.5, -1), "w": C, "b": np.zeros(4, np.int32), "c": ((-1, 6, 6, 4), "int8", 0.1, 0),
    "p": ((-1, 6, 6, 4), "int8", 1 / 256, -128), "y": ((-1, 6, 6, 4), "float32"),
}  # fmt: skip


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


# ---------------------------------------------------------------- weights beside the file


def beside(folder: Path, location: str = "w.bin", **places: str) -> Path:
    model = scored(node("MatMul", "x w", "y"))
    (weight,) = model.graph.initializer
    content = weight.raw_data
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, text in {"location": location, "length": str(len(content)), **places}.items():
        weight.external_data.add(key=key, value=text)
    folder.mkdir(exist_ok=True)
    (folder / "w.bin").write_bytes(content)
    return saved(model, folder)


def test_weights_beside_the_file_are_found_and_can_be_put_inside(tmp_path: Path) -> None:
    path = beside(tmp_path / "m")
    assert read(path).external == (str((tmp_path / "m" / "w.bin").resolve()),)
    x = RNG.normal(size=(2, 4)).astype(np.float32)
    whole = onnxruntime.InferenceSession(content_of(path), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    assert (whole == onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]).all()
    plain = saved(scored(node("MatMul", "x w", "y")), tmp_path)
    assert content_of(plain) == plain.read_bytes() and read(plain).external == ()


def test_weights_elsewhere_missing_or_short_are_refused(tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(80))
    outside = [
        beside(tmp_path / "up", "../secret.bin"), beside(tmp_path / "root", str(tmp_path / "secret.bin")),
        beside(tmp_path / "none", ""), beside(tmp_path / "zero", "a\0b"), beside(tmp_path / "link", "link.bin"),
    ]  # fmt: skip
    (tmp_path / "link" / "link.bin").symlink_to(tmp_path / "secret.bin")
    for path in outside:
        for door in (read, content_of):
            with pytest.raises(ModelError, match="from outside its folder"):
                door(path)
    with pytest.raises(DataError, match=r"gone\.bin beside it, and that file is missing"):
        read(beside(tmp_path / "gone", "gone.bin"))
    with pytest.raises(DataError, match="shorter than"):
        read(beside(tmp_path / "huge", length=str(3 << 30)))
    with pytest.raises(ModelError, match="no number"):
        read(beside(tmp_path / "word", offset="ten"))


# ---------------------------------------------------------------- what is no model

SOUND = scored(node("MatMul", "x w", "y")).SerializeToString()
BAD: dict[str, tuple[str, bytes, type[EdgeloopError], str]] = {
    "nothing": ("m.onnx", b"", DataError, "is empty"),
    "words": ("m.onnx", b"not a model at all", ModelError, "not a"),
    "cut off": ("m.onnx", SOUND[:-20], ModelError, "not a whole ONNX file"),
    "a pickle": ("m.onnx", pickle.dumps(os.getcwd, protocol=4), ModelError, "is a pickle"),
    "a PyTorch file": ("m.pt", b"PK\x03\x04" + bytes(50), ModelError, "zip file"),
    "a pointer": ("m.onnx", b"version https://git-lfs", ModelError, "Git LFS pointer"),
    "another name": ("m.bin", SOUND, ModelError, r"reads \.onnx and \.tflite"),
    "ORT's own": ("m.ort", bytes(64), ModelError, r"give the \.onnx"),
    "old": ("m.onnx", scored(node("MatMul", "x w", "y"), opset=6).SerializeToString(), ModelError, "opset 6; from 7 on"),
    "no outputs": ("m.onnx", onnx_file([DENSE], [value("x", [1])], []).SerializeToString(), ModelError, "not an ONNX file"),
    "no inputs": ("m.onnx", onnx_file([DENSE], [], [value("s", [1])], {"w": D}).SerializeToString(), ModelError, "no inputs"),
    "a name that rings": (
        "m.onnx", onnx_file([node("Relu", "a\x07", "y")], [value("a\x07", [1])], [value("y", [1])]).SerializeToString(),
        ModelError, "control characters",
    ),
    "words as TFLite": ("m.tflite", b"not a model at all", ModelError, "not a TFLite file"),
    "TFLite cut off": ("m.tflite", b"\x1c\0\0\0TFL3" + bytes(40), ModelError, "damaged or cut off|graphs"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_what_is_no_model_is_refused_in_one_sentence(what: str, tmp_path: Path) -> None:
    name, content, kind, words = BAD[what]
    with pytest.raises(kind, match=words) as refused:
        read(saved(content, tmp_path, name))
    assert "\n" not in str(refused.value) and type(refused.value) is kind


def test_what_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "gone.onnx", tmp_path):
        with pytest.raises(DataError, match="cannot be read"):
            read(path)
    large = tmp_path / "large.onnx"
    with large.open("wb") as file:
        file.truncate(2**31)  # a hole: no bytes on disk
    with pytest.raises(ModelError, match="at most 2 GB"):
        read(large)


def test_graphs_that_multiply_are_read_in_bounded_time(tmp_path: Path) -> None:
    """Each level reads the one below 40 times over: 40 to the 30th ways from the output to the input."""
    nodes = [node("Identity", "x", "t0")]
    for level in range(30):
        copies = [f"c{level}_{i}" for i in range(40)]
        nodes += [node("Identity", f"t{level}", copy) for copy in copies]
        nodes.append(node("Concat", " ".join(copies), f"t{level + 1}", axis=0))
    inputs = [value(name, ["n", 4]) for name in ("x", *(f"s{i}" for i in range(50)))]
    model = onnx_file([*nodes, node("Identity", "t30", "y")], inputs, [value("y", ["n", 4])])
    deep = onnx.helper.make_graph([node("Identity", "x", "z")], "deep", [], [value("z", None)])
    for i in range(20):  # deeper than branches are followed, and than protobuf reads
        deep = onnx.helper.make_graph(
            [node("If", "b", f"z{i}", then_branch=deep, else_branch=deep)]
            if i < 8
            else [node("If", "b", f"z{i}", then_branch=deep)],
            "deep",
            [],
            [value(f"z{i}", None)],
        )
    model.graph.node.extend(deep.node)
    started = time.perf_counter()
    assert read(saved(model, tmp_path)).outputs[0].scores is None
    assert time.perf_counter() - started < 5


def test_spoiled_files_raise_our_errors_alone(tmp_path: Path) -> None:
    quantized = tflite_file(QUANTIZED, [("CONV_2D", "x w b", "c"), ("SOFTMAX", "c", "p"), ("DEQUANTIZE", "p", "y")], "x", "y")
    bases = {"m.tflite": quantized, "m.onnx": inside_if().SerializeToString()}
    chance, refused = random.Random(0), 0
    for i in range(600):
        name, content = list(bases.items())[i % 2]
        spoiled = bytearray(content)
        for _ in range(chance.randrange(1, 12)):
            place = chance.randrange(len(spoiled) - 4)
            spoiled[place : place + 4] = chance.choice([b"\xff\xff\xff\xff", bytes(4), b"\xff\xff\xff\x7f", chance.randbytes(4)])
        path = saved(bytes(spoiled[: chance.choice([len(spoiled), chance.randrange(1, len(spoiled))])]), tmp_path, name)
        try:
            read(path)
            content_of(path)
        except EdgeloopError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 200
