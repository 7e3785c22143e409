"""Names for what is added to somebody's ONNX graph."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from typing import Any

__all__ = ["free_name", "names_of", "rename"]


def names_of(graph: Any) -> set[str]:
    """Every tensor's name of an ONNX graph, those in its branches and loops too."""
    taken = {value.name for value in (*graph.input, *graph.output, *graph.initializer, *graph.value_info)}
    taken |= {value.values.name for value in graph.sparse_initializer}
    for node in graph.node:
        taken |= {*node.input, *node.output}
        for attribute in node.attribute:
            for inside in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                taken |= names_of(inside)
    return taken


def free_name(wanted: str, taken: set[str]) -> str:
    """`wanted`, with a number behind it if the name is taken; it is taken from now on."""
    name = next(name for i in count(1) if (name := wanted if i == 1 else f"{wanted}_{i}") not in taken)
    taken.add(name)
    return name


def rename(graph: Any, names: Mapping[str, str]) -> None:
    """Of nodes' inputs and outputs, in the graphs of branches and loops too: they read what lies outside of them."""
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for attribute in node.attribute:
            for inside in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                rename(inside, names)
                for output in inside.output:
                    output.name = names.get(output.name, output.name)
