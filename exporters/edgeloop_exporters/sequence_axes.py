"""Files whose first axis is a sequence, along which recurrent layers go from one state: as files that take one step a call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeloop_exporters.graph_names import free_name, names_of
from edgeloop_exporters.model_files.onnx_file import parse_onnx

__all__ = ["with_single_steps"]

RECURRENT = ("LSTM", "GRU", "RNN")
X, LENGTHS = 0, 4  # of their inputs
TURN_X, TURN_Y = (1, 0, 2), (2, 1, 0, 3)  # the sequence and the batch change places
STATE_RANK = 3  # (layers, batch, values)


def with_single_steps(content: bytes, states: Mapping[str, str], where: str) -> bytes | None:
    """The same ONNX model whose first axis is a batch, each row a step from states of its own; None where the file is no sequence.

    A sequence: an input's first axis is open, every state is (layers, 1, values), and recurrent layers take the states.
    `states`: input → output. Raises ModelError for a file that is none.
    """
    from onnx import helper

    model = parse_onnx(content, where)
    graph = model.graph
    ports = {value.name: value for value in (*graph.input, *graph.output)}
    layers = [node for node in graph.node if node.op_type in RECURRENT]
    if not layers or not states or not _is_sequence(graph, layers, states, ports):
        return None
    taken = names_of(graph)
    nodes: list[Any] = []
    for node in graph.node:
        if node.op_type not in RECURRENT:
            nodes.append(node)
            continue
        turned = free_name(f"{node.input[X]}_as_batch", taken)
        nodes.append(helper.make_node("Transpose", [node.input[X]], [turned], perm=TURN_X))
        node.input[X] = turned
        nodes.append(node)
        if node.output and node.output[0]:
            made, node.output[0] = node.output[0], free_name(f"{node.output[0]}_as_sequence", taken)
            nodes.append(helper.make_node("Transpose", [node.output[0]], [made], perm=TURN_Y))
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    for name in {*states, *states.values()}:
        _dims(ports[name])[1].dim_param = "batch"
    for value in (*graph.input, *graph.output):
        if value.name not in {*states, *states.values()}:
            _dims(value)[0].dim_param = "batch"
    return bytes(model.SerializeToString(deterministic=True))


def _is_sequence(graph: Any, layers: list[Any], states: Mapping[str, str], ports: Mapping[str, Any]) -> bool:
    fed = [value for value in graph.input if value.name not in states and value.name not in {t.name for t in graph.initializer}]
    is_open = [len(_dims(value)) > 1 and _dims(value)[0].dim_value == 0 for value in fed]
    single = all(len(_dims(ports[name])) == STATE_RANK and _dims(ports[name])[1].dim_value == 1 for name in states)
    fed_to_layers = {name for node in layers for name in node.input}
    plain = all(not any(a.name == "layout" and a.i for a in node.attribute) for node in layers)
    unbounded = all(len(node.input) <= LENGTHS or not node.input[LENGTHS] for node in layers)
    return bool(fed) and all(is_open) and single and plain and unbounded and fed_to_layers.issuperset(states)


def _dims(value: Any) -> Any:
    return value.type.tensor_type.shape.dim
