"""Inputs of an ONNX file that always have the same values: they become constants of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgeloop_contract.errors import ModelError, UsageError
from edgeloop_exporters.graph_names import free_name, names_of
from edgeloop_exporters.model_files.onnx_file import parse_onnx

__all__ = ["with_constants"]


def with_constants(content: bytes, constants: Mapping[str, Sequence[float]], where: str) -> bytes:
    """The same ONNX model without these inputs. Raises UsageError for a name that it has not, or another number of values."""
    from onnx import helper, numpy_helper

    model = parse_onnx(content, where)
    graph = model.graph
    ports = {value.name: value for value in graph.input}
    taken = names_of(graph)
    for name, values in constants.items():
        if name not in ports:
            raise UsageError(f"--constant {name}=…: {where} has the inputs {', '.join(ports)}")
        tensor = ports[name].type.tensor_type
        try:
            dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        except KeyError as error:
            raise ModelError(f"{where}: its input {name} has a type that no constant can have") from error
        sizes = [dim.dim_value or 1 for dim in tensor.shape.dim]  # an open size is that of one sample
        if math.prod(sizes) != len(values):
            raise UsageError(f"--constant {name}: {len(values)} values; shape {sizes} needs {math.prod(sizes)}")
        graph.input.remove(ports[name])
        array = np.array(values).astype(dtype).reshape(sizes)
        open_batch = len(tensor.shape.dim) > 0 and tensor.shape.dim[0].dim_value == 0 and len(graph.input) > 0
        once = free_name(f"{name}_once", taken) if open_batch else name
        graph.initializer.append(numpy_helper.from_array(array, once))
        if open_batch:
            _repeat(graph, name, once, sizes, taken)
    return bytes(model.SerializeToString(deterministic=True))


def _repeat(graph: Any, name: str, once: str, sizes: Sequence[int], taken: set[str]) -> None:
    """`once` (1, …) as `name` for each sample of a batch, as many as the first of the other inputs has."""
    from onnx import helper, numpy_helper

    parts = {"first": [0], "second": [1], "inner": list(sizes[1:])}
    of = {part: free_name(f"{name}_{part}", taken) for part in (*parts, "shape", "batch", "sizes")}
    for part, values in parts.items():
        graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), of[part]))
    made = [
        helper.make_node("Shape", [graph.input[0].name], [of["shape"]]),
        helper.make_node("Slice", [of["shape"], of["first"], of["second"]], [of["batch"]]),
        helper.make_node("Concat", [of["batch"], of["inner"]], [of["sizes"]], axis=0),
        helper.make_node("Expand", [once, of["sizes"]], [name]),
    ]
    nodes = list(graph.node)
    del graph.node[:]
    graph.node.extend([*made, *nodes])
