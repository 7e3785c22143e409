"""Goes through a graph node by node, its functions, branches and loops included."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

# They fill the table of rules. By their own names: the package itself imports this module.
import edgeloop_exporters.onnx_import.attention
import edgeloop_exporters.onnx_import.contractions
import edgeloop_exporters.onnx_import.convolution
import edgeloop_exporters.onnx_import.elementwise
import edgeloop_exporters.onnx_import.fused
import edgeloop_exporters.onnx_import.indexing
import edgeloop_exporters.onnx_import.pooling
import edgeloop_exporters.onnx_import.recurrent
import edgeloop_exporters.onnx_import.reductions
import edgeloop_exporters.onnx_import.resizing
import edgeloop_exporters.onnx_import.sampling
import edgeloop_exporters.onnx_import.sequences
import edgeloop_exporters.onnx_import.shapes
import edgeloop_exporters.onnx_import.signals  # noqa: F401
from edgeloop_contract.errors import ModelError
from edgeloop_exporters.onnx_import.control import CONTROL
from edgeloop_exporters.onnx_import.definitions import Definition, Functions, own_definition, standard_definition
from edgeloop_exporters.onnx_import.ordering import in_order
from edgeloop_exporters.onnx_import.table import DTYPES, HANDLERS, Node
from edgeloop_exporters.onnx_import.unsigned import by_int64
from edgeloop_exporters.onnx_import.values import Builder, Unsupported, Value

__all__ = ["PACK", "Walker", "type_name"]

QUANTIZED = {
    "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger",
}  # fmt: skip
DOMAINS = ("", "ai.onnx")
FUSED = "com.microsoft"
LAYOUTS = ("com.microsoft.nchwc", "com.ms.internal.nhwc")  # of ONNX Runtime's last level of optimization
MAX_DEPTH = 8
MAX_NODES = 50_000  # of one import, loops unrolled
PACK = "pack the file as it is (edgeloop pack)"


# What a handler meets in a node with missing or wrong attributes.
BAD = (Unsupported, ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


class Walker:
    """`env`: what is known by name. Raises ModelError naming operator and node."""

    def __init__(self, build: Builder, where: str, opset: int, functions: Functions) -> None:
        self.build, self.where, self.opset, self.functions = build, where, opset, functions
        self.counts: Counter[str] = Counter()
        self.env: dict[str, Value] = {}
        self._depth = self._done = 0

    def known(self, name: str) -> Value:
        if name not in self.env:
            raise ModelError(f"{self.where} is damaged: nothing makes its tensor {name!r}; export it again")
        return self.env[name]

    def graph(self, graph: Any) -> None:
        for tensor in graph.initializer:
            values = self._tensor(tensor, tensor.name)
            if values.is_floating_point() and bool(values.isnan().any()):
                raise ModelError(f"{self.where}: its constant {tensor.name} has values that are no numbers (NaN); export it again")
            self.env[tensor.name] = self.build.tensor(values)
        if graph.sparse_initializer:
            raise ModelError(f"{self.where}: has sparse weights, which cannot be imported; export it with dense ones")
        self.nodes(in_order(graph.node))

    def called(self, graph: Any, given: Mapping[str, Value]) -> list[Value]:
        """The outputs of a subgraph, which sees the names around it."""
        with self._scope({**self.env, **given}):
            self.graph(graph)
            return [self.known(output.name) for output in graph.output]

    @contextmanager
    def _scope(self, env: dict[str, Value], version: int | None = None) -> Iterator[None]:
        if self._depth >= MAX_DEPTH:
            raise Unsupported(f"more than {MAX_DEPTH} subgraphs in each other")
        outer = self.env, self.opset, self.build.where
        self.env, self.opset = env, self.opset if version is None else version
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            self.env, self.opset, self.build.where = outer

    def nodes(self, nodes: Sequence[Any]) -> None:
        for proto in nodes:
            if self._depth == 0:
                self.counts[proto.op_type] += 1
            self._done += 1
            where = f"{self.where}: {proto.op_type} {proto.name or next(iter(proto.output), '')!r}"
            if proto.op_type in QUANTIZED:
                raise ModelError(f"{where}: the model is already quantized; {PACK}")
            try:
                if self._done > MAX_NODES:
                    raise Unsupported(f"the graph has more than {MAX_NODES:,} operators")
                self._node(proto)
            except BAD as error:
                known = isinstance(error, Unsupported)
                why = str(error) if known else f"its attributes or inputs are not what it takes ({_line(error)})"
                said = f", {why}" if why else ""
                raise ModelError(f"{where}: cannot be imported{said}; replace it in the model, or {PACK}") from error

    def _node(self, proto: Any) -> None:
        if self._depth == 0:  # what differs is named by the outer file's tensors
            self.build.where = proto.output[0]
        inputs = [self.known(name) if name else None for name in proto.input]
        function = self.functions.get((proto.domain, proto.op_type))
        if function is not None:
            return self._define(own_definition(function, proto, self.opset), proto, inputs)
        if proto.domain not in (*DOMAINS, FUSED):
            made_for = "; the file is optimized for one processor, save it at the level extended" if proto.domain in LAYOUTS else ""
            raise Unsupported(f"it is of the domain {proto.domain}{made_for}")
        if proto.op_type in CONTROL:
            return self._keep(proto, CONTROL[proto.op_type](self, proto, inputs))
        attributes = {a.name: self._attribute(a) for a in proto.attribute}
        if proto.op_type == "Constant":
            return self._keep(proto, [self.build.tensor(self._constant(attributes))])
        try:
            return self._keep(proto, self._handled(proto, inputs, attributes))
        except Unsupported:
            definition = standard_definition(proto, inputs, self.opset) if proto.domain in DOMAINS else None
            if definition is None:
                raise
            return self._define(definition, proto, inputs)

    def _handled(self, proto: Any, inputs: Sequence[Value | None], attributes: dict[str, Any]) -> Sequence[Value | None]:
        handler = HANDLERS.get(f"{FUSED}.{proto.op_type}" if proto.domain == FUSED else proto.op_type)
        if handler is None:
            raise Unsupported("there is no rule for it")
        name, wanted = proto.name or proto.output[0], [bool(output) for output in proto.output]
        node = Node(self.build, proto.op_type, name, inputs, attributes, self.opset, wanted)
        made = by_int64(handler, node)
        return [made] if isinstance(made, Value) else list(made)

    def _keep(self, proto: Any, values: Sequence[Value | None]) -> None:
        self.env.update({output: v for output, v in zip(proto.output, values, strict=False) if output and v is not None})

    def _define(self, definition: Definition, proto: Any, inputs: Sequence[Value | None]) -> None:
        given = {name: value for name, value in zip(definition.inputs, inputs, strict=False) if value is not None}
        try:
            with self._scope(given, definition.version):
                self.nodes(definition.nodes)
                made = [self.env.get(name) for name in definition.outputs]
        except ModelError as error:
            inner = error.__cause__
            raise Unsupported(str(inner) if isinstance(inner, Unsupported) else str(error)) from error
        self._keep(proto, made)

    def _tensor(self, tensor: Any, name: str) -> torch.Tensor:
        from onnx import numpy_helper

        wanted = DTYPES.get(tensor.data_type)
        if wanted is None:
            raise ModelError(
                f"{self.where}: its constant {name} has values of type {type_name(tensor.data_type)}, which cannot be compressed"
            )
        try:
            found = torch.from_numpy(np.array(numpy_helper.to_array(tensor)).astype(_numpy(wanted)))
        except (ValueError, TypeError, AttributeError) as error:
            raise ModelError(f"{self.where} is damaged: its constant {name} is not whole ({error}); export it again") from error
        return found

    def _attribute(self, attribute: Any) -> Any:
        import onnx

        value = onnx.helper.get_attribute_value(attribute)
        if attribute.type == onnx.AttributeProto.TENSOR:
            return self._tensor(value, attribute.name)
        return value

    def _constant(self, attributes: dict[str, Any]) -> torch.Tensor:
        for name, dtype in (
            ("value_float", torch.float32),
            ("value_floats", torch.float32),
            ("value_int", torch.int64),
            ("value_ints", torch.int64),
        ):
            if name in attributes:
                return torch.tensor(attributes[name], dtype=dtype)
        if "value" not in attributes:
            raise Unsupported("texts or sparse values")
        found: torch.Tensor = attributes["value"]
        return found


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__} {error}".split())[:150]


def type_name(number: int) -> str:
    from onnx import TensorProto

    return TensorProto.DataType.Name(number).lower() if number in TensorProto.DataType.values() else str(number)


def _numpy(dtype: torch.dtype) -> Any:
    return np.dtype(str(dtype).removeprefix("torch."))
