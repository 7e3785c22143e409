"""Operators of newer sets, of optimized files, loops and functions: each import is compared with ONNX Runtime at several batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgeloop_exporters.onnx_import import read_onnx
from onnx_parts import BOOL, I64, MS, RNG, F, ints, model, node, picture, recurrent, weights, words


def peeping() -> onnx.ModelProto:
    nodes = [node("Transpose", "x", "a", perm=[1, 0, 2]), node("LSTM", "a w r b _ _ _ p", "c", hidden_size=5),
             node("Transpose", "c", "y", perm=[2, 0, 1, 3])]  # fmt: skip
    return words(*nodes, w=weights(1, 20, 8), r=weights(1, 20, 5), b=weights(1, 40), p=weights(1, 15))


def looping() -> onnx.ModelProto:
    """Three steps of a state, and the steps one behind the other."""
    body = helper.make_graph(
        [node("Identity", "go", "go_on"), node("Mul", "state factor", "half"), node("Add", "half x", "next"), node("Identity", "next", "seen")],
        "body", [helper.make_tensor_value_info(*v) for v in (("i", I64, []), ("go", BOOL, []), ("state", F, None))],
        [helper.make_tensor_value_info(*v) for v in (("go_on", BOOL, []), ("next", F, None), ("seen", F, None))],
    )  # fmt: skip
    nodes = [node("Loop", "count yes x", "last all", body=body), node("Transpose", "all", "b", perm=[1, 0, 2, 3]),
             node("ReduceSum", "b one", "c", keepdims=0), node("Add", "c last", "y")]  # fmt: skip
    return words(*nodes, count=ints(3), yes=np.array(True), factor=np.array(0.5, np.float32), one=ints(1))


def scanning() -> onnx.ModelProto:
    body = helper.make_graph(
        [node("Add", "state part", "next"), node("Tanh", "next", "seen")], "body",
        [helper.make_tensor_value_info(n, F, None) for n in ("state", "part")], [helper.make_tensor_value_info(n, F, None) for n in ("next", "seen")],
    )  # fmt: skip
    nodes = [node("ReduceMean", "x", "first", axes=[1], keepdims=0),
             node("Scan", "first x", "last y", body=body, num_scan_inputs=1, scan_input_axes=[1], scan_output_axes=[1], scan_input_directions=[1])]  # fmt: skip
    return words(*nodes)


def functional() -> onnx.ModelProto:
    """A function of the file itself that calls another one, with an attribute handed on."""
    inner = helper.make_function(
        "own", "Soft", ["a"], ["b"], [node("LeakyRelu", "a", "b")], [helper.make_opsetid("", 17)], ["alpha"]
    )
    inner.node[0].attribute.append(onnx.AttributeProto(name="alpha", ref_attr_name="alpha", type=onnx.AttributeProto.FLOAT))
    outer = helper.make_function(
        "own", "Twice", ["a"], ["c"], [node("Soft", "a", "t", domain="own", alpha=0.3), node("Soft", "t", "c", domain="own", alpha=0.1)],
        [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)],
    )  # fmt: skip
    made = words(node("Twice", "x", "y", domain="own"))
    made.functions.extend([inner, outer])
    made.opset_import.append(helper.make_opsetid("own", 1))
    return made


def halves() -> onnx.ModelProto:
    """As converters to 16 bits leave a file: what makes a node's input stands behind it."""
    return words(
        node("MatMul", "h w", "m"), node("Relu", "m", "r"), node("Cast", "r", "y", to=F), node("Cast", "x", "h", to=TensorProto.FLOAT16),
        w=weights(8, 4).astype(np.float16),
    )  # fmt: skip


def embedding() -> onnx.ModelProto:
    nodes = [node("EmbedLayerNormalization", "x _ words places _ g b _ _", "e m", domain=MS, epsilon=1e-5),
             node("Identity", "e", "y")]  # fmt: skip
    constants = {"words": weights(9, 8), "places": weights(7, 8), "g": weights(8), "b": weights(8)}
    return model(nodes, [("x", TensorProto.INT32, ["n", 6])], "y", 17, **constants)


def masked(kind: str) -> onnx.ModelProto:
    """Words of which some do not count: by each sample's number of words, or by a mask of ones and zeros."""
    nodes = [node("EmbedLayerNormalization", "x _ words places _ g b mask", "e lengths", domain=MS),
             node("Attention", f"e w c {kind}", "t", domain=MS, num_heads=2), node("SkipLayerNormalization", "t e g b", "y", domain=MS)]  # fmt: skip
    constants = {
        "words": weights(9, 8),
        "places": weights(7, 8),
        "g": weights(8),
        "b": weights(8),
        "w": weights(8, 24),
        "c": weights(24),
    }
    return model(nodes, [("x", TensorProto.INT32, ["n", 6]), ("mask", TensorProto.INT32, ["n", 6])], "y", 17, **constants)


