"""The int8 ONNX file of a model with several inputs, with the original's own inputs and outputs: names, order, types and axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_exporters.graph_names import free_name, names_of
from edgeloop_exporters.state_axes import TURN

__all__ = ["Port", "given_to", "with_ports"]


@dataclass(frozen=True)
class Port:
    """An input or output of the original. `dtype`: numpy's name; `shape`: with the batch, 0 where it is open.

    `turned`: a state whose batch is its second axis there, and the first one in ours. `ours`: its name in ours; "": the same one.
    """

    name: str
    dtype: str
    shape: tuple[int, ...] = ()
    turned: bool = False
    ours: str = ""

    @property
    def here(self) -> str:
        return self.ours or self.name


def with_ports(content: bytes, inputs: Sequence[Port], outputs: Sequence[Port], ending: str = "") -> bytes:
    """Our int8 file (`content`) with these inputs and outputs, in this order; inputs that ours has not are taken and not read.

    `ending`: an operator behind the only output that ours left out ("": none).
    """
    import onnx

    model = onnx.load_from_string(content)
    graph = model.graph
    taken = names_of(graph)
    _make_room(graph, [*inputs, *outputs], taken)
    given, made = ({value.name: value for value in values} for values in (graph.input, graph.output))
    begin = [node for port in inputs if port.name in given for node in _before(graph, port, given[port.name], taken)]
    end = [node for port in outputs for node in _behind(graph, port, made[port.here], taken, ending)]
    nodes = list(graph.node)
    del graph.node[:]
    graph.node.extend([*begin, *nodes, *end])
    values = [[_info(port, there.get(port.here)) for port in ports] for ports, there in ((inputs, given), (outputs, made))]
    del graph.input[:], graph.output[:]
    graph.input.extend(values[0])
    graph.output.extend(values[1])
    del model.metadata_props[:]  # they speak of our own inputs
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))


def _make_room(graph: Any, ports: Sequence[Port], taken: set[str]) -> None:
    """Other names for tensors inside that are called as the original's inputs and outputs."""
    doors = {value.name for value in (*graph.input, *graph.output)}
    moved = {port.name: free_name(f"inner_{port.name}", taken) for port in ports if port.name in taken - doors}
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [moved.get(name, name) for name in names]
    for value in (*graph.initializer, *graph.value_info):
        value.name = moved.get(value.name, value.name)


def _before(graph: Any, port: Port, value: Any, taken: set[str]) -> list[Any]:
    """Nodes from the original's input to ours, which gets another name."""
    from onnx import helper

    casts = _type(port) != value.type.tensor_type.elem_type
    if not casts and not port.turned:
        return []
    inner, nodes, last = free_name(f"ours_{port.name}", taken), [], port.name
    for node in graph.node:
        node.input[:] = [inner if name == port.name else name for name in node.input]
    if port.turned:
        turned = free_name(f"{port.name}_turned", taken) if casts else inner
        nodes.append(helper.make_node("Transpose", [last], [turned], perm=TURN))
        last = turned
    if casts:
        nodes.append(helper.make_node("Cast", [last], [inner], to=value.type.tensor_type.elem_type))
    return nodes


def _behind(graph: Any, port: Port, value: Any, taken: set[str], ending: str) -> list[Any]:
    """Nodes from our output, which gets another name, to the original's."""
    from onnx import helper

    steps: list[tuple[str, dict[str, Any]]] = [("Transpose", {"perm": TURN})] if port.turned else []
    steps += [(ending, {"axis": -1})] if ending else []
    steps += [("Cast", {"to": _type(port)})] if _type(port) != value.type.tensor_type.elem_type else []
    steps += [("Identity", {})] if not steps and port.here != port.name else []
    if not steps:
        return []
    last = free_name(f"ours_{port.name}", taken)
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [last if name == port.here else name for name in names]
    nodes = []
    for number, (kind, attributes) in enumerate(steps, 1):
        result = port.name if number == len(steps) else free_name(f"{port.name}_{kind.lower()}", taken)
        nodes.append(helper.make_node(kind, [last], [result], **attributes))
        last = result
    return nodes


def _info(port: Port, ours: Any) -> Any:
    """The sizes are ours, in the original's order: it may have left open what is fixed now."""
    from onnx import helper

    sizes: list[int | str | None] = [size or None for size in port.shape]
    if ours is not None:
        sizes = [dim.dim_value or dim.dim_param or None for dim in ours.type.tensor_type.shape.dim]
        sizes = [sizes[axis] for axis in TURN] if port.turned else sizes
    return helper.make_tensor_value_info(port.name, _type(port), sizes)


def _type(port: Port) -> int:
    from onnx import helper

    return int(helper.np_dtype_to_tensor_dtype(np.dtype(port.dtype)))


def given_to(ports: Sequence[Port], parts: Mapping[str, Array]) -> dict[str, Array]:
    """Samples by input, as our file takes them, as the original takes them; zeros for what ours does not read."""
    made = {}
    for port in ports:
        part = parts.get(port.name, np.zeros([size or 1 for size in port.shape]))
        made[port.name] = np.ascontiguousarray(part.transpose(TURN) if port.turned else part).astype(port.dtype)
    return made
