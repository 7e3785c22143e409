"""An ONNX graph with Q/DQ, as questions that TensorRT's rules ask of it."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import ModelError

__all__ = ["MOVES", "QdqGraph", "weighted_axis"]

# They hand on values as they are, so that Q and DQ may go past them.
MOVES = ("MaxPool", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Identity", "Pad", "Expand", "Split")
LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


class QdqGraph:
    """One graph; nodes are onnx.NodeProto."""

    INT8 = 3  # onnx.TensorProto.INT8

    def __init__(self, model: Any) -> None:
        from onnx import numpy_helper

        graph = model.graph
        self.nodes: list[Any] = list(graph.node)
        self.opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
        self._constants: dict[str, Array] = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
        for node in self.of("Constant"):
            value = next((a.t for a in node.attribute if a.name == "value"), None)
            if value is not None:
                self._constants[node.output[0]] = numpy_helper.to_array(value)
        self._made = {name: node for node in self.nodes for name in node.output}
        self._readers: dict[str, list[Any]] = defaultdict(list)
        for node in self.nodes:
            for name in dict.fromkeys(node.input):
                self._readers[name].append(node)
        self._outputs = {value.name for value in graph.output}
        self._uint8 = [v.name for v in graph.input if v.type.tensor_type.elem_type == 2]  # onnx.TensorProto.UINT8

    @classmethod
    def of_bytes(cls, model: bytes) -> QdqGraph:
        """Raises ModelError for what is no ONNX file."""
        import onnx

        try:
            loaded = onnx.load_from_string(model)
            if not loaded.graph.node:
                raise ValueError("it has no operations")
            return cls(loaded)
        except Exception as error:  # protobuf's DecodeError, of a library without types, and what broken tensors raise
            raise ModelError(f"no ONNX file that can be read ({' '.join(str(error).split())}); give another one") from error

    def of(self, *operators: str) -> list[Any]:
        return [node for node in self.nodes if node.op_type in operators]

    def name(self, node: Any) -> str:
        """A node by its name, or by its operator and what it makes."""
        if node is None:
            return "the file"
        return node.name or f"{node.op_type} of {node.output[0]}"

    def made(self, name: str) -> Any:
        """The node that makes a tensor; None for inputs and constants."""
        return self._made.get(name)

    def readers(self, name: str) -> list[Any]:
        return self._readers.get(name, [])

    def is_output(self, name: str) -> bool:
        return name in self._outputs

    def uint8_inputs(self) -> list[str]:
        return self._uint8

    def attribute(self, node: Any, name: str, default: int) -> int:
        return next((int(a.i) for a in node.attribute if a.name == name), default)

    def constant(self, node: Any, place: int) -> Array | None:
        """The constant that is this input of a node; None where there is no such input, or it is computed."""
        return self._constants.get(node.input[place]) if len(node.input) > place else None

    def is_constant(self, name: str) -> bool:
        """Whether no input of the file reaches this tensor."""
        if name in self._constants:
            return True
        node = self.made(name)
        return node is not None and bool(node.input) and all(self.is_constant(n) for n in node.input if n)

    def is_weight(self, crossing: Any) -> bool:
        return self.is_constant(crossing.input[0])

    def weighted(self) -> list[Any]:
        return self.of(*LAYERS)

    def is_product(self, node: Any) -> bool:
        """Of two activations."""
        return node.op_type in ("MatMul", "Gemm") and not self.is_constant(node.input[1])

    def is_layer(self, node: Any) -> bool:
        """With weights of its own."""
        return node.op_type in LAYERS and not self.is_product(node)

    def dequantized_weight(self, node: Any) -> Any:
        """The DequantizeLinear of a layer's weights, which may be moved in between; None where they are float."""
        made = self.made(node.input[1])
        while made is not None and made.op_type in MOVES:
            made = self.made(made.input[0])
        return made if made is not None and made.op_type == "DequantizeLinear" and self.is_weight(made) else None

    def axis_at_layer(self, node: Any, weight: Any) -> int:
        """The axis of a weight's scales where the layer reads it: behind a transposition in between."""
        source = self._constants.get(weight.input[0])
        rank = 2 if source is None else source.ndim
        axis = self.attribute(weight, "axis", 1) % rank
        made = self.made(node.input[1])
        while made is not None and made is not weight:
            if made.op_type == "Transpose":
                order = next((list(a.ints) for a in made.attribute if a.name == "perm"), list(reversed(range(rank))))
                axis = order.index(axis)
            made = self.made(made.input[0])
        return axis

    def comes_rounded(self, name: str) -> bool:
        """Whether a tensor is int8 made float again, moved in between or not."""
        made = self.made(name)
        while made is not None and made.op_type in MOVES:
            made = self.made(made.input[0])
        return made is not None and made.op_type == "DequantizeLinear" and not self.is_weight(made)

    def goes_rounded(self, node: Any) -> bool:
        """Whether what a node makes is rounded next, behind its activation or what moves it; by one reader at least."""
        return any(
            reader.op_type == "QuantizeLinear"
            or (reader.op_type in ("Relu", "Clip", *MOVES) and reader.input[0] in node.output and self.goes_rounded(reader))
            for reader in self.readers(node.output[0])
        )

    def layer_behind(self, name: str) -> bool:
        """Whether a rounded tensor is what a layer with weights makes for this reader alone."""
        dequantize = self.made(name)
        quantize = self.made(dequantize.input[0]) if dequantize is not None else None
        if quantize is None or quantize.op_type != "QuantizeLinear" or len(self.readers(name)) != 1:
            return False
        layer = self.made(quantize.input[0])
        alone = len(self.readers(quantize.output[0])) == 1
        return layer is not None and self.is_layer(layer) and alone and len(self.readers(layer.output[0])) == 1


def weighted_axis(graph: QdqGraph, node: Any) -> int | None:
    """The axis of outputs in a layer's weights, as the layer reads them."""
    if node.op_type == "Gemm":
        return 0 if graph.attribute(node, "transB", 0) else 1
    if node.op_type == "MatMul":
        weight = graph.dequantized_weight(node)
        data = None if weight is None else graph.constant(weight, 0)
        return 1 if data is None else int(np.ndim(data)) - 1
    return {"Conv": 0, "ConvTranspose": 1}[node.op_type]
