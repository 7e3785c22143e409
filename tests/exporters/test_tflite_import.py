"""Float TFLite files as ONNX models: the answers are LiteRT's, the rest is refused in a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import onnx
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from onnxruntime import InferenceSession
from torch import nn

from edgeloop_contract.errors import EdgeloopError, ModelError
from edgeloop_exporters.convert import to_tflite
from edgeloop_exporters.graph import fold_batchnorm, trace
from edgeloop_exporters.normalization import InputNormalization
from edgeloop_exporters.onnx_import import read_onnx
from edgeloop_exporters.tflite_import import compare, to_onnx, translated, values
from tflite_parts import Op, options, tflite_file

RNG = np.random.default_rng(4)
X = {"x": (1, 9, 8, 4)}


def some(*shape: int) -> np.ndarray:
    return (RNG.normal(size=shape) * 0.4).astype(np.float32)


def whole(*values: Any) -> np.ndarray:
    return np.array(values, np.int32)


def int8_file() -> bytes:
    """A sum of integers with their scales."""
    content = tflite_file(X, [Op("ADD", ["x", "x"], {"y": (1, 9, 8, 4)}, options("Add"))], ["y"])
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    for tensor in model.subgraphs[0].tensors:
        tensor.type, tensor.quantization = schema.TensorType.INT8, schema.QuantizationParametersT()
        tensor.quantization.scale, tensor.quantization.zeroPoint = [0.1], [0]
    return packed(model)


def sparse_file(weights: np.ndarray) -> bytes:
    """A dense layer whose weights are kept as compressed rows."""
    ops = [Op("RESHAPE", ["x", "s"], {"f": (1, 288)}, options("Reshape")), Op("DENSIFY", ["h"], {"w": weights.shape}, options("Densify")),
           Op("FULLY_CONNECTED", ["f", "w", ""], {"y": (1, len(weights))}, options("FullyConnected"))]  # fmt: skip
    kept = weights[weights != 0]
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(tflite_file(X, ops, ["y"], {"s": whole(1, 288), "h": kept}), 0))
    tensor = next(t for t in model.subgraphs[0].tensors if t.name == b"h")
    tensor.shape, tensor.sparsity = list(weights.shape), schema.SparsityParametersT()
    levels = [schema.DimensionMetadataT(), schema.DimensionMetadataT()]
    levels[0].format, levels[0].denseSize = schema.DimensionType.DENSE, len(weights)
    levels[1].format = schema.DimensionType.SPARSE_CSR
    ends = np.cumsum([0, *(weights != 0).sum(1)])
    for name, numbers in (("arraySegments", ends), ("arrayIndices", np.nonzero(weights)[1])):
        vector = schema.Int32VectorT()
        vector.values = [int(v) for v in numbers]
        setattr(levels[1], name, vector)
        setattr(levels[1], f"{name}Type", schema.SparseIndexVector.Int32Vector)
    tensor.sparsity.traversalOrder, tensor.sparsity.dimMetadata = [0, 1], levels
    return packed(model)


def packed(model: Any) -> bytes:
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def one(kind: str, goal: tuple[int, ...], made: Any = None, *, given: str = "", **constants: np.ndarray) -> bytes:
    """One operator behind a convolution, so that its input is channels first on our side."""
    conv = Op("CONV_2D", ["x", "w0", "b0"], {"c": (1, 9, 8, 4)}, options("Conv2D", strideH=1, strideW=1))
    inputs = given.split() or ["c", *constants]
    return tflite_file(X, [conv, Op(kind, inputs, {"y": goal}, made)], ["y"], {"w0": some(4, 3, 3, 4), "b0": some(4), **constants})


SAME, VALID = 0, 1
SLICED = options("StridedSlice", beginMask=1, endMask=2)
FILES: dict[str, bytes] = {
    "conv": one("CONV_2D", (1, 4, 4, 5), options("Conv2D", padding=VALID, strideH=2, strideW=2, fusedActivationFunction=3), w=some(5, 3, 2, 4), b=some(5)),
    "conv of the same size": one("CONV_2D", (1, 5, 4, 6), options("Conv2D", strideH=2, strideW=2), w=some(6, 3, 3, 4), b=some(6)),
    "depthwise": one(
        "DEPTHWISE_CONV_2D", (1, 9, 8, 8), options("DepthwiseConv2D", strideH=1, strideW=1, depthMultiplier=2, dilationHFactor=2, dilationWFactor=2), w=some(1, 3, 3, 8), b=some(8)
    ),
    "transposed": one("TRANSPOSE_CONV", (1, 18, 16, 3), options("TransposeConv", strideH=2, strideW=2), given="s w c", s=whole(1, 18, 16, 3), w=some(3, 3, 3, 4)),
    "dense": one("FULLY_CONNECTED", (1, 5), options("FullyConnected", fusedActivationFunction=1), w=some(5, 288), b=some(5)),
    "max pool": one("MAX_POOL_2D", (1, 5, 4, 4), options("Pool2D", strideH=2, strideW=2, filterHeight=3, filterWidth=3)),
    "average pool": one("AVERAGE_POOL_2D", (1, 5, 4, 4), options("Pool2D", strideH=2, strideW=2, filterHeight=3, filterWidth=3)),
    "bilinear": one("RESIZE_BILINEAR", (1, 13, 16, 4), options("ResizeBilinear", halfPixelCenters=True), s=whole(13, 16)),
    "bilinear, corners": one("RESIZE_BILINEAR", (1, 17, 5, 4), options("ResizeBilinear", alignCorners=True), s=whole(17, 5)),
    "bilinear of old": one("RESIZE_BILINEAR", (1, 18, 12, 4), options("ResizeBilinear"), s=whole(18, 12)),
    "nearest": one("RESIZE_NEAREST_NEIGHBOR", (1, 18, 16, 4), options("ResizeNearestNeighbor"), s=whole(18, 16)),
    "nearest, half": one("RESIZE_NEAREST_NEIGHBOR", (1, 13, 5, 4), options("ResizeNearestNeighbor", halfPixelCenters=True), s=whole(13, 5)),
    "add a channel": one("ADD", (1, 9, 8, 4), options("Add", fusedActivationFunction=1), k=some(4)),
    "add a number": one("ADD", (1, 9, 8, 4), options("Add"), k=np.array(0.3, np.float32)),
    "subtract from a picture": one("SUB", (1, 9, 8, 4), options("Sub"), given="k c", k=some(1, 9, 8, 1)),
    "multiply": one("MUL", (1, 9, 8, 4), options("Mul"), given="c x"),
    "squared difference": one("SQUARED_DIFFERENCE", (1, 9, 8, 4), options("SquaredDifference"), given="c x"),
    "prelu": one("PRELU", (1, 9, 8, 4), None, a=some(1, 1, 4)),
    "leaky": one("LEAKY_RELU", (1, 9, 8, 4), options("LeakyRelu", alpha=0.2)),
    "gelu": one("GELU", (1, 9, 8, 4), options("Gelu", approximate=True)),
    **{kind.lower(): one(kind, (1, 9, 8, 4), None) for kind in ("RELU", "RELU6", "RELU_N1_TO_1", "LOGISTIC", "TANH", "HARD_SWISH", "ABS", "EXP", "SIN", "ELU")},
    "softmax": one("SOFTMAX", (1, 9, 8, 4), options("Softmax", beta=0.5)),
    "concat": one("CONCATENATION", (1, 9, 8, 8), options("Concatenation", axis=3), given="c x"),
    "concat of rows": one("CONCATENATION", (1, 18, 8, 4), options("Concatenation", axis=1), given="c x"),
    "mean of places": one("MEAN", (1, 4), options("Reducer"), a=whole(1, 2)),
    "mean of places, kept": one("MEAN", (1, 1, 1, 4), options("Reducer", keepDims=True), a=whole(1, 2)),
    "largest of channels": one("REDUCE_MAX", (1, 9, 8), options("Reducer"), a=whole(3)),
    "pad": one("PAD", (1, 12, 9, 5), None, p=np.array([[0, 0], [1, 2], [0, 1], [0, 1]], np.int32)),
    "mirror": one("MIRROR_PAD", (1, 12, 9, 4), options("MirrorPad"), p=np.array([[0, 0], [1, 2], [0, 1], [0, 0]], np.int32)),
    "reshape": one("RESHAPE", (1, 72, 4), options("Reshape"), s=whole(1, 72, 4)),
    "transpose": one("TRANSPOSE", (1, 4, 9, 8), None, p=whole(0, 3, 1, 2)),
    "slice": one("SLICE", (1, 4, 8, 2), None, s=whole(0, 2, 0, 1), n=whole(1, 4, -1, 2)),
    "strided": one("STRIDED_SLICE", (1, 4, 8, 4), SLICED, s=whole(7, 1, 0, 0), e=whole(1, 0, 8, 4), t=whole(1, 2, 1, 1)),
    "one row": one("STRIDED_SLICE", (1, 8, 4), options("StridedSlice", shrinkAxisMask=2), s=whole(0, 3, 0, 0), e=whole(1, 4, 8, 4), t=whole(1, 1, 1, 1)),
    "depth to space": one("DEPTH_TO_SPACE", (1, 18, 16, 1), options("DepthToSpace", blockSize=2)),
    "matrices": one("BATCH_MATMUL", (1, 9, 8, 3), options("BatchMatMul"), w=some(1, 9, 4, 3)),
    "gather": one("GATHER", (1, 9, 8, 2), options("Gather", axis=3), i=whole(3, 0)),
    "sparse weights": sparse_file(np.where(RNG.random((5, 288)) < 0.3, some(5, 288), 0).astype(np.float32)),
    "l2": one("L2_NORMALIZATION", (1, 9, 8, 4), options("L2Norm")),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_an_operator_answers_as_in_litert(name: str, tmp_path: Path) -> None:
    (tmp_path / "net.tflite").write_bytes(FILES[name])
    model = to_onnx(tmp_path / "net.tflite")
    assert [i.name for i in model.graph.input] == ["x"] and [o.name for o in model.graph.output] == ["y"]
    onnx.checker.check_model(model)


def spectrum_of_frames() -> bytes:
    """As BirdNET frames its sound: a number of frames and their indices from SHAPE, a transform of each, its real part, reversed."""
    one, masks = whole(1), {"shrinkAxisMask": 1}
    ops = [
        Op("SHAPE", ["x"], {"shape": (2,)}, options("Shape", outType=schema.TensorType.INT32), np.int32),
        Op("STRIDED_SLICE", ["shape", "one", "two", "one"], {"n": ()}, options("StridedSlice", **masks), np.int32),
        Op("SUB", ["n", "window"], {"rest": ()}, options("Sub"), np.int32),
        Op("FLOOR_DIV", ["rest", "hop"], {"count": ()}, None, np.int32),
        Op("ADD", ["count", "single"], {"frames": ()}, options("Add"), np.int32),
        Op("RANGE", ["zero", "frames", "single"], {"numbers": (7,)}, options("Range"), np.int32),
        Op("MUL", ["numbers", "hop"], {"starts": (7,)}, options("Mul"), np.int32),
        Op("RESHAPE", ["starts", "column"], {"places": (7, 1)}, options("Reshape"), np.int32),
        Op("ADD", ["places", "inside"], {"indices": (7, 16)}, options("Add"), np.int32),
        Op("GATHER", ["x", "indices"], {"framed": (1, 7, 16)}, options("Gather", axis=1)),
        Op("RESHAPE", ["framed", "rows"], {"frame": (1, 7, 1, 16)}, options("Reshape")),
        Op("RFFT2D", ["frame", "length"], {"complex": (1, 7, 1, 9)}, options("Rfft2d"), np.complex64),
        Op("SQUEEZE", ["complex"], {"flat": (1, 7, 9)}, options("Squeeze", squeezeDims=[2]), np.complex64),
        Op("CAST", ["flat"], {"real": (1, 7, 9)}, options("Cast", inDataType=schema.TensorType.COMPLEX64)),
        Op("REVERSE_V2", ["real", "last"], {"y": (1, 7, 9)}),
    ]  # fmt: skip
    constants = {
        "one": one, "two": whole(2), "window": np.array(16, np.int32), "hop": np.array(8, np.int32), "single": np.array(1, np.int32),
        "zero": np.array(0, np.int32), "column": whole(7, 1), "inside": np.arange(16, dtype=np.int32)[None], "rows": whole(1, 7, 1, 16),
        "length": whole(1, 16), "last": whole(2),
    }  # fmt: skip
    return tflite_file({"x": (1, 64)}, ops, ["y"], constants)


def test_shapes_are_constants_and_a_spectrum_is_read(tmp_path: Path) -> None:
    (tmp_path / "net.tflite").write_bytes(spectrum_of_frames())
    model = to_onnx(tmp_path / "net.tflite")  # compared with LiteRT
    kinds = {node.op_type for node in model.graph.node}
    assert "DFT" in kinds and not kinds & {"Shape", "Range", "Sub", "Add"}, kinds
    onnx.save(model, tmp_path / "net.onnx")
    network = read_onnx(tmp_path / "net.onnx").network
    x = torch.rand(2, 64)
    wanted = torch.fft.rfft(x.unfold(1, 16, 8)).real.flip(2)
    torch.testing.assert_close(network(x), wanted, rtol=1e-4, atol=1e-5)


def test_several_outputs_and_weights_of_16_bits(tmp_path: Path) -> None:
    half = Op("DEQUANTIZE", ["h"], {"w": (6, 3, 3, 4)}, None)
    conv = Op("CONV_2D", ["x", "w", "b"], {"c": (1, 9, 8, 6)}, options("Conv2D", strideH=1, strideW=1))
    split = Op("SPLIT", ["axis", "c"], {"p": (1, 9, 8, 3), "q": (1, 9, 8, 3)}, options("Split", numSplits=2))
    content = tflite_file(
        X, [half, conv, split], ["q", "p"], {"h": some(6, 3, 3, 4).astype(np.float16), "b": some(6), "axis": np.array(3, np.int32)}
    )
    (tmp_path / "net.tflite").write_bytes(content)
    assert [o.name for o in to_onnx(tmp_path / "net.tflite").graph.output] == ["q", "p"]


def test_a_converted_network_becomes_layers_without_transposes_between_them(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU6(), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Hardswish(), nn.Conv2d(8, 12, 1),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5),
    )  # fmt: skip
    graph = trace(net, torch.randn(2, 3, 12, 12))
    fold_batchnorm(graph)
    to_tflite(graph, InputNormalization("float32", (0.0,) * 3, (1.0,) * 3), (12, 12, 3), tmp_path / "net.tflite", quantized=False)
    model = to_onnx(tmp_path / "net.tflite")
    assert sum(node.op_type == "Transpose" for node in model.graph.node) <= 2
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    network = read_onnx(tmp_path / "net.onnx").network
    assert sum(isinstance(layer, nn.Conv2d) for layer in network.modules()) == 3
    x = torch.randn(2, 12, 12, 3)
    with torch.no_grad():
        wanted, found = net.eval()(x.permute(0, 3, 1, 2)), torch.cat([network(row[None]) for row in x])
    assert torch.allclose(found, wanted, atol=1e-4)


def test_mediapipes_transposed_convolution_is_the_built_in_one(tmp_path: Path) -> None:
    """Two of them, another stride for rows than for columns; LiteRT itself has no such operator."""
    given = {"w": some(3, 3, 2, 4), "b": some(3), "w2": some(2, 2, 2, 3), "b2": some(2)}
    shapes, size = {"s": whole(1, 18, 24, 3), "s2": whole(1, 36, 48, 2)}, (1, 36, 48, 2)
    first = Op("TRANSPOSE_CONV", ["s", "w", "x", "b"], {"m": (1, 18, 24, 3)}, options("TransposeConv", strideH=2, strideW=3))
    second = Op(
        "TRANSPOSE_CONV", ["s2", "w2", "m", "b2"], {"y": size}, options("TransposeConv", padding=VALID, strideH=2, strideW=2)
    )
    content = tflite_file(X, [first, second], ["y"], {**given, **shapes})
    (tmp_path / "built-in.tflite").write_bytes(content)
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
    code.customCode = b"Convolution2DTransposeBias"
    model.operatorCodes = [code]
    for operator, parameters in zip(model.subgraphs[0].operators, ((1, 3, 2), (2, 2, 2)), strict=True):
        operator.opcodeIndex, operator.builtinOptions, operator.builtinOptionsType = 0, None, 0
        operator.inputs = [operator.inputs[place] for place in (2, 1, 3)]
        operator.customOptions = list(np.array(parameters, np.int32).tobytes())
    (tmp_path / "custom.tflite").write_bytes(packed(model))
    with pytest.raises(RuntimeError):
        Interpreter(str(tmp_path / "custom.tflite")).allocate_tensors()
    x = some(*X["x"])
    sessions = [
        InferenceSession(to_onnx(tmp_path / f"{name}.tflite").SerializeToString(), providers=["CPUExecutionProvider"])
        for name in ("built-in", "custom")
    ]
    wanted, found = (session.run(None, {"x": x})[0] for session in sessions)
    assert found.shape == size and (found == wanted).all()


REFUSED = {
    "no rule": (one("CUMSUM", (1, 9, 8, 4), options("Cumsum"), a=np.array(1, np.int32)), "CUMSUM 'y': cannot be imported"),
    "a mode without a form": (one("MIRROR_PAD", (1, 12, 9, 4), options("MirrorPad", mode=1), p=np.array([[0, 0], [1, 2], [0, 1], [0, 0]], np.int32)), "SYMMETRIC"),
    "no model": (b"\x1c\0\0\0TFL3" * 20, "net.tflite"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_known_is_refused_in_a_sentence(name: str, tmp_path: Path) -> None:
    content, said = REFUSED[name]
    (tmp_path / "net.tflite").write_bytes(content)
    with pytest.raises(EdgeloopError, match=said) as caught:
        to_onnx(tmp_path / "net.tflite")
    assert "\n" not in str(caught.value) and "net.tflite" in str(caught.value)


def test_a_quantized_file_is_packed(tmp_path: Path) -> None:
    (tmp_path / "net.tflite").write_bytes(int8_file())
    with pytest.raises(ModelError, match=r"quantized to int8; only float files are imported: pack"):
        to_onnx(tmp_path / "net.tflite")


def test_other_weights_are_seen(tmp_path: Path) -> None:
    (tmp_path / "net.tflite").write_bytes(FILES["relu"])
    found = translated(tmp_path / "net.tflite")
    assert compare(found, tmp_path / "net.tflite").worst < 1e-5
    wrong = next(t for t in found.model.graph.initializer if len(t.dims) == 4)
    wrong.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(wrong) * 1.5, wrong.name))
    assert compare(found, tmp_path / "net.tflite").worst > 0.1


def test_a_wrong_rule_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(values.UNARY, "TANH", "Sigmoid")
    (tmp_path / "net.tflite").write_bytes(FILES["tanh"])
    with pytest.raises(ModelError, match=r"answers differently by .* first in tensor 'y'"):
        to_onnx(tmp_path / "net.tflite")


def test_rounding_behind_large_sums_is_no_difference_and_a_wrong_rule_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in MediaPipe's pose: layers make hundreds, of which the next operator keeps the last digits alone."""
    rng, width, count = np.random.default_rng(7), 64, 2
    flat = options("FullyConnected", fusedActivationFunction=0)
    ops, constants, name = [], dict[str, np.ndarray](), "x"
    for i in range(count):
        constants |= {f"w{i}": rng.normal(0, 20, (width, width)).astype(np.float32), f"b{i}": np.zeros(width, np.float32)}
        ops += [
            Op("FULLY_CONNECTED", [name, f"w{i}", f"b{i}"], {f"f{i}": (1, width)}, flat),
            Op("SIN", [f"f{i}"], {f"s{i}": (1, width)}),
        ]
        name = f"s{i}"
    ops.append(Op("TANH", [name], {"y": (1, width)}))
    (tmp_path / "net.tflite").write_bytes(tflite_file({"x": (1, width)}, ops, ["y"], constants))
    found = translated(tmp_path / "net.tflite")
    with monkeypatch.context() as patched:
        patched.setattr("edgeloop_exporters.tflite_import.comparing.is_rounding", lambda *_: False)
        assert 1e-3 < compare(found, tmp_path / "net.tflite").worst < 0.02
    assert compare(found, tmp_path / "net.tflite").worst <= 1e-3
    monkeypatch.setitem(values.UNARY, "TANH", "Softsign")
    with pytest.raises(ModelError, match="first in tensor 'y'"):
        to_onnx(tmp_path / "net.tflite")
