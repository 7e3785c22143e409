"""TensorRT's rules on a good graph, and on one spoiled graph for each rule at least."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from commands import HERE, edgeloop_here, sentence
from edgeloop_exporters.tensorrt_rules import RULES, violations
from onnx_parts import model, node


def graph() -> onnx.ModelProto:
    """Counts, a layer with an activation, a max pooling, a residual block, and a classifier: as TensorRT wants them."""

    def crossing(given: str, made: str, scale: str = "s") -> list[onnx.NodeProto]:
        to, back = node("QuantizeLinear", f"{given} {scale} z", f"{made}_i"), node("DequantizeLinear", f"{made}_i {scale} z", made)
        return [to, back]

    def weight(name: str, axis: int = 0) -> onnx.NodeProto:
        return node("DequantizeLinear", f"{name}_i {name}_s {name}_z", name, axis=axis)

    conv = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    nodes = [
        node("Cast", "counts", "x", to=TensorProto.FLOAT), *crossing("x", "xq"),
        weight("a"), node("Conv", "xq a bias", "conv_a", **conv), node("Relu", "conv_a", "relu"), *crossing("relu", "stream"),
        node("MaxPool", "stream", "pooled", kernel_shape=[1, 1]), *crossing("pooled", "pooled_q"),
        weight("b"), node("Conv", "pooled_q b bias", "conv_b", **conv), node("Add", "conv_b stream", "sum"),
        node("Relu", "sum", "sum_relu"), *crossing("sum_relu", "sum_q"),
        weight("t", 1), node("ConvTranspose", "sum_q t bias", "conv_t", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        node("GlobalAveragePool", "conv_t", "mean"), node("Flatten", "mean", "flat"), *crossing("flat", "flat_q"),
        weight("g"), node("Transpose", "g", "g_t", perm=[1, 0]), node("MatMul", "flat_q g_t", "y"),
    ]  # fmt: skip
    rng = np.random.default_rng(0)
    constants = {"s": np.float32(0.1), "z": np.int8(0), "bias": np.zeros(4, np.float32)}
    for name, shape in (("a", (4, 4, 3, 3)), ("b", (4, 4, 3, 3)), ("t", (4, 4, 3, 3)), ("g", (4, 4))):
        constants |= {f"{name}_i": rng.integers(-127, 128, shape, np.int8), f"{name}_s": np.full(4, 0.01, np.float32)}
        constants[f"{name}_z"] = np.zeros(4, np.int8)
    return model(
        nodes, [("counts", TensorProto.UINT8, ["n", 4, 8, 8])], "y", 18, **{k: np.asarray(v) for k, v in constants.items()}
    )


def put(made: onnx.ModelProto, name: str, value: np.ndarray) -> None:
    """Another constant in the place of the one called so."""
    old = next(i for i in made.graph.initializer if i.name == name)
    old.CopyFrom(numpy_helper.from_array(value, name))


def of(made: onnx.ModelProto, output: str) -> onnx.NodeProto:
    found: onnx.NodeProto = next(n for n in made.graph.node if output in n.output)
    return found


def read(made: onnx.ModelProto, output: str, place: int, name: str) -> None:
    of(made, output).input[place] = name


def add(made: onnx.ModelProto, *nodes: onnx.NodeProto) -> None:
    made.graph.node.extend(nodes)


def rounded_sides(made: onnx.ModelProto) -> None:
    add(made, node("QuantizeLinear", "conv_b s z", "side_i"), node("DequantizeLinear", "side_i s z", "side"))
    read(made, "sum", 0, "side")


def before_relu(made: onnx.ModelProto) -> None:
    add(made, node("QuantizeLinear", "conv_a s z", "early_i"), node("DequantizeLinear", "early_i s z", "early"))
    read(made, "relu", 0, "early")


def behind_the_last(made: onnx.ModelProto) -> None:
    of(made, "y").output[0] = "scores"
    add(made, node("QuantizeLinear", "scores s z", "scores_i"), node("DequantizeLinear", "scores_i s z", "y"))
    of(made, "g_t").op_type = "Identity"  # a Gemm with weights as they are
    last = of(made, "scores")
    last.CopyFrom(node("Gemm", "flat_q g bias", "scores", transB=1))


def integer_bias(made: onnx.ModelProto) -> None:
    made.graph.initializer.extend([numpy_helper.from_array(np.zeros(4, np.int8), "bias_i")])
    add(made, node("DequantizeLinear", "bias_i s z", "bias_f"))
    read(made, "conv_a", 2, "bias_f")


def transposed_counts(made: onnx.ModelProto) -> None:
    of(made, "x").input[0] = "moved"
    add(made, node("Transpose", "counts", "moved", perm=[0, 1, 3, 2]))


def other_scale(made: onnx.ModelProto) -> None:
    made.graph.initializer.extend([numpy_helper.from_array(np.float32(0.3), "s2")])
    read(made, "pooled_q_i", 1, "s2")
    read(made, "pooled_q", 1, "s2")


def computed(place: int) -> Callable[[onnx.ModelProto], None]:
    def change(made: onnx.ModelProto) -> None:
        add(made, node("Identity", "counts", "computed"))
        read(made, "xq_i", place, "computed")

    return change


def float_output(made: onnx.ModelProto) -> None:
    add(made, node("AveragePool", "sum_q", "means", kernel_shape=[2, 2]), node("Softmax", "means", "shares"))


def no_zero(made: onnx.ModelProto) -> None:
    del of(made, "xq_i").input[2]


def opset(version: int) -> Callable[[onnx.ModelProto], None]:
    return lambda made: setattr(made.opset_import[0], "version", version)


ALONG_1 = [helper.make_attribute("axis", 1)]
BAD: dict[str, tuple[str, Callable[[onnx.ModelProto], object]]] = {
    "opset 11": ("opset", opset(11)),
    "opset 21": ("opset", opset(21)),
    "QLinearConv": ("operators", lambda m: setattr(of(m, "conv_a"), "op_type", "QLinearConv")),
    "of Microsoft": ("operators", lambda m: setattr(of(m, "relu"), "domain", "com.microsoft")),
    "dynamic": ("operators", lambda m: setattr(of(m, "relu"), "op_type", "DynamicQuantizeLinear")),
    "uint8": ("int8", lambda m: put(m, "z", np.uint8(0))),
    "uint8 weights": ("int8", lambda m: put(m, "a_i", np.zeros((4, 4, 3, 3), np.uint8))),
    "no zero point": ("int8", no_zero),
    "zero point 3": ("zero point", lambda m: put(m, "z", np.int8(3))),
    "zero point of one output": ("zero point", lambda m: put(m, "a_z", np.array([0, 0, 1, 0], np.int8))),
    "computed zero point": ("zero point", computed(2)),
    "scale 0": ("scale", lambda m: put(m, "s", np.float32(0))),
    "scale below 0": ("scale", lambda m: put(m, "a_s", np.array([1, 1, -1, 1], np.float32))),
    "scale NaN": ("scale", lambda m: put(m, "s", np.float32(np.nan))),
    "scale infinite": ("scale", lambda m: put(m, "s", np.float32(np.inf))),
    "no scale": ("scale", lambda m: put(m, "s", np.zeros(0, np.float32))),
    "computed scale": ("scale", computed(1)),
    "three scales": ("counts", lambda m: (put(m, "a_s", np.ones(3, np.float32)), put(m, "a_z", np.zeros(3, np.int8)))),
    "two zero points": ("counts", lambda m: put(m, "a_z", np.zeros(2, np.int8))),
    "activation by channel": ("activations", lambda m: (put(m, "s", np.ones(4, np.float32)), put(m, "z", np.zeros(4, np.int8)))),
    "Conv along inputs": ("weight axis", lambda m: of(m, "a").attribute[0].CopyFrom(ALONG_1[0])),
    "ConvTranspose along inputs": ("weight axis", lambda m: setattr(of(m, "t").attribute[0], "i", 0)),
    "MatMul along inputs": ("weight axis", lambda m: setattr(of(m, "g").attribute[0], "i", 1)),
    "weight -128": ("weight range", lambda m: put(m, "a_i", np.full((4, 4, 3, 3), -128, np.int8))),
    "uint8 is moved": ("uint8", transposed_counts),
    "int8 into a layer": ("int8 leaves", lambda m: read(m, "relu", 0, "xq_i")),
    "float input": ("all inputs", lambda m: read(m, "conv_a", 0, "x")),
    "float weights": ("all inputs", lambda m: read(m, "conv_a", 1, "a_s")),
    "integer bias": ("bias", integer_bias),
    "before the activation": ("outputs", before_relu),
    "behind the last layer": ("outputs", behind_the_last),
    "float residual": ("residual", lambda m: read(m, "sum", 1, "relu")),
    "both sides": ("sum", rounded_sides),
    "float output": ("both ends", float_output),
    "another input in float": ("both ends", lambda m: (read(m, "sum", 0, "relu"))),
    "two scales": ("equal scales", other_scale),
}  # fmt: skip


def test_a_good_graph_keeps_every_rule() -> None:
    assert [str(found) for found in violations(graph().SerializeToString())] == []


@pytest.mark.parametrize("name", BAD)
def test_a_spoiled_graph_breaks_its_rule(name: str) -> None:
    rule, spoil = BAD[name]
    made = graph()
    spoil(made)
    found = violations(made.SerializeToString())
    assert rule in {each.rule.name for each in found}
    assert all(each.rule.source and each.rule.says and each.node for each in found)


def test_every_rule_has_a_bad_graph_and_its_own_name() -> None:
    names = [rule.name for rule in RULES]
    assert len(set(names)) == len(names)
    assert {rule for rule, _ in BAD.values()} == set(names)


def test_every_rule_stands_in_the_docs() -> None:
    page = (HERE.parent / "docs" / "tensorrt.md").read_text()
    for rule in RULES:
        assert f"| {rule.name} | {rule.kind} | {rule.says} |" in page, rule.name


def written(path: Path, *changes: Callable[[onnx.ModelProto], object]) -> Path:
    made = graph()
    for change in changes:
        change(made)
    path.write_bytes(made.SerializeToString())
    return path


def test_the_command_says_which_rules_a_file_breaks(tmp_path: Path) -> None:
    done = edgeloop_here("check-tensorrt", written(tmp_path / "good.onnx"))
    assert done.returncode == 0
    assert done.stdout.endswith(f"no violations of {len(RULES)} rules\n")
    slow = edgeloop_here("check-tensorrt", written(tmp_path / "slow.onnx", BAD["float residual"][1]), "--json")
    (row,) = json.loads(slow.stdout)["violations"]
    assert (slow.returncode, row["rule"], row["kind"]) == (0, "residual", "slow")
    refused = edgeloop_here("check-tensorrt", written(tmp_path / "refused.onnx", BAD["zero point 3"][1]))
    assert "TensorRT would refuse it" in sentence(refused, 4)
    assert "'zero point': every zero point is 0" in refused.stdout


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [(None, 3, "cannot be read"), (b"no model", 4, "no ONNX file"), (b"", 4, "no ONNX file")],
    ids=["missing", "rubbish", "empty"],
)
def test_what_is_no_model_is_refused_in_a_sentence(content: bytes | None, code: int, words: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    assert words in sentence(edgeloop_here("check-tensorrt", path), code)
