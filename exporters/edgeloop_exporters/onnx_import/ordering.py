"""Nodes in an order in which each comes behind what makes its inputs; converters leave others, which runtimes put right."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

__all__ = ["in_order"]


def in_order(nodes: Sequence[Any]) -> list[Any]:
    """The nodes, in their own order where it is one already. What nothing makes, and circles, stay where they are."""
    maker = {name: i for i, node in enumerate(nodes) for name in node.output if name}
    needs = [[maker[name] for name in _reads(node) if name in maker] for node in nodes]
    if all(need < i for i, before in enumerate(needs) for need in before):
        return list(nodes)
    done: list[int] = []
    seen: set[int] = set()
    for start in range(len(nodes)):
        waiting = [(start, iter(needs[start]))] if start not in seen else []
        seen.add(start)
        while waiting:
            i, before = waiting[-1]
            need = next((n for n in before if n not in seen), None)
            if need is None:
                done.append(i)
                waiting.pop()
            else:
                seen.add(need)
                waiting.append((need, iter(needs[need])))
    return [nodes[i] for i in done]


def _reads(node: Any) -> Iterator[str]:
    """Its inputs, and those that its subgraphs take from around them."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for graph in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
            for inner in graph.node:
                yield from _reads(inner)
            yield from (output.name for output in graph.output)
