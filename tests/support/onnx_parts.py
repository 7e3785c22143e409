"""Small ONNX files for the importer."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

F, I64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
RNG = np.random.default_rng(1)
MS = "com.microsoft"


def node(kind: str, given: str, made: str, domain: str = "", **attributes: Any) -> onnx.NodeProto:
    """`_` stands for an input or output that is left out."""
    names = [["" if name == "_" else name for name in text.split()] for text in (given, made)]
    return helper.make_node(kind, *names, domain=domain, **attributes)


def weights(*shape: int) -> np.ndarray:
    return (RNG.normal(size=shape) * 0.4).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def model(
    nodes: list[onnx.NodeProto],
    inputs: list[Any],
    outputs: str = "y",
    opset: int = 17,
    functions: Any = (),
    **constants: np.ndarray,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info(*given) for given in inputs], [helper.make_tensor_value_info(name, F, None) for name in outputs.split()],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )  # fmt: skip
    sets = [helper.make_opsetid("", opset), helper.make_opsetid(MS, 1), *(helper.make_opsetid(f.domain, 1) for f in functions)]
    return helper.make_model(graph, opset_imports=sets, ir_version=10, functions=list(functions))


def words(*nodes: onnx.NodeProto, opset: int = 17, outputs: str = "y", **constants: np.ndarray) -> onnx.ModelProto:
    """(N, 6, 8)."""
    return model(list(nodes), [("x", F, ["n", 6, 8])], outputs, opset, **constants)


def picture(*nodes: onnx.NodeProto, opset: int = 18, outputs: str = "y", **constants: np.ndarray) -> onnx.ModelProto:
    return model(list(nodes), [("x", F, ["n", 4, 9, 10])], outputs, opset, **constants)


def recurrent(kind: str, both: int = 1, lengths: int | None = None, **more: Any) -> onnx.ModelProto:
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind]
    extra = " l" if lengths else ""
    constants: dict[str, Any] = {"w": weights(both, gates * 5, 8), "r": weights(both, gates * 5, 5), "b": weights(both, gates * 10)}
    nodes = [node("Transpose", "x", "a", perm=[1, 0, 2]), node(kind, f"a w r b{extra}", "c h", hidden_size=5, **more),
             node("Transpose", "c", "y", perm=[2, 0, 1, 3]), node("Transpose", "h", "z", perm=[1, 0, 2])]  # fmt: skip
    if lengths:
        constants["l"] = np.array([lengths], np.int32)
        return model(nodes, [("x", F, [1, 6, 8])], "y z", **constants)
    return words(*nodes, outputs="y z", **constants)


GIVEN: list[Any] = [("i", I64, []), ("go", BOOL, []), ("state", F, None)]
MADE: list[Any] = [("go_on", BOOL, []), ("next", F, None)]
LOOPED = helper.make_graph(
    [node("Identity", "go", "go_on"), node("Tanh", "state", "next")], "body",
    [helper.make_tensor_value_info(*value) for value in GIVEN], [helper.make_tensor_value_info(*value) for value in MADE],
)  # fmt: skip
