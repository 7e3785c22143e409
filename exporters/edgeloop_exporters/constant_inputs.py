"""Inputs of an ONNX file that always have the same values: they become constants of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from edgeloop_contract.errors import ModelError, UsageError
from edgeloop_exporters.model_files.onnx_file import parse_onnx

__all__ = ["with_constants"]


def with_constants(content: bytes, constants: Mapping[str, Sequence[float]], where: str) -> bytes:
    """The same ONNX model without these inputs. Raises UsageError for a name that it has not, or another number of values."""
    from onnx import helper, numpy_helper

    model = parse_onnx(content, where)
    graph = model.graph
    ports = {value.name: value for value in graph.input}
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
        graph.initializer.append(numpy_helper.from_array(np.array(values).astype(dtype).reshape(sizes), name))
        graph.input.remove(ports[name])
    return bytes(model.SerializeToString(deterministic=True))
