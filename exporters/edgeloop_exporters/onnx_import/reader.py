"""Reads an ONNX file node by node into a torch graph, and checks it against the file's own runtime."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from edgeloop_contract.errors import ModelError, UsageError
from edgeloop_exporters.model_files.onnx_file import parse_onnx, whole_onnx
from edgeloop_exporters.model_files.reading import read
from edgeloop_exporters.onnx_import import (  # noqa: F401 (they fill the table)
    convolution,
    elementwise,
    indexing,
    recurrent,
    reductions,
    resizing,
    shapes,
)
from edgeloop_exporters.onnx_import.elementwise import DTYPES
from edgeloop_exporters.onnx_import.table import HANDLERS, Node
from edgeloop_exporters.onnx_import.values import BATCHES, Builder, Unsupported, Value

__all__ = ["Imported", "Port", "converted"]

QUANTIZED = {
    "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger",
}  # fmt: skip
CONTROL = {"Loop": "a loop", "Scan": "a loop", "If": "a branch"}
DOMAINS = ("", "ai.onnx")
MAX_DEPTH = 8
PACK = "pack the file as it is (edgeloop pack)"


@dataclass(frozen=True)
class Port:
    """An input or output. `shape`: of one sample, without the batch; `dtype`: numpy's name."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Imported:
    """An ONNX file as torch layers. `network`: takes (N, *shape) of each input in the file's order; gives one tensor or a tuple.

    `operators`: kind → count. `fixed_batch`: the file's own, None where it is free.
    """

    network: fx.GraphModule
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    opset: int
    operators: dict[str, int]
    producer: str
    fixed_batch: int | None = None


def converted(path: Path, sizes: Mapping[str, tuple[int, ...]], batch: bool = True) -> Imported:
    """The file as torch layers, not compared yet. Without `batch`, its inputs have no such axis, and shapes are whole."""
    described = read(path)  # refuses what is no whole model, and custom operators
    if described.runtime != "onnx":
        raise ModelError(f"{path}: is not an ONNX file")
    content = whole_onnx(path, path.read_bytes())
    model = parse_onnx(content, str(path))
    opset = max((o.version for o in model.opset_import if o.domain in DOMAINS), default=1)
    reader = _Reader(model.graph, str(path), opset, batch)
    network, inputs, outputs = reader.run(sizes)
    producer = f"{model.producer_name} {model.producer_version}".strip()[:100]
    return Imported(network, inputs, outputs, opset, dict(reader.counts), producer, reader.build.fixed_batch)