QKV = {"wq": weights(8, 8), "wk": weights(8, 8), "wv": weights(8, 8)}
PRODUCTS = [node("MatMul", f"x w{n}", n) for n in "qkv"]
OLD_MASK = np.where(RNG.random((6, 6)) > 0.4, 0, -1e4).astype(np.float32)
NETWORKS: dict[str, onnx.ModelProto] = {
    "attention": words(*PRODUCTS, node("Attention", "q k v", "y", q_num_heads=2, kv_num_heads=2), opset=23, **QKV),
    "attention, causal, capped": words(
        *PRODUCTS, node("Attention", "q k v", "y", q_num_heads=4, kv_num_heads=4, is_causal=1, softcap=2.0, scale=0.7), opset=23, **QKV
    ),
    "attention, shared heads and a mask": words(
        *PRODUCTS, node("Attention", "q k v m", "y", q_num_heads=4, kv_num_heads=2), opset=23, m=OLD_MASK, wq=weights(8, 8), wk=weights(8, 4), wv=weights(8, 6)
    ),
    "rotary": words(
        node("Shape", "x", "n", end=1), node("Concat", "n six", "t", axis=0), node("Expand", "p t", "e"), node("RotaryEmbedding", "x c s e", "y", num_heads=2), opset=23, six=ints(6), c=np.cos(weights(9, 2)), s=np.sin(weights(9, 2)), p=ints(0, 1, 2, 3, 4, 5)[None]
    ),
    "rms": words(node("RMSNormalization", "x g", "y"), opset=23, g=weights(8)),
    "gelu, swish": words(node("Gelu", "x", "a", approximate="tanh"), node("Swish", "a", "y", alpha=1.3), opset=24),
    "gru as keras has it": recurrent("GRU"),
    "gru, both ways": recurrent("GRU", 2, direction="bidirectional"),
    "gru, clipped": recurrent("GRU", clip=0.3, linear_before_reset=1),
    "lstm with other activations": recurrent("LSTM", direction="reverse", activations=["HardSigmoid", "Relu", "Softsign"]),
    "lstm with peepholes": peeping(),
    "lstm of shorter sequences": recurrent("LSTM", lengths=4, direction="reverse"),
    "rnn of shorter sequences": recurrent("RNN", 2, lengths=3, direction="bidirectional"),
    "cubic": picture(helper.make_node("Resize", ["x", "", "s"], ["y"], mode="cubic"), s=np.array([1, 1, 2, 1.5], np.float32)),
    "cubic, inside only": picture(
        helper.make_node("Resize", ["x", "", "", "s"], ["y"], mode="cubic", exclude_outside=1, cubic_coeff_a=-0.5, axes=[2, 3]), s=ints(13, 7)
    ),
    "antialiased": picture(helper.make_node("Resize", ["x", "", "s"], ["y"], mode="linear", antialias=1), s=np.array([1, 1, 0.6, 0.5], np.float32)),
    "an odd scale": picture(
        helper.make_node("Resize", ["x", "", "s"], ["y"], mode="linear", coordinate_transformation_mode="asymmetric"), s=np.array([1, 1, 1.3, 0.7], np.float32)
    ),
    "grid": picture(
        node("Shape", "x", "n", end=1), node("Concat", "n t", "s", axis=0), node("Expand", "g s", "e"),
        node("GridSample", "x e", "y", padding_mode="border", align_corners=1), opset=20, g=weights(1, 5, 6, 2), t=ints(5, 6, 2),
    ),
    "ceiled average": picture(node("AveragePool", "x", "y", kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1], ceil_mode=1, count_include_pad=1), opset=19),
    "dilated average": picture(node("AveragePool", "x", "y", kernel_shape=[3, 3], dilations=[2, 2], pads=[1, 1, 1, 1]), opset=19),
    "lp": picture(node("LpPool", "x", "y", kernel_shape=[2, 3], p=3)),
    "maxima and their places": picture(
        node("MaxPool", "x", "p i", kernel_shape=[3, 2], strides=[3, 2]), node("MaxUnpool", "p i", "y", kernel_shape=[3, 2], strides=[3, 2])
    ),
    "last of equals": picture(node("Round", "x", "r"), node("ArgMax", "r", "i", axis=1, select_last_index=1), node("Cast", "i", "y", to=F)),
    "sums from behind": picture(node("CumSum", "x a", "y", exclusive=1, reverse=1), a=np.array(3, np.int64)),
    "wrapped": picture(node("Pad", "x p", "y", mode="wrap"), opset=19, p=ints(0, 1, 2, 0, 0, 0, 1, 3)),
    "hardmax": picture(node("Hardmax", "x", "y", axis=2)),
    "largest at places": picture(node("ScatterElements", "x i u", "y", axis=1, reduction="max"), i=np.zeros((1, 1, 9, 10), np.int64), u=weights(1, 1, 9, 10)),
    "spectrum": model([node("STFT", "x step w _", "y")], [("x", F, ["n", 40])], opset=17, step=np.array(5, np.int64), w=np.hanning(16).astype(np.float32)),
    "a loop of three steps": looping(),
    "a scan backwards": scanning(),
    "functions in the file": functional(),
    "pieces in a sequence": picture(
        node("SplitToSequence", "x two", "s", axis=1), node("SequenceAt", "s one", "p"), node("SequenceAt", "s minus", "q"), node("SequenceInsert", "s p", "t"),
        node("SequenceErase", "t zero", "u"), node("ConcatFromSequence", "u", "r", axis=1), node("SequenceConstruct", "p q", "v"),
        node("ConcatFromSequence", "v", "w", axis=1), node("Add", "r w", "y"), two=np.array(2, np.int64), one=np.array(1, np.int64),
        minus=np.array(-2, np.int64), zero=np.array(0, np.int64),
    ),
    "unsigned": words(
        node("Abs", "x", "a"), node("Cast", "a", "c", to=TensorProto.UINT16), node("Add", "c k", "s"), node("Sub", "s m", "d"), node("Cast", "d", "e", to=F),
        node("Mul", "e small", "y"), k=np.array(3, np.uint16), m=np.array(7, np.uint16), small=np.array(1e-4, np.float32),
    ),
    "halves, and a cast that stands last": halves(),
    "bias gelu": words(node("BiasGelu", "x b", "a", domain=MS), node("FastGelu", "a b", "c", domain=MS), node("QuickGelu", "c", "y", domain=MS), b=weights(8)),
    "skip norm": words(
        node("Neg", "x", "r"), node("SkipLayerNormalization", "x r g b e", "a _ _ t", domain=MS), node("Mul", "a t", "c"),
        node("SkipSimplifiedLayerNormalization", "c x g", "y", domain=MS), g=weights(8), b=weights(8), e=weights(8),
    ),
    "fused matmul": words(node("FusedMatMul", "x x", "a", domain=MS, transB=1, alpha=0.3), node("FusedMatMul", "a w", "y", domain=MS, alpha=2.0), w=weights(6, 5)),
    "fused attention": words(node("Attention", "x w b", "y", domain=MS, num_heads=2, unidirectional=1), w=weights(8, 24), b=weights(24)),
    "many heads": words(*PRODUCTS, node("MultiHeadAttention", "q k v b", "y", domain=MS, num_heads=2), b=weights(24), **QKV),
    "embedding": embedding(),
    "attention with lengths": masked("lengths"),
    "attention with a mask": masked("mask"),
    "many heads with a mask": model(
        [*PRODUCTS, node("MultiHeadAttention", "q k v _ mask", "y", domain=MS, num_heads=2)],
        [("x", F, ["n", 6, 8]), ("mask", TensorProto.INT32, ["n", 6])], "y", 17, **QKV,
    ),
    "convolution with its activation": picture(
        node("FusedConv", "x w b", "c", domain=MS, activation="LeakyRelu", activation_params=[0.2]), node("FusedConv", "x w b c", "d", domain=MS, activation="Relu"),
        node("Add", "c d", "y"), w=weights(5, 4, 3, 3), b=weights(5),
    ),
    "dense with its activation": words(
        node("Flatten", "x", "f"), node("FusedGemm", "f w b", "y", domain=MS, activation="Tanh", alpha=0.5), w=weights(48, 5), b=weights(5)
    ),
    "rotary of optimizers": words(
        node("Shape", "x", "n", end=1), node("Concat", "n six", "t", axis=0), node("Expand", "p t", "e"), node("RotaryEmbedding", "x e c s", "y", domain=MS, num_heads=2),
        six=ints(6), p=ints(0, 1, 2, 3, 4, 5)[None], c=np.cos(weights(9, 2)), s=np.sin(weights(9, 2)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_an_operator_answers_as_in_onnx_runtime_at_every_batch(name: str, tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(NETWORKS[name].SerializeToString())
    assert read_onnx(tmp_path / "net.onnx").outputs  # compared with ONNX Runtime at batches of 1, 2 and 5
