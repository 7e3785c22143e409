"""The int8 ONNX file with another file's input and output, so that it takes that file's place in somebody's program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from edgeloop_contract.errors import ModelError
from edgeloop_exporters.onnx_passes import HELD
from edgeloop_exporters.unread import remove_unread

__all__ = ["Door", "Ending", "with_doors"]

Ending = Literal["", "Softmax", "LogSoftmax"]
ENTRY = ("Cast", "Reshape", "Sub", "Mul", "DequantizeLinear", "Transpose")  # between our input and what is rounded


@dataclass(frozen=True)
class Door:
    """An input or output of the other file. `shape`: of one sample; `name`: as programs ask for it."""

    name: str
    shape: tuple[int, ...]


def with_doors(content: bytes, given: Door, made: Sequence[Door], layout: str, ending: Ending) -> bytes:
    """Our int8 file (`content`), taking normalized float32 samples as `given` and answering as `made`, in the order of its outputs.

    `layout`: of the other file's samples, as the recipe's `imported` says it; `ending`: what its graph ends in and ours does not.
    Raises ModelError for a file that edgeloop did not write.
    """
    import onnx
    from onnx import TensorProto, helper

    model = onnx.load_from_string(content)
    graph = model.graph
    _make_room(graph, (given.name, *(door.name for door in made)))
    ours = graph.input[0]
    shape = tuple(dim.dim_value for dim in ours.type.tensor_type.shape.dim)[1:]
    entry = _entry(graph, len(shape))
    begin, last = _beginning(graph, entry, shape, given, layout)
    place = entry.place
    for node in graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = last if name == place else name
    for node in reversed(begin):
        graph.node.insert(0, node)
    results = [output.name for output in graph.output]
    if ending:
        (result,) = results
        graph.node.append(helper.make_node(ending, [result], [f"{result}_ended"], axis=-1))
        results = [f"{result}_ended"]
    for result, door in zip(results, made, strict=True):
        _constant(graph, f"{door.name}_shape", np.array([-1, *door.shape]))
        graph.node.append(helper.make_node("Reshape", [result, f"{door.name}_shape"], [door.name]))
    batch = ours.type.tensor_type.shape.dim[0].dim_param or ours.type.tensor_type.shape.dim[0].dim_value or "batch"
    del graph.input[:], graph.output[:]
    graph.input.append(helper.make_tensor_value_info(given.name, TensorProto.FLOAT, [batch, *given.shape]))
    for door in made:
        graph.output.append(helper.make_tensor_value_info(door.name, TensorProto.FLOAT, [batch, *door.shape]))
    remove_unread(graph)
    del model.metadata_props[:]  # they speak of our own input
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))


def _make_room(graph: Any, taken: tuple[str, ...]) -> None:
    """Other names for our tensors that are called, or begin, as the other file's input and output."""

    def renamed(name: str) -> str:
        return f"ours_{name}" if name.startswith(taken) else name

    for node in graph.node:
        node.input[:], node.output[:] = map(renamed, node.input), map(renamed, node.output)
    for value in (*graph.initializer, *graph.input, *graph.output):
        value.name = renamed(value.name)


@dataclass(frozen=True)
class _Entry:
    """Where our input's preparation ends: a tensor, its axes in the order of our input's, and what rounds it, if it is rounded."""

    place: str
    order: list[int]
    rounding: Any


def _entry(graph: Any, axes: int) -> _Entry:
    constants, place, rounding = {i.name for i in graph.initializer}, graph.input[0].name, None
    order = list(range(axes + 1))
    while True:
        readers = [node for node in graph.node if place in node.input]
        if len(readers) != 1 or readers[0].op_type not in ENTRY or not {*readers[0].input} - {place} <= constants:
            break
        (reader,) = readers
        if reader.op_type == "Reshape" and not reader.output[0].endswith(HELD):
            break  # of the network's own
        rounding = reader if reader.op_type == "DequantizeLinear" else rounding
        if reader.op_type == "Transpose":
            order = [order[axis] for axis in next(a.ints for a in reader.attribute if a.name == "perm")]
        place = reader.output[0]
    if place == graph.input[0].name:
        raise ModelError("the int8 file does not begin as edgeloop's files do; its doors cannot be changed")
    return _Entry(place, order, rounding)


def _beginning(graph: Any, entry: _Entry, shape: tuple[int, ...], given: Door, layout: str) -> tuple[list[Any], str]:
    """Nodes from the other file's input to the entry, and the last one's output."""
    from onnx import helper

    begin, last, order = list[Any](), given.name, entry.order
    if layout == "channels_first" and len(shape) > 1:  # ours are channels last
        order = [[0, *range(2, len(shape) + 1), 1][axis] for axis in order]
    elif shape != given.shape:
        _constant(graph, f"{given.name}_shape", np.array([-1, *shape]))
        begin.append(helper.make_node("Reshape", [last, f"{given.name}_shape"], [f"{given.name}_reshaped"]))
        last = f"{given.name}_reshaped"
    if order != sorted(order):
        begin.append(helper.make_node("Transpose", [last], [f"{given.name}_moved"], perm=order))
        last = f"{given.name}_moved"
    if entry.rounding is not None:
        parts = entry.rounding.input[1:]
        begin.append(helper.make_node("QuantizeLinear", [last, *parts], [f"{given.name}_rounded"]))
        begin.append(helper.make_node("DequantizeLinear", [f"{given.name}_rounded", *parts], [f"{given.name}_floats"]))
        last = f"{given.name}_floats"
    return begin, last


def _constant(graph: Any, name: str, value: np.ndarray) -> None:
    from onnx import numpy_helper

    graph.initializer.append(numpy_helper.from_array(value.astype(np.int64), name))
