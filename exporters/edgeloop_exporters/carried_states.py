"""What a recurrent layer hands itself from call to call stays in float: an error of rounding would add up over a recording."""

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


def carried_states(module: fx.GraphModule, moves: Collection[Any]) -> set[fx.Node]:
    """Recurrent layers, and what only moves or joins their states on the way to an output that comes back as an input.

    `moves`: operations that only move values.
    """
    names = {entry.output for entry in inputs_of(module)} - {""}
    (last,) = module.graph.output_node().all_input_nodes
    if not names or last.target is not JOINED:
        return set()
    layers = {node for node in module.graph.nodes if node.target in RECURRENT}
    layers |= {node for node in module.graph.nodes if node.target is operator.getitem and node.args[0] in layers}
    found = set(layers)
    given: Any = last.args
    for node, name in zip(*given, strict=True):
        if name not in names:
            continue
        path, waiting = set[fx.Node](), [node]
        while waiting:
            seen = waiting.pop()
            if seen in layers or seen.target is PART or seen in path:
                continue
            if seen.target in JOINING:
                waiting += seen.args[0]
            elif seen.target in moves:
                waiting.append(seen.args[0])
            else:  # computed by something else, in integers
                path.clear()
                break
            path.add(seen)
        found |= path
    return found
