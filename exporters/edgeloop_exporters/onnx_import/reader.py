"""Reads an ONNX file node by node into a torch graph, and checks it against the file's own runtime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import fx

from edgeloop_contract.errors import ModelError, UsageError
from edgeloop_exporters.model_files.onnx_file import parse_onnx, whole_onnx
from edgeloop_exporters.model_files.reading import read
from edgeloop_exporters.onnx_import.biases import join_biases
from edgeloop_exporters.onnx_import.definitions import Functions, functions_of
from edgeloop_exporters.onnx_import.table import DTYPES
from edgeloop_exporters.onnx_import.values import BATCHES, Builder, Items, Value
from edgeloop_exporters.onnx_import.walking import PACK, Walker, type_name

__all__ = ["Imported", "Port", "converted"]

DOMAINS = ("", "ai.onnx")
HALVES = (10, 16)  # float16 and bfloat16


@dataclass(frozen=True)
class Port:
    """An input or output. `shape`: of one sample, without the batch; `dtype`: numpy's name."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Imported:
    """An ONNX file as torch layers. `network`: takes (N, *shape) of each input in the file's order; gives one tensor or a tuple.

    `operators`: kind → count. `fixed_batch`: the file's own, None where it is free. `rounds`: whether the file itself
    computes with numbers of 16 bits, which are float32 here.
    """

    network: fx.GraphModule
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    opset: int
    operators: dict[str, int]
    producer: str
    fixed_batch: int | None = None
    rounds: bool = False


def converted(path: Path, sizes: Mapping[str, tuple[int, ...]], batch: bool = True) -> Imported:
    """The file as torch layers, not compared yet. Without `batch`, its inputs have no such axis, and shapes are whole."""
    described = read(path)  # refuses what is no whole model, and custom operators
    if described.runtime != "onnx":
        raise ModelError(f"{path}: is not an ONNX file")
    content = whole_onnx(path, path.read_bytes())
    model = parse_onnx(content, str(path))
    opset = max((o.version for o in model.opset_import if o.domain in DOMAINS), default=1)
    reader = _Reader(model.graph, str(path), opset, batch, functions_of(model))
    network, inputs, outputs = reader.run(sizes)
    producer = f"{model.producer_name} {model.producer_version}".strip()[:100]
    counts, batch_size = dict(reader.walker.counts), reader.build.fixed_batch
    return Imported(network, inputs, outputs, opset, counts, producer, batch_size, _rounds(model.graph))


def _rounds(graph: Any) -> bool:
    types = {value.type.tensor_type.elem_type for value in graph.input} | {tensor.data_type for tensor in graph.initializer}
    return bool(types & set(HALVES))


class _Reader:
    def __init__(self, graph: Any, where: str, opset: int, batch: bool, functions: Functions) -> None:
        self.graph, self.where, self.batch = graph, where, batch
        constants = {t.name for t in graph.initializer}
        self.given = [value for value in graph.input if value.name not in constants]  # IR 3: initializers are inputs too
        first = self.given[0].type.tensor_type.shape.dim if self.given else []
        fixed = int(first[0].dim_value) if len(first) and first[0].dim_value > 0 else None
        self.build = Builder(fixed if batch else None)
        self.walker = Walker(self.build, where, opset, functions)

    def run(self, sizes: Mapping[str, tuple[int, ...]]) -> tuple[fx.GraphModule, tuple[Port, ...], tuple[Port, ...]]:
        if not self.given:
            raise ModelError(f"{self.where}: has no input")
        inputs: list[Port] = []
        for value in self.given:
            dtype, shape = self._sample(value, sizes)
            generator = torch.Generator().manual_seed(len(inputs))
            a, b = (_random(dtype, (n, *shape) if self.batch else shape, generator) for n in BATCHES)
            self.walker.env[value.name] = self.build.placeholder(value.name, a, b)
            inputs.append(Port(value.name, str(dtype).removeprefix("torch."), shape))
        self.walker.graph(self.graph)
        outputs = [self.walker.known(value.name) for value in self.graph.output]
        ports = tuple(self._port(value.name, found) for value, found in zip(self.graph.output, outputs, strict=True))
        network = self.build.finished(outputs)
        join_biases(network)
        return network, tuple(inputs), ports

    def _sample(self, value: Any, sizes: Mapping[str, tuple[int, ...]]) -> tuple[torch.dtype, tuple[int, ...]]:
        tensor = value.type.tensor_type
        dtype = DTYPES.get(tensor.elem_type)
        if dtype is None:
            raise ModelError(
                f"{self.where}: its input {value.name} takes {type_name(tensor.elem_type)}, which cannot be compressed"
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
        if isinstance(value, Items):
            raise ModelError(f"{self.where}: its output {name} is a sequence, which cannot be imported; {PACK}")
        if not self.batch:
            return Port(name, str(value.dtype).removeprefix("torch."), value.shape)
        if value.is_constant:
            raise ModelError(
                f"{self.where}: its output {name} is the same for every sample; leave it out: say which of the"
                " others count, each with --output"
            )
        if not value.batched():
            raise ModelError(
                f"{self.where}: its output {name} has shape {list(value.shape)} for {BATCHES[0]} samples; its first axis must be"
                f" the batch: export the model so, choose another output, or {PACK}"
            )
        return Port(name, str(value.dtype).removeprefix("torch."), value.shape[1:])


def _random(dtype: torch.dtype, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    if dtype.is_floating_point:
        return torch.rand(shape, generator=generator, dtype=torch.float32)
    return torch.ones(shape, dtype=dtype)  # an index that every table has, and nothing that is divided by
