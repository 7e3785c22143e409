"""An ONNX model as the common graph; branches and loops are laid beside the rest."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterator
from math import prod
from typing import Any

from edgeloop_exporters.model_files.graph import Constant, Graph, Kind, Operator
from edgeloop_exporters.model_files.onnx_kinds import FEEDS, KINDS, OPERANDS

__all__ = ["all_graphs", "dtype_name", "graph_of", "shape_of"]

NATIVE = {3: "NCW", 4: "NCHW", 5: "NCDHW"}
INTEGER_RESULTS = {
    "QLinearConv", "QLinearMatMul", "QLinearAdd", "QLinearMul", "QLinearAveragePool", "QLinearGlobalAveragePool", "QLinearConcat",
    "QLinearLeakyRelu", "QLinearSigmoid", "QLinearSoftmax", "QLinearConvTranspose", "QGemm",
}  # fmt: skip
MAX_DEPTH = 16  # of branches in branches


def dtype_name(number: int) -> str:
    """numpy's name of an ONNX element type; "bfloat16", "string", "int4" … for what numpy has no name for."""
    from onnx import TensorProto

    names = {"FLOAT": "float32", "DOUBLE": "float64"}
    try:
        name = str(TensorProto.DataType.Name(number))
    except ValueError:
        return f"type {number}"
    return names.get(name, name.lower())


def shape_of(tensor_type: Any) -> tuple[int | None, ...] | None:
    if not tensor_type.HasField("shape"):
        return None
    return tuple(d.dim_value if d.WhichOneof("value") == "dim_value" and d.dim_value >= 0 else None for d in tensor_type.shape.dim)


def all_graphs(graph: Any, depth: int = 0) -> Iterator[Any]:
    """The graph and those of its branches and loops."""
    yield graph
    if depth < MAX_DEPTH:
        for node in graph.node:
            for attribute in node.attribute:
                for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                    yield from all_graphs(inner, depth + 1)


def graph_of(model: Any) -> Graph:
    """The common form. Tensors keep their names; those made in a branch get its number before them."""
    builder = _Builder()
    builder.add(model.graph, "", ChainMap(), 0)
    constants = {i.name for i in model.graph.initializer} | {i.values.name for i in model.graph.sparse_initializer}
    return Graph(
        inputs=tuple(i.name for i in model.graph.input if i.name not in constants),
        outputs=tuple(o.name for o in model.graph.output),
        operators=tuple(builder.operators),
        constants=builder.constants,
        native=NATIVE,
        types=builder.types,
        ranks=builder.ranks,
    )


class _Builder:
    def __init__(self) -> None:
        self.operators: list[Operator] = []
        self.constants: dict[str, Constant] = {}
        self.types: dict[str, str] = {}
        self.ranks: dict[str, int] = {}
        self.branches = 0

    def add(self, graph: Any, prefix: str, outer: ChainMap[str, str], depth: int) -> ChainMap[str, str]:
        """Adds a graph; returns how its tensors are called here."""
        names = outer.new_child()
        for tensor in graph.initializer:
            names[tensor.name] = prefix + tensor.name
            self.constants[prefix + tensor.name] = Constant(dtype_name(tensor.data_type), prod(tensor.dims))
        for value in (*graph.input, *graph.value_info, *graph.output):
            names.setdefault(value.name, prefix + value.name)
            if value.type.HasField("tensor_type"):
                self.types.setdefault(names[value.name], dtype_name(value.type.tensor_type.elem_type))
                if (shape := shape_of(value.type.tensor_type)) is not None:
                    self.ranks.setdefault(names[value.name], len(shape))
        for node in graph.node:
            for made in node.output:
                names[made] = prefix + made
            self._node(node, names, depth)
        names[""] = ""
        return names

    def _node(self, node: Any, names: ChainMap[str, str], depth: int) -> None:
        made = tuple(names.get(o, o) if o else "" for o in node.output)
        reads = tuple(names.get(i, i) if i else "" for i in node.input)
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value" and made:
                    self.constants[made[0]] = Constant(dtype_name(attribute.t.data_type), prod(attribute.t.dims))
                elif made:
                    self.constants[made[0]] = Constant("", 0)
            return
        if depth < MAX_DEPTH and (inner := [a.g for a in node.attribute if a.HasField("g")]):
            for graph in inner:
                self.branches += 1
                inside = self.add(graph, f"{self.branches}/", names, depth + 1)
                # A branch gives its outputs in order; a loop's are shifted by its condition, and not followed.
                if node.op_type == "If":
                    for name, output in zip(made, graph.output, strict=False):
                        self.operators.append(Operator("same", (inside.get(output.name, output.name),), (name,)))
            return
        kind = self._kind(node, reads)
        if node.op_type in INTEGER_RESULTS and made:
            self.types.setdefault(made[0], "uint8")
        if node.op_type == "DynamicQuantizeLinear":  # its scale is of the call: what reads it is no integer layer of the file
            self.types.update(dict.fromkeys(made, "float32"))
        feeds = tuple(
            (reads[i], made[o]) for i, o in FEEDS.get(node.op_type, ()) if i < len(reads) and o < len(made) and reads[i] and made[o]
        )
        if node.op_type in OPERANDS:
            reads = tuple(reads[i] for i in OPERANDS[node.op_type] if i < len(reads))
        elif kind in ("pointwise", "bias", "add") and reads and reads[0] in self.constants:
            reads = reads[::-1]
        axes = next((tuple(a.ints) for a in node.attribute if a.name == "perm"), ()) if kind == "transpose" else ()
        activated = any(a.name == "activation" and a.s for a in node.attribute)
        if reads and made:
            self.operators.append(Operator(kind, reads, made, axes, feeds, activated))

    def _kind(self, node: Any, reads: tuple[str, ...]) -> Kind:
        kind: Kind = KINDS.get(node.op_type, "other")
        if node.op_type == "Add" and any(name in self.constants for name in reads):
            return "bias"
        post = {a.name: a.s for a in node.attribute if a.name == "post_transform"}.get("post_transform", b"")
        if post:
            return {b"SOFTMAX": "softmax", b"LOGISTIC": "sigmoid"}.get(post, "other")  # type: ignore[return-value]
        return kind
