"""What a network hands itself from call to call stays in float: an error of rounding would add up over a recording."""

from __future__ import annotations

import operator
from collections.abc import Collection
from typing import Any

from torch import fx

from edgeloop_exporters.graph import aten
from edgeloop_exporters.inputs import PART, inputs_of
from edgeloop_exporters.outputs import JOINED

__all__ = ["carried_states"]

RECURRENT = {aten.lstm.input, aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input}  # float in every runtime
JOINING = {aten.cat.default, aten.stack.default}
ARITHMETIC = {aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor}


def carried_states(module: fx.GraphModule, moves: Collection[Any]) -> set[fx.Node]:
    """Recurrent layers, sums and products that lead from a state to the next one, and what moves or joins states at the end.

    `moves`: operations that only move values.
    """
    names = {entry.output for entry in inputs_of(module)} - {""}
    (last,) = module.graph.output_node().all_input_nodes
    if not names or last.target is not JOINED:
        return set()
    given: Any = last.args
    ends = {node for node, name in zip(*given, strict=True) if name in names}
    nodes: list[fx.Node] = list(module.graph.nodes)
    layers = {node for node in nodes if node.target in RECURRENT}
    layers |= {node for node in nodes if node.target is operator.getitem and node.args[0] in layers}
    return layers | _at_the_end(nodes, ends, moves) | _on_the_way(nodes, ends, moves)


def _at_the_end(nodes: list[fx.Node], ends: set[fx.Node], moves: Collection[Any]) -> set[fx.Node]:
    """Moves and joins that make the next state and nothing else."""
    found = set[fx.Node]()
    for node in reversed(nodes):
        makes_it = all(user in found or (user.target is JOINED and node in ends) for user in node.users)
        if node.users and makes_it and (node.target in moves or node.target in JOINING):
            found.add(node)
    return found


def _on_the_way(nodes: list[fx.Node], ends: set[fx.Node], moves: Collection[Any]) -> set[fx.Node]:
    """Sums and products between a state and the next one, such as forget · state + input · candidate."""
    passing = ARITHMETIC | JOINING | set(moves)
    behind = {node for node in nodes if node.target is PART and node.args[5]}
    for node in nodes:
        if node.target in passing and any(source in behind for source in node.all_input_nodes):
            behind.add(node)
    before = set[fx.Node]()
    for node in reversed(nodes):
        if node.target in passing and (node in ends or any(user in before for user in node.users)):
            before.add(node)
    return behind & before