class _Reader:
    def __init__(self, graph: Any, where: str, opset: int, batch: bool) -> None:
        self.graph, self.where, self.opset, self.batch = graph, where, opset, batch
        self.counts: Counter[str] = Counter()
        constants = {t.name for t in graph.initializer}
        self.given = [value for value in graph.input if value.name not in constants]  # IR 3: initializers are inputs too
        first = self.given[0].type.tensor_type.shape.dim if self.given else []
        fixed = int(first[0].dim_value) if len(first) and first[0].dim_value > 0 else None
        self.build = Builder(fixed if batch else None)
        self.env: dict[str, Value] = {}

    def run(self, sizes: Mapping[str, tuple[int, ...]]) -> tuple[fx.GraphModule, tuple[Port, ...], tuple[Port, ...]]:
        if not self.given:
            raise ModelError(f"{self.where}: has no input")
        inputs: list[Port] = []
        for value in self.given:
            dtype, shape = self._sample(value, sizes)
            generator = torch.Generator().manual_seed(len(inputs))
            a, b = (_random(dtype, (n, *shape) if self.batch else shape, generator) for n in BATCHES)
            self.env[value.name] = self.build.placeholder(value.name, a, b)
            inputs.append(Port(value.name, str(dtype).removeprefix("torch."), shape))
        self._initializers(self.graph)
        self._nodes(self.graph, 0)
        outputs = [self._known(value.name) for value in self.graph.output]
        ports = tuple(self._port(value.name, found) for value, found in zip(self.graph.output, outputs, strict=True))
        network = self.build.finished(outputs)
        _join_biases(network)
        return network, tuple(inputs), ports

    def _sample(self, value: Any, sizes: Mapping[str, tuple[int, ...]]) -> tuple[torch.dtype, tuple[int, ...]]:
        tensor = value.type.tensor_type
        dtype = DTYPES.get(tensor.elem_type)
        if dtype is None:
            raise ModelError(
                f"{self.where}: its input {value.name} takes {_type_name(tensor.elem_type)}, which cannot be compressed"
            )
        dims = list(tensor.shape.dim)
        if not self.batch:
            return dtype, tuple(int(dim.dim_value) for dim in dims)
        if not dims:
            raise ModelError(f"{self.where}: its input {value.name} has no batch; export it with a batch as the first axis")
        if value.name in sizes:
            return dtype, tuple(sizes[value.name])
        for dim in dims[1:]:
            if dim.dim_value <= 0:
                raise UsageError(
                    f"{self.where}: its input {value.name} leaves size {dim.dim_param or '?'} open; say a sample's with --size"
                )
        return dtype, tuple(int(dim.dim_value) for dim in dims[1:])

    def _port(self, name: str, value: Value) -> Port:
        if not self.batch:
            return Port(name, str(value.dtype).removeprefix("torch."), value.shape)
        if not value.batched():
            raise ModelError(
                f"{self.where}: its output {name} has shape {list(value.shape)} for {BATCHES[0]} samples; its first axis must be"
                " the batch: export the model so, or choose another output"
            )
        return Port(name, str(value.dtype).removeprefix("torch."), value.shape[1:])

    def _initializers(self, graph: Any) -> None:
        for tensor in graph.initializer:
            self.env[tensor.name] = self.build.tensor(self._tensor(tensor, tensor.name))
        if graph.sparse_initializer:
            raise ModelError(f"{self.where}: has sparse weights, which cannot be imported; export it with dense ones")

    def _tensor(self, tensor: Any, name: str) -> torch.Tensor:
        from onnx import numpy_helper

        wanted = DTYPES.get(tensor.data_type)
        if wanted is None:
            raise ModelError(
                f"{self.where}: its constant {name} has values of type {_type_name(tensor.data_type)}, which cannot be compressed"
            )
        try:
            found = torch.from_numpy(np.array(numpy_helper.to_array(tensor)).astype(_numpy(wanted)))
        except (ValueError, TypeError, AttributeError) as error:
            raise ModelError(f"{self.where} is damaged: its constant {name} is not whole ({error}); export it again") from error
        return found

    def _known(self, name: str) -> Value:
        if name not in self.env:
            raise ModelError(f"{self.where} is damaged: nothing makes its tensor {name!r}; export it again")
        return self.env[name]

    def _nodes(self, graph: Any, depth: int) -> None:
        for proto in graph.node:
            self.counts[proto.op_type] += 1
            where = f"{self.where}: {proto.op_type} {proto.name or proto.output[0]!r}"
            if proto.domain not in DOMAINS:
                raise ModelError(f"{where}: is of the domain {proto.domain}; export the model with standard operators, or {PACK}")
            if proto.op_type in QUANTIZED:
                raise ModelError(f"{where}: the model is already quantized; {PACK}")
            try:
                self._node(proto, depth)
            except Unsupported as error:
                why = str(error)
                said = f", {why}" if why else ""
                raise ModelError(f"{where}: cannot be imported{said}; replace it in the model, or {PACK}") from error

    def _node(self, proto: Any, depth: int) -> None:
        self.build.where = proto.output[0]
        if proto.op_type == "If":
            return self._branch(proto, depth)
        if proto.op_type in CONTROL:
            raise Unsupported(f"{CONTROL[proto.op_type]} whose steps the data decide")
        attributes = {a.name: self._attribute(a) for a in proto.attribute}
        if proto.op_type == "Constant":
            self.env[proto.output[0]] = self.build.tensor(self._constant(attributes))
            return None
        handler = HANDLERS.get(proto.op_type)
        if handler is None:
            raise Unsupported("there is no rule for it")
        inputs = [self._known(name) if name else None for name in proto.input]
        name = proto.name or proto.output[0]
        made = handler(Node(self.build, proto.op_type, name, inputs, attributes, self.opset, sum(1 for o in proto.output if o)))
        values = [made] if isinstance(made, Value) else list(made)
        for output, value in zip(proto.output, values, strict=False):
            if output:
                self.env[output] = value
        return None

    def _branch(self, proto: Any, depth: int) -> None:
        """The branch that a condition without data chooses."""
        condition = self._known(proto.input[0])
        if not condition.is_constant or depth > MAX_DEPTH:
            raise Unsupported("a branch that the data decide")
        wanted = "then_branch" if bool(condition.a) else "else_branch"
        graph = next(a.g for a in proto.attribute if a.name == wanted)
        self._initializers(graph)
        self._nodes(graph, depth + 1)
        for output, inner in zip(proto.output, graph.output, strict=True):
            self.env[output] = self._known(inner.name)

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


def _type_name(number: int) -> str:
    from onnx import TensorProto

    return TensorProto.DataType.Name(number).lower() if number in TensorProto.DataType.values() else str(number)


def _numpy(dtype: torch.dtype) -> Any:
    return np.dtype(str(dtype).removeprefix("torch."))


def _random(dtype: torch.dtype, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    if dtype.is_floating_point:
        return torch.rand(shape, generator=generator, dtype=torch.float32)
    return torch.ones(shape, dtype=dtype)  # an index that every table has, and nothing that is divided by


def _join_biases(network: fx.GraphModule) -> None:
    """A constant that is added to a dense layer's answer, and to nothing else, is the layer's bias."""
    for node in list(network.graph.nodes):
        if node.op != "call_module" or len(node.users) != 1:
            continue
        layer, (user,) = network.get_submodule(str(node.target)), node.users
        if (
            not isinstance(layer, nn.Linear)
            or layer._parameters["bias"] is not None
            or user.target is not torch.add
            or len(user.args) != 2
        ):
            continue
        other = next((arg for arg in user.args if arg is not node), None)
        if not isinstance(other, fx.Node) or other.op != "get_attr":
            continue
        value = getattr(network, str(other.target))
        if value.shape == (layer.out_features,):
            layer.bias = nn.Parameter(value.clone())
            node.meta["onnx"] = user.meta.get("onnx", "")
            user.replace_all_uses_with(node)
            network.graph.erase_node(user)
    network.graph.eliminate_dead_code()
    network.delete_all_unused_submodules()
    network.recompile()
