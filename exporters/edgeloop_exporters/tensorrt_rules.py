"""What TensorRT asks of an ONNX file with int8 inside, as a table of rules: each with its source and a test.

The parser refuses a file that breaks a rule of the first kind. One that breaks a rule of the second kind ("slow") runs, and
TensorRT computes layers with more bits, or moves data, where integers were meant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from edgeloop_exporters.tensorrt_graph import MOVES, QdqGraph, weighted_axis

__all__ = ["RULES", "Rule", "Violation", "violations"]

GUIDE = "NVIDIA TensorRT documentation, Explicit Quantization"
SCHEME = "NVIDIA TensorRT documentation, Working with Quantized Types, Introduction to Quantization"
OPERATORS = "onnx-tensorrt 10.1, docs/operators.md, Operator Support Matrix"
PARSER = "onnx-tensorrt 10.1, onnxOpImporters.cpp, QuantDequantLinearHelper"
GUIDE_7 = "TensorRT 7 developer guide, Working With Quantized Networks"
PLACEMENT = f"{GUIDE}, Q/DQ Layer-Placement Recommendations"

OPSETS = range(13, 21)
NOT_SUPPORTED = {
    "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear", "AffineGrid", "Bernoulli", "BitShift",
    "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "BlackmanWindow", "CenterCropPad", "Col2Im", "Compress", "DFT", "Det",
    "HammingWindow", "HannWindow", "ImageDecoder", "MaxRoiPool", "MaxUnpool", "MelWeightMatrix", "Multinomial", "Optional",
    "RegexFullMatch", "STFT", "SequenceAt", "SequenceConstruct", "SplitToSequence", "StringNormalizer", "TfIdfVectorizer", "Unique",
}  # fmt: skip
CROSSINGS = ("QuantizeLinear", "DequantizeLinear")
ACTIVATIONS = {"Relu", "Clip", "LeakyRelu", "Sigmoid", "Tanh", "HardSwish", "HardSigmoid", "BatchNormalization", "PRelu", "Elu"}
# Without weights, and no mover: with int8 inputs TensorRT wants an int8 output too.
QUANTIZABLE = {"Add", "Mul", "Sub", "AveragePool", "GlobalAveragePool", "Concat", "ReduceMean"}

Found = Iterator[tuple[Any, str]]


@dataclass(frozen=True)
class Rule:
    """`kind` "refused": the parser says no; "slow": it runs, and not as meant. `broken` gives each node that breaks it, and how."""

    name: str
    kind: Literal["refused", "slow"]
    says: str
    source: str
    broken: Callable[[QdqGraph], Found]


@dataclass(frozen=True)
class Violation:
    rule: Rule
    node: str
    what: str

    def __str__(self) -> str:
        return f"{self.node}: {self.what} (rule {self.rule.name!r}: {self.rule.says}; {self.rule.source})"


def violations(model: bytes) -> list[Violation]:
    """Every place where an ONNX file breaks a rule, rule by rule; [] for none. Raises ModelError for what is no ONNX file."""
    graph = QdqGraph.of_bytes(model)
    return [Violation(rule, graph.name(node), what) for rule in RULES for node, what in rule.broken(graph)]


def _opset(graph: QdqGraph) -> Found:
    if graph.opset not in OPSETS:
        yield None, f"opset {graph.opset}"


def _operators(graph: QdqGraph) -> Found:
    for node in graph.nodes:
        if node.op_type in NOT_SUPPORTED or node.domain not in ("", "ai.onnx"):
            yield node, f"operator {node.op_type}{f' of {node.domain}' if node.domain else ''}"


def _int8(graph: QdqGraph) -> Found:
    for node in graph.of(*CROSSINGS):
        zero = graph.constant(node, 2)
        data = graph.constant(node, 0) if node.op_type == "DequantizeLinear" else None
        for value in (zero, data):
            if value is not None and value.dtype != np.int8:
                yield node, f"is {value.dtype}"
                break
        else:
            if node.op_type == "QuantizeLinear" and zero is None and graph.attribute(node, "output_dtype", 0) != graph.INT8:
                yield node, "has no zero point, and makes uint8"


def _zero(graph: QdqGraph) -> Found:
    for node in graph.of(*CROSSINGS):
        zero = graph.constant(node, 2)
        if zero is not None and zero.any():
            yield node, f"zero point {int(zero.reshape(-1)[np.flatnonzero(zero)[0]])}"
        elif zero is None and len(node.input) > 2 and node.input[2]:
            yield node, "zero point that is computed"


def _scale(graph: QdqGraph) -> Found:
    for node in graph.of(*CROSSINGS):
        scale = graph.constant(node, 1)
        if scale is None:
            yield node, "scale that is computed"
        elif not scale.size or not (np.isfinite(scale).all() and (scale > 0).all()):
            yield node, "scale that is not above zero and finite"


def _counts(graph: QdqGraph) -> Found:
    for node in graph.of(*CROSSINGS):
        scale, zero, data = (graph.constant(node, place) for place in (1, 2, 0))
        if scale is None:
            continue
        if zero is not None and zero.size != scale.size:
            yield node, f"{scale.size} scales and {zero.size} zero points"
        elif data is not None and scale.size > 1 and data.shape[graph.attribute(node, "axis", 1) % data.ndim] != scale.size:
            yield node, f"{scale.size} scales for {data.shape[graph.attribute(node, 'axis', 1) % data.ndim]} outputs"


def _per_tensor(graph: QdqGraph) -> Found:
    for node in graph.of(*CROSSINGS):
        scale = graph.constant(node, 1)
        if scale is not None and scale.size > 1 and not graph.is_weight(node):
            yield node, f"{scale.size} scales for an activation"


def _weight_axis(graph: QdqGraph) -> Found:
    for node in graph.weighted():
        weight = graph.dequantized_weight(node)
        scale = graph.constant(weight, 1) if weight is not None else None
        if weight is None or scale is None or scale.size == 1:
            continue
        axis, wanted = graph.axis_at_layer(node, weight), weighted_axis(graph, node)
        if wanted is not None and axis != wanted:
            yield node, f"weights with scales along axis {axis}, where outputs are axis {wanted}"


def _weight_range(graph: QdqGraph) -> Found:
    for node in graph.of("DequantizeLinear"):
        data = graph.constant(node, 0)
        if data is not None and data.dtype == np.int8 and (data == -128).any():
            yield node, "weight −128"


def _uint8(graph: QdqGraph) -> Found:
    for entry in graph.uint8_inputs():
        for node in graph.readers(entry):
            if node.op_type != "Cast":
                yield node, f"reads the uint8 input {entry!r}"


def _leaves(graph: QdqGraph) -> Found:
    for node in graph.of("QuantizeLinear"):
        for reader in graph.readers(node.output[0]):
            if reader.op_type not in ("DequantizeLinear", *MOVES):
                yield reader, "reads int8 itself"


def _all_inputs(graph: QdqGraph) -> Found:
    for node in graph.weighted():
        weight = graph.dequantized_weight(node) is not None
        data = graph.comes_rounded(node.input[0])
        if graph.is_product(node):
            weight = graph.comes_rounded(node.input[1])
        if weight != data:
            yield node, f"int8 {'weights' if weight else 'input'}, and {'input' if weight else 'weights'} in float"


def _bias(graph: QdqGraph) -> Found:
    for node in graph.weighted():
        made = graph.made(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        if made is not None and made.op_type == "DequantizeLinear":
            yield node, "bias in integers"


def _between(graph: QdqGraph) -> Found:
    for node in graph.weighted():
        for quantize in graph.readers(node.output[0]):
            if quantize.op_type != "QuantizeLinear" or not graph.is_layer(node):
                continue
            ends = [end for dequantize in graph.readers(quantize.output[0]) for end in graph.readers(dequantize.output[0])]
            if ends and all(end.op_type in ACTIVATIONS for end in ends):
                yield node, f"Q/DQ between it and {ends[0].op_type}"
            if not ends and any(graph.is_output(d.output[0]) for d in graph.readers(quantize.output[0])):
                yield node, "Q/DQ behind the last layer"


def _sums(graph: QdqGraph) -> Iterator[tuple[Any, list[bool], list[bool]]]:
    """Sums of two activations whose result is rounded: which sides are a layer with weights, in float; which are rounded."""
    for node in graph.of("Add"):
        if any(graph.is_constant(name) for name in node.input) or not graph.goes_rounded(node):
            continue
        made = [graph.made(name) for name in node.input]
        layers = [m is not None and graph.is_layer(m) and len(graph.readers(m.output[0])) == 1 for m in made]
        yield node, layers, [graph.comes_rounded(name) for name in node.input]


def _residual(graph: QdqGraph) -> Found:
    for node, layers, rounded in _sums(graph):
        if any(layers) and not any(rounded):
            yield node, "sum of a layer and a residual input in float"


def _fused_side(graph: QdqGraph) -> Found:
    for node, _, rounded in _sums(graph):
        behind = [graph.layer_behind(name) for name in node.input]
        if all(rounded) and any(behind):
            yield node, "both sides of the sum are rounded, so that no layer computes it"


def _both_ends(graph: QdqGraph) -> Found:
    for node in graph.nodes:
        if node.op_type not in QUANTIZABLE:
            continue
        inputs = [name for name in node.input if not graph.is_constant(name)]
        rounded = [graph.comes_rounded(name) for name in inputs]
        by_layer = node.op_type == "Add" and any(m is not None and graph.is_layer(m) for m in map(graph.made, inputs))
        if any(rounded) and not by_layer and not (all(rounded) and graph.goes_rounded(node)):
            yield node, f"int8 input, and {'output' if all(rounded) else 'another input'} in float"


def _equal_scales(graph: QdqGraph) -> Found:
    for node in graph.nodes:
        if node.op_type not in MOVES or (before := graph.made(node.input[0])) is None or before.op_type != "DequantizeLinear":
            continue
        for after in graph.readers(node.output[0]):
            a, b = graph.constant(before, 1), graph.constant(after, 1) if after.op_type == "QuantizeLinear" else None
            if a is not None and b is not None and not np.array_equal(a.reshape(-1), b.reshape(-1)):
                yield node, "Q/DQ with different scales before and behind it"


RULES = (
    Rule("opset", "refused", "opset 13 to 20", f"{GUIDE}, ONNX Support (axis from opset 13); {OPERATORS}", _opset),
    Rule("operators", "refused", "Q/DQ around float operators, no integer operators", OPERATORS, _operators),
    Rule("int8", "refused", "integers are int8, never uint8", f"{SCHEME}; {PARSER}", _int8),
    Rule("zero point", "refused", "every zero point is 0 and constant", f"{OPERATORS}; {PARSER}", _zero),
    Rule("scale", "refused", "every scale is constant, finite and above zero", PARSER, _scale),
    Rule("counts", "refused", "one scale, or one for each output, and as many zero points", PARSER, _counts),
    Rule("activations", "refused", "one scale for an activation", f"{PARSER}; {PLACEMENT}", _per_tensor),
    Rule("weight axis", "refused", "scales of weights along their outputs", f"{GUIDE}, Quantized Weights; {PARSER}", _weight_axis),
    Rule("weight range", "slow", "weights from −127 to 127", GUIDE_7, _weight_range),
    Rule("uint8", "refused", "uint8 only as input or output of the file, and cast at once", f"{OPERATORS} (UINT8)", _uint8),
    Rule("int8 leaves", "refused", "int8 is read by DequantizeLinear, or moved", f"{OPERATORS} (quantized types)", _leaves),
    Rule("all inputs", "slow", "all inputs of layers with weights are rounded, or none", PLACEMENT, _all_inputs),
    Rule("bias", "slow", "biases stay in float", PLACEMENT, _bias),
    Rule("outputs", "slow", "no Q/DQ between a layer and its activation, nor behind the last one", PLACEMENT, _between),
    Rule("residual", "slow", "the residual input of a sum is rounded, so that layer, sum and Q become one", PLACEMENT, _residual),
    Rule("sum", "slow", "the layer's own side of a sum is not rounded", PLACEMENT, _fused_side),
    Rule("both ends", "slow", "an operation with int8 inputs and no weights has an int8 output", PLACEMENT, _both_ends),
    Rule("equal scales", "slow", "one scale before and behind what only moves values", f"{GUIDE}, Q/DQ Limitations", _equal_scales),
)  # fmt: skip
