"""Which layer a converter fails at, or gets wrong: found by converting the beginnings of the graph, halving each time."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from edgeloop_exporters.graph import layer_name
from edgeloop_exporters.quantizers import ActivationQuantizer
from edgeloop_exporters.quiet import quiet

MAX_TRIES = 10  # a conversion takes seconds; 2^10 operations


def faulty_layer(module: fx.GraphModule, works: Callable[[fx.GraphModule], bool]) -> str:
    """ "layer NAME (operation)" of the first operation with which the graph's beginning does not work; '' when none was found.

    `works`: called with a graph that ends at an operation of `module`; it must be true for beginnings without the fault.
    """
    places = _ends(module)
    good, bad = -1, len(places) - 1
    for _ in range(MAX_TRIES):
        if bad - good <= 1:
            break
        middle = (good + bad) // 2
        if works(beginning_until(module, places[middle])):
            good = middle
        else:
            bad = middle
    if bad - good > 1 or bad < 0:
        return ""
    node = places[bad]
    if node.op == "call_module":
        node = node.all_input_nodes[0]
    name, operation = layer_name(node), _operation(node)
    return f"layer {name} ({operation})" if name else f"the operation {operation} in the network's own forward()"


def _operation(node: fx.Node) -> str:
    if not isinstance(node.target, torch._ops.OpOverload):
        node = node.all_input_nodes[0]  # one of several results
    return str(node.target).removeprefix("aten.").split(".")[0]


def _ends(module: fx.GraphModule) -> list[fx.Node]:
    """Where a beginning may end: behind quantizers, where there are any, so that it ends in integers as the whole does."""
    rounded = [n for n in module.graph.nodes if n.op == "call_module" and n.all_input_nodes[0].op == "call_function"]
    rounded = [n for n in rounded if isinstance(module.get_submodule(str(n.target)), ActivationQuantizer)]
    return rounded or [n for n in module.graph.nodes if n.op == "call_function" and _is_answer(n.meta.get("val"))]


def _is_answer(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.dim() >= 2 and not isinstance(value.shape[0], int)


def beginning_until(module: fx.GraphModule, node: fx.Node) -> fx.GraphModule:
    """A copy of the graph that answers what `node` makes."""
    with quiet():
        short = copy.deepcopy(module)
    last = next(n for n in short.graph.nodes if n.name == node.name)
    output = short.graph.output_node()
    output.args = ((last,),)
    short.graph.eliminate_dead_code()
    short.recompile()
    return short
