"""ONNX outputs whose number of rows depends on the picture, as outputs of one fixed number."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgeloop_exporters.graph_names import free_name, names_of, rename
from edgeloop_exporters.model_files.onnx_file import parse_onnx

__all__ = ["PADS", "with_fixed_rows"]

PADS = 11  # the opset from which on Pad takes whole numbers, and its widths as a tensor


def with_fixed_rows(content: bytes, axes: Mapping[str, int], rows: int, where: str) -> bytes:
    """The same ONNX model, where each of these outputs has `rows` along its axis: zeros behind its own, and none beyond.

    `axes`: by output. The outputs keep their names. Raises ModelError for a file that is none.
    """
    from onnx import helper, numpy_helper

    model = parse_onnx(content, where)
    graph, taken = model.graph, names_of(model.graph)
    for output in graph.output:
        if output.name not in axes:
            continue
        axis, rank = axes[output.name], len(output.type.tensor_type.shape.dim)
        before = free_name(f"{output.name} as it was", taken)
        rename(graph, {output.name: before})
        widths, padded = np.zeros(2 * rank, np.int64), free_name(f"{output.name} padded", taken)
        widths[rank + axis] = rows
        constants = {"widths": widths, "begin": np.array([0]), "end": np.array([rows]), "axis": np.array([axis])}
        names = {part: free_name(f"{output.name} {part}", taken) for part in constants}
        graph.initializer.extend(numpy_helper.from_array(values, names[part]) for part, values in constants.items())
        graph.node.append(helper.make_node("Pad", [before, names["widths"]], [padded]))
        graph.node.append(helper.make_node("Slice", [padded, names["begin"], names["end"], names["axis"]], [output.name]))
        dimension = output.type.tensor_type.shape.dim[axis]
        dimension.Clear()
        dimension.dim_value = rows
    return bytes(model.SerializeToString(deterministic=True))
