"""One operator each between two layers: from `a`, (N, 8, 8, 8) or (N, 8, 12), to `b`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import TensorProto, helper

FLOAT, BOOL = TensorProto.FLOAT, TensorProto.BOOL
RNG = np.random.default_rng(5)


@dataclass(frozen=True)
class Part:
    """`picture`: whether `a` is (N, 8, 8, 8), else (N, 8, 12)."""

    nodes: Sequence[Any]
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    picture: bool = True
    opset: int = 18


def node(kind: str, given: str, made: str, **attributes: Any) -> Any:
    names = [["" if name == "_" else name for name in text.split()] for text in (given, made)]
    return helper.make_node(kind, *names, **attributes)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def number(value: float) -> np.ndarray:
    return np.array(value, np.float32)


def some(*shape: int) -> np.ndarray:
    return (RNG.normal(size=shape) * 0.4).astype(np.float32)


def one(kind: str, **attributes: Any) -> Part:
    return Part([node(kind, "a", "b", **attributes)])


def inside(kind: str, **attributes: Any) -> Part:
    """Of values between 0.1 and 0.9."""
    return Part(
        [node("Sigmoid", "a", "s"), node("Clip", "s low high", "t"), node(kind, "t", "b", **attributes)],
        {"low": number(0.1), "high": number(0.9)},
    )


def logical(*nodes: Any, **constants: np.ndarray) -> Part:
    """`a` is compared, and the answer `r` becomes a number."""
    given = {"zero": number(0), "half": number(0.5), **constants}
    return Part([node("Greater", "a zero", "p"), node("Less", "a half", "q"), *nodes, node("Cast", "r", "b", to=FLOAT)], given)


def with_axes(kind: str, *axes: int, opset: int = 18, **attributes: Any) -> Part:
    return Part([node(kind, "a axes", "b", **attributes)], {"axes": ints(*axes)}, opset=opset)


def beside(kind: str, *shape: int, opset: int = 18, **attributes: Any) -> Part:
    return Part([node(kind, "a k", "b", **attributes)], {"k": np.abs(some(*shape)) + 0.5}, opset=opset)


def series(*nodes: Any, opset: int = 18, **constants: np.ndarray) -> Part:
    """Over (N, 12, 8): words with 8 values each, as `t`; the answer `u` is turned back."""
    return Part(
        [node("Transpose", "a", "t", perm=[0, 2, 1]), *nodes, node("Transpose", "u", "b", perm=[0, 2, 1])], constants, False, opset
    )


def recurrent(kind: str, **attributes: Any) -> Part:
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind]
    nodes = [node("Transpose", "a", "t", perm=[2, 0, 1]), node(kind, "t w r bias", "u", hidden_size=6, **attributes),
             node("Squeeze", "u first", "v"), node("Transpose", "v", "b", perm=[1, 2, 0])]  # fmt: skip
    constants = {"w": some(1, gates * 6, 8), "r": some(1, gates * 6, 6), "bias": some(1, gates * 12), "first": ints(1)}
    return Part(nodes, constants, False)


QKV = [node("MatMul", "t wq", "q"), node("MatMul", "t wk", "k"), node("MatMul", "t wv", "v")]
WEIGHTS = {"wq": some(8, 8), "wk": some(8, 8), "wv": some(8, 8)}
UNARY = ("Abs", "Atan", "Ceil", "Cos", "Elu", "Erf", "Exp", "Floor", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Neg", "Relu",
         "Round", "Selu", "Sigmoid", "Sign", "Sin", "Softplus", "Softsign", "Tanh", "Mish", "Celu", "ThresholdedRelu", "Sinh", "Cosh", "Asinh",
         "GlobalAveragePool", "GlobalMaxPool")  # fmt: skip
INSIDE = ("Acos", "Asin", "Atanh", "Log", "Reciprocal", "Sqrt", "Tan")
REDUCE = (
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
)
TWO = ("Add", "Sub", "Mul", "Div", "Max", "Min", "PRelu", "Mean", "Sum")

PARTS: dict[str, Part] = {
    **{kind: one(kind) for kind in UNARY},
    **{kind: inside(kind) for kind in INSIDE},
    **{kind: with_axes(kind, 2, 3, keepdims=1) for kind in REDUCE},
    **{kind: beside(kind, 1 if kind in ("Mean", "Sum", "Max", "Min") else 8, 1, 1) for kind in TWO},
    "Acosh": Part([node("Relu", "a", "r"), node("Add", "r one", "s"), node("Acosh", "s", "b")], {"one": number(1.5)}),
    "And": logical(node("And", "p q", "r")), "Or": logical(node("Or", "p q", "r")), "Xor": logical(node("Xor", "p q", "r")),
    "Not": logical(node("Not", "p", "r")), "Equal": logical(node("Equal", "a zero", "r")),
    "Greater": logical(node("Greater", "a half", "r")), "GreaterOrEqual": logical(node("GreaterOrEqual", "a half", "r")),
    "Less": logical(node("Less", "a half", "r")), "LessOrEqual": logical(node("LessOrEqual", "a half", "r")),
    "IsNaN": logical(node("IsNaN", "a", "n"), node("Or", "n p", "r")), "IsInf": logical(node("IsInf", "a", "n"), node("Or", "n p", "r")),
    "Where": Part([node("Greater", "a zero", "p"), node("Where", "p a half", "b")], {"zero": number(0), "half": number(0.5)}),
    "Pow": Part([node("Pow", "a two", "b")], {"two": number(2)}),
    "Mod": Part([node("Mod", "a two", "b", fmod=1)], {"two": number(2)}),
    "Clip": Part([node("Clip", "a low high", "b")], {"low": number(-0.5), "high": number(0.7)}),
    "Cast": Part([node("Cast", "a", "i", to=TensorProto.INT32), node("Cast", "i", "b", to=FLOAT)]),
    "Dropout": one("Dropout"), "MeanVarianceNormalization": one("MeanVarianceNormalization", axes=[2, 3]),
    "Gelu": Part([node("Gelu", "a", "b")], opset=20),
    "Swish": Part([node("Swish", "a", "b")], opset=24),
    "Shrink": one("Shrink", lambd=0.3, bias=0.3),
    "Softmax": one("Softmax", axis=1), "LogSoftmax": one("LogSoftmax", axis=1), "Hardmax": one("Hardmax", axis=1),
    "LRN": one("LRN", size=3), "LpNormalization": one("LpNormalization", axis=1),
    "BatchNormalization": Part([node("BatchNormalization", "a s o m v", "b")], {"s": some(8), "o": some(8), "m": some(8), "v": np.abs(some(8)) + 0.5}),
    "InstanceNormalization": Part([node("InstanceNormalization", "a s o", "b")], {"s": some(8), "o": some(8)}),
    "GroupNormalization": Part([node("GroupNormalization", "a s o", "b", num_groups=2)], {"s": some(8), "o": some(8)}, opset=21),
    "LayerNormalization": series(node("LayerNormalization", "t g h", "u"), g=some(8) + 1, h=some(8)),
    "RMSNormalization": series(node("RMSNormalization", "t g", "u"), opset=23, g=some(8) + 1),
    "Attention": series(*QKV, node("Attention", "q k v", "u", q_num_heads=2, kv_num_heads=2), opset=23, **WEIGHTS),
    "RotaryEmbedding": series(
        *QKV, node("Shape", "t", "n", end=1), node("Concat", "n twelve", "s", axis=0), node("Expand", "p s", "e"),
        node("RotaryEmbedding", "q cosines sines e", "u", num_heads=2), opset=23, twelve=ints(12), p=np.arange(12)[None], cosines=np.cos(some(12, 2)), sines=np.sin(some(12, 2)), **WEIGHTS,
    ),
    "MatMul": series(node("MatMul", "t w", "u"), w=some(8, 8)),
    "Gemm": Part([node("GlobalAveragePool", "a", "g"), node("Flatten", "g", "f"), node("Gemm", "f w", "b")], {"w": some(8, 6)}),
    "Einsum": series(node("Einsum", "t w", "u", equation="nsc,cd->nsd"), w=some(8, 8)),
    "LSTM": recurrent("LSTM"), "GRU": recurrent("GRU", linear_before_reset=1), "RNN": recurrent("RNN"),
    "Conv": Part([node("Conv", "a w", "b", pads=[1, 1, 1, 1], group=8)], {"w": some(8, 1, 3, 3)}),
    "ConvTranspose": Part([node("ConvTranspose", "a w", "b", strides=[2, 2])], {"w": some(8, 6, 2, 2)}),
    "DeformConv": Part(
        [node("Conv", "a wo", "o", pads=[1, 1, 1, 1]), node("DeformConv", "a w o", "b", pads=[1, 1, 1, 1])], {"wo": some(18, 8, 3, 3) * 0.1, "w": some(6, 8, 3, 3)}, opset=19
    ),
    "MaxPool": one("MaxPool", kernel_shape=[2, 2], strides=[2, 2]), "AveragePool": one("AveragePool", kernel_shape=[2, 2], strides=[2, 2]),
    "LpPool": one("LpPool", kernel_shape=[2, 2], strides=[2, 2]), "GlobalLpPool": one("GlobalLpPool"),
    "MaxUnpool": Part([node("MaxPool", "a", "m i", kernel_shape=[2, 2], strides=[2, 2]), node("MaxUnpool", "m i", "b", kernel_shape=[2, 2], strides=[2, 2])]),
    "ReduceLogSum": Part([node("Exp", "a", "e"), node("ReduceLogSum", "e axes", "b")], {"axes": ints(2, 3)}),
    "ArgMax": Part([node("ArgMax", "a", "i", axis=1), node("Cast", "i", "b", to=FLOAT)]), "ArgMin": Part([node("ArgMin", "a", "i", axis=1), node("Cast", "i", "b", to=FLOAT)]),
    "TopK": Part([node("TopK", "a k", "b i", axis=3)], {"k": ints(3)}),
    "CumSum": Part([node("CumSum", "a k", "b")], {"k": np.array(3, np.int64)}), "CumProd": Part([node("CumProd", "a k", "b")], {"k": np.array(3, np.int64)}, opset=26),
    "Concat": Part([node("Relu", "a", "r"), node("Concat", "a r", "b", axis=1)]),
    "Split": Part([node("Split", "a", "p q", axis=1, num_outputs=2), node("Mul", "p q", "b")]),
    "Slice": Part([node("Slice", "a s e x", "b")], {"s": ints(2), "e": ints(7), "x": ints(3)}),
    "Reshape": Part([node("Reshape", "a s", "b")], {"s": ints(0, 8, 64)}), "Flatten": one("Flatten"),
    "Transpose": one("Transpose", perm=[0, 1, 3, 2]), "Squeeze": Part([node("Unsqueeze", "a x", "u"), node("Relu", "u", "r"), node("Squeeze", "r x", "b")], {"x": ints(1)}),
    "Unsqueeze": with_axes("Unsqueeze", 2), "Expand": Part([node("ReduceMean", "a x", "m"), node("Expand", "m s", "b")], {"x": ints(3), "s": ints(1, 1, 1, 6)}),
    "Tile": Part([node("Tile", "a r", "b")], {"r": ints(1, 1, 2, 1)}), "Pad": Part([node("Pad", "a p", "b", mode="reflect")], {"p": ints(0, 0, 1, 1, 0, 0, 2, 0)}),
    "DepthToSpace": one("DepthToSpace", blocksize=2), "SpaceToDepth": one("SpaceToDepth", blocksize=2), "Trilu": one("Trilu", upper=1),
    "Gather": Part([node("Gather", "a i", "b", axis=1)], {"i": ints(1, 3, 3, 0)}),
    "GatherND": Part([node("Transpose", "a", "t", perm=[1, 0, 2, 3]), node("GatherND", "t i", "g"), node("Transpose", "g", "b", perm=[1, 0, 2, 3])], {"i": ints(1, 3, 5)[:, None]}),
    "OneHot": Part([node("ArgMax", "a", "i", axis=1, keepdims=0), node("OneHot", "i d v", "b", axis=1)], {"d": ints(8), "v": np.array([0, 1], np.float32)}),
    "Compress": Part([node("Compress", "a c", "b", axis=3)], {"c": np.array([1, 0, 1, 1, 0, 1, 0, 1], bool)}),
    "ReverseSequence": Part([node("Transpose", "a", "t", perm=[2, 1, 3, 0]), node("ReverseSequence", "t l", "u", time_axis=0, batch_axis=1), node("Transpose", "u", "b", perm=[3, 1, 0, 2])], {"l": ints(*[5] * 8)}),
    "Resize": Part([node("Resize", "a _ s", "b", mode="linear")], {"s": np.array([1, 1, 2, 2], np.float32)}),
    "Upsample": Part([node("Upsample", "a s", "b")], {"s": np.array([1, 1, 2, 2], np.float32)}, opset=9),
    "GridSample": Part(
        [node("Shape", "a", "n", end=1), node("Concat", "n t", "s", axis=0), node("Expand", "g s", "e"), node("GridSample", "a e", "b")], {"g": some(1, 5, 6, 2), "t": ints(5, 6, 2)}, opset=20
    ),
    "Col2Im": Part([node("Reshape", "a s", "r"), node("Col2Im", "r i k", "b", strides=[2, 2])], {"s": ints(0, 32, 16), "i": ints(8, 8), "k": ints(2, 2)}),
    "CenterCropPad": Part([node("CenterCropPad", "a s", "b", axes=[2, 3])], {"s": ints(5, 10)}),
    "DFT": Part([node("Reshape", "a s", "r"), node("DFT", "r _ axis", "d", onesided=1), node("ReduceSumSquare", "d last", "b", keepdims=0)], {"s": ints(0, 0, 64, 1), "axis": np.array(2, np.int64), "last": ints(3)}, opset=20),
    "STFT": Part([node("ReduceMean", "a one", "m", keepdims=0), node("STFT", "m step w _", "f"), node("ReduceSumSquare", "f last", "b", keepdims=0)], {"one": ints(1), "step": np.array(2, np.int64), "w": np.hanning(6).astype(np.float32), "last": ints(3)}, picture=False),
    "Det": one("Det"),
}  # fmt: skip
