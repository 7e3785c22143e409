"""The ONNX importer: torch layers that answer as the file does, at every batch; the rest is refused in a sentence."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from bundles import F, onnx_file
from edgeloop_contract.errors import EdgeloopError, ModelError, UsageError
from edgeloop_exporters.graph import trace
from edgeloop_exporters.onnx_import import compare, read_onnx

ROOT = Path(__file__).resolve().parents[2]
RNG = np.random.default_rng(0)


def node(kind: str, given: str, made: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(kind, given.split(), made.split(), **attributes)


def weights(*shape: int) -> np.ndarray:
    return (RNG.normal(size=shape) * 0.4).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def attention(batch: int | str) -> bytes:
    """As exporters write it: the batch comes from a Shape and goes into a Reshape by way of a Concat, or is a number."""
    nodes: list[onnx.NodeProto] = []
    constants = {"wq": weights(8, 8), "wk": weights(8, 8), "wv": weights(8, 8), "b": weights(8), "half": np.array(0.5, np.float32)}
    for name in "qkv":
        nodes += [node("MatMul", f"x w{name}", f"{name}0"), node("Add", f"{name}0 b", f"{name}1")]
    if batch == "b":
        nodes = [
            node("Shape", "x", "s"),
            node("Gather", "s zero", "n", axis=0),
            node("Concat", "n tail", "t", axis=0),
            node("Concat", "n back", "u", axis=0),
            *nodes,
        ]
        constants |= {"zero": ints(0), "tail": ints(5, 2, 4), "back": ints(5, 8)}
    else:
        constants |= {"t": ints(1, 5, 2, 4), "u": ints(1, 5, 8)}
    for name in "qkv":
        order = [0, 2, 3, 1] if name == "k" else [0, 2, 1, 3]
        nodes += [node("Reshape", f"{name}1 t", f"{name}2"), node("Transpose", f"{name}2", f"{name}3", perm=order)]
    nodes += [
        node("MatMul", "q3 k3", "a"), node("Mul", "a half", "a1"), node("Softmax", "a1", "a2", axis=-1), node("MatMul", "a2 v3", "o"),
        node("Transpose", "o", "o1", perm=[0, 2, 1, 3]), node("Reshape", "o1 u", "y"),
    ]  # fmt: skip
    return onnx_file(nodes, [("x", F, [batch, 5, 8])], [("y", F, [batch, 5, 8])], **constants)


def picture(*nodes: onnx.NodeProto, batch: int | str = "b", **constants: np.ndarray) -> bytes:
    return onnx_file(nodes, [("x", F, [batch, 4, 9, 10])], [("y", F, None)], **constants)


SCALE = {"s": weights(4), "o": weights(4), "m": weights(4), "v": np.abs(weights(4)) + 0.5}
NETWORKS = {
    "uneven padding": picture(node("Conv", "x w b", "y", pads=[0, 1, 2, 0], strides=[2, 1]), w=weights(6, 4, 3, 3), b=weights(6)),
    "same padding": picture(node("Conv", "x w", "y", auto_pad="SAME_UPPER", strides=[2, 2]), w=weights(6, 4, 3, 3)),
    "grouped and dilated": picture(node("Conv", "x w", "y", group=2, dilations=[2, 2]), w=weights(6, 2, 3, 3)),
    "transposed": picture(
        node("ConvTranspose", "x w", "y", strides=[2, 2], output_padding=[1, 1], pads=[1, 1, 1, 1]), w=weights(4, 3, 3, 3)
    ),
    "norm": picture(node("BatchNormalization", "x s o m v", "y"), **SCALE),
    "pools": picture(
        node("MaxPool", "x", "p", kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1]),
        node("AveragePool", "p", "y", kernel_shape=[2, 2], pads=[0, 0, 1, 1]),
    ),
    "one number first": picture(
        node("Sub", "one x", "a"),
        node("Mul", "two a", "c"),
        node("Pow", "c two", "y"),
        one=np.array(1, np.float32),
        two=np.array(2, np.float32),
    ),
    "hard swish by parts": picture(
        node("Add", "x three", "a"),
        node("Clip", "a zero six", "c"),
        node("Mul", "x c", "d"),
        node("Div", "d six", "y"),
        three=np.array(3, np.float32),
        zero=np.array(0, np.float32),
        six=np.array(6, np.float32),
    ),
    "channel shuffle": picture(
        node("Reshape", "x t", "a"),
        node("Transpose", "a", "c", perm=[0, 2, 1, 3, 4]),
        node("Reshape", "c u", "y"),
        batch=1,
        t=ints(1, 2, 2, 9, 10),
        u=ints(1, 4, 9, 10),
    ),
    "cut backwards": picture(
        node("Slice", "x starts ends axes steps", "y"), starts=ints(-1), ends=ints(-100), axes=ints(3), steps=ints(-2)
    ),
    "upsampled": picture(
        helper.make_node("Resize", ["x", "", "scales"], ["y"], mode="linear", coordinate_transformation_mode="half_pixel"),
        scales=np.array([1, 1, 2, 2], np.float32),
    ),
    "flattened with a fixed batch": picture(
        node("Reshape", "x t", "a"), node("Gemm", "a w b", "y", transB=1), batch=1, t=ints(1, -1), w=weights(5, 360), b=weights(5)
    ),
    "attention": attention("b"),
    "attention of one sample": attention(1),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_answers_as_its_file_does_at_every_batch(name: str, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(NETWORKS[name])
    found = read_onnx(path)  # compared at batches of 1, 2 and 5, or by its own fixed one
    samples = RNG.normal(size=(7, *found.inputs[0].shape)).astype(np.float32)
    assert compare(found, path, [samples]).worst < 1e-5
    module = trace(found.network, torch.from_numpy(samples[:2]))  # what the quantizer takes
    with torch.no_grad():
        assert torch.allclose(module(torch.from_numpy(samples)), found.network(torch.from_numpy(samples)), atol=1e-5)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_recurrent_layers(kind: str, direction: str, tmp_path: Path) -> None:
    gates, both = {"LSTM": 4, "GRU": 3}[kind], 2 if direction == "bidirectional" else 1
    more = {"linear_before_reset": 1} if kind == "GRU" else {}
    nodes = [
        node("Transpose", "x", "a", perm=[1, 0, 2]), node(kind, "a w r b", "c", hidden_size=6, direction=direction, **more),
        node("Transpose", "c", "y", perm=[2, 0, 1, 3]),
    ]  # fmt: skip
    constants = {"w": weights(both, gates * 6, 3), "r": weights(both, gates * 6, 6), "b": weights(both, gates * 12)}
    (tmp_path / "net.onnx").write_bytes(onnx_file(nodes, [("x", F, ["n", 5, 3])], [("y", F, None)], **constants))
    assert read_onnx(tmp_path / "net.onnx").outputs[0].shape == (5, both, 6)


def test_layers_keep_their_names_and_a_bias_that_follows_is_theirs(tmp_path: Path) -> None:
    nodes = [node("MatMul", "x w", "m", name="/encoder/dense/MatMul"), node("Add", "m b", "y")]
    (tmp_path / "net.onnx").write_bytes(onnx_file(nodes, [("x", F, ["n", 3])], [("y", F, ["n", 4])], w=weights(3, 4), b=weights(4)))
    network = read_onnx(tmp_path / "net.onnx").network
    layer = network.get_submodule("encoder_dense_MatMul")
    assert isinstance(layer, torch.nn.Linear) and layer.bias is not None
    assert sum(n.op != "placeholder" for n in network.graph.nodes) == 2


def test_weights_beside_the_file(tmp_path: Path) -> None:
    model = onnx.load_from_string(NETWORKS["norm"])
    onnx.save(model, tmp_path / "net.onnx", save_as_external_data=True, location="net.data", size_threshold=0)
    assert read_onnx(tmp_path / "net.onnx").operators == {"BatchNormalization": 1}
    (tmp_path / "net.data").unlink()
    with pytest.raises(EdgeloopError, match=r"net\.data"):
        read_onnx(tmp_path / "net.onnx")


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 18])
def test_operator_sets(opset: int, tmp_path: Path) -> None:
    nodes = [node("Conv", "x w", "a", kernel_shape=[3, 3]), node("Relu", "a", "r"), node("GlobalAveragePool", "r", "p"), node("Flatten", "p", "f"),
             node("Gemm", "f d e", "g", alpha=0.5, beta=2.0), node("Softmax", "g", "y", axis=1)]  # fmt: skip
    constants = {"w": weights(6, 4, 3, 3), "d": weights(6, 5), "e": weights(5)}
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", F, ["n", 4, 8, 8])], [helper.make_tensor_value_info("y", F, ["n", 5])],
        [numpy_helper.from_array(v, k) for k, v in constants.items()],
    )  # fmt: skip
    if opset < 9:  # IR 3: initializers are inputs too
        graph.input.extend(helper.make_tensor_value_info(k, F, v.shape) for k, v in constants.items())
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=3 if opset < 9 else 8)
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    assert read_onnx(tmp_path / "net.onnx").opset == opset


def branching() -> bytes:
    inner = [
        helper.make_graph([node(kind, "x", name)], name, [], [helper.make_tensor_value_info(name, F, None)])
        for kind, name in (("Relu", "t"), ("Neg", "e"))
    ]
    nodes = [node("ReduceMax", "x", "m", keepdims=0), node("Cast", "m", "c", to=9),
             helper.make_node("If", ["c"], ["y"], then_branch=inner[0], else_branch=inner[1])]  # fmt: skip
    return picture(*nodes)


REFUSED = {
    "a branch by data": (branching(), "over the batch"),
    "its own quantization": (picture(node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s z", "y"), s=np.array(0.1, np.float32),
                                     z=np.array(0, np.uint8)), "already quantized"),
    "a shape by data": (picture(node("NonZero", "x", "i"), node("Cast", "i", "y", to=1)), "NonZero"),
    "no batch in the answer": (picture(node("ReduceMean", "x", "a", axes=[1, 2, 3], keepdims=0), node("Unsqueeze", "a zero", "y"), zero=ints(0)), "first axis"),
    "an answer by data": (picture(node("Unique", "x", "y")), "shape is decided by the data"),
    "windows larger than the picture": (picture(node("MaxPool", "x", "y", kernel_shape=[11, 3])), "windows of 11 in 9"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_layers_is_refused_with_operator_and_remedy(name: str, tmp_path: Path) -> None:
    content, words = REFUSED[name]
    (tmp_path / "net.onnx").write_bytes(content)
    with pytest.raises(ModelError, match=words) as caught:
        read_onnx(tmp_path / "net.onnx")
    assert "\n" not in str(caught.value) and "net.onnx" in str(caught.value)


def test_open_sizes_are_asked_for(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(onnx_file([node("Relu", "x", "y")], [("x", F, ["n", 3, "h", "w"])], [("y", F, None)]))
    with pytest.raises(UsageError, match="leaves size h open"):
        read_onnx(tmp_path / "net.onnx")
    assert read_onnx(tmp_path / "net.onnx", sizes={"x": (3, 8, 6)}).outputs[0].shape == (3, 8, 6)


def test_a_wrong_import_is_refused_with_the_first_operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgeloop_exporters.onnx_import import elementwise

    monkeypatch.setitem(elementwise.UNARY, "Tanh", torch.sigmoid)
    nodes = [node("Relu", "x", "a"), node("Tanh", "a", "wrong"), node("Neg", "wrong", "y")]
    (tmp_path / "net.onnx").write_bytes(onnx_file(nodes, [("x", F, ["n", 3])], [("y", F, None)]))
    with pytest.raises(ModelError, match="first at the operator that makes 'wrong'"):
        read_onnx(tmp_path / "net.onnx")


def test_answers_that_are_all_alike_hide_no_wrong_operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An untrained head of zeros answers zeros, whatever comes before it."""
    from edgeloop_exporters.onnx_import import elementwise

    monkeypatch.setitem(elementwise.UNARY, "Tanh", torch.sigmoid)
    nodes = [node("Tanh", "x", "wrong"), node("MatMul", "wrong w", "y")]
    (tmp_path / "net.onnx").write_bytes(onnx_file(nodes, [("x", F, ["n", 3])], [("y", F, None)], w=np.zeros((3, 4), np.float32)))
    with pytest.raises(ModelError, match="'wrong'"):
        read_onnx(tmp_path / "net.onnx")


@pytest.mark.long
def test_no_operator_test_is_wrong_and_the_page_says_what_came_of_them() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "operators_page.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    said = (ROOT / "docs" / "operators.md").read_text("utf-8")
    assert said.count(" 0 are wrong.") == 2
