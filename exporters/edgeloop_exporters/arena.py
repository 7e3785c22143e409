"""Bytes of activations that a network needs at once, as integers."""

from __future__ import annotations

import math

from torch import Tensor, fx

from edgeloop_exporters.graph import aten

IN_PLACE = {aten.relu.default, aten.hardtanh.default, aten.squeeze.dims, aten.flatten.using_ints, aten.view.default}


def peak_bytes(module: fx.GraphModule) -> int:
    """The most that tensors alive at one time take, one byte a value, batch 1; what a runtime's arena must hold at least.

    `module`: a traced graph. Weights, which can stay in flash or in a mapped file, are not counted.
    """
    nodes = [n for n in module.graph.nodes if isinstance(n.meta.get("val"), Tensor) and n.op != "get_attr"]
    place = {node: i for i, node in enumerate(nodes)}
    size = {n: 0 if n.target in IN_PLACE else math.prod(int(s) for s in n.meta["val"].shape[1:]) for n in nodes}
    last = {n: max((_last(u, place) for u in n.users if u in place), default=place[n]) for n in nodes}
    return max(sum(size[n] for n in nodes if place[n] <= i <= last[n]) for i in range(len(nodes)))


def _last(node: fx.Node, place: dict[fx.Node, int]) -> int:
    """When the last reader of what `node` hands on has run; an operation in place hands on its own input."""
    if node.target not in IN_PLACE:
        return place[node]
    return max((_last(u, place) for u in node.users if u in place), default=place[node])
