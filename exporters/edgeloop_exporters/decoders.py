"""What a detector does with its layers' answers at the end: it makes boxes of them. That is done in float, because 8 bits of a
picture's width are a pixel or more, and because boxes and scores in one array share a scale, whose step is larger than any score.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx

from edgeloop_exporters.activations import readers_of
from edgeloop_exporters.floating import SAME_SCALE
from edgeloop_exporters.graph import CONVOLUTIONS, WEIGHTED, aten, tensor_of
from edgeloop_exporters.inputs import inputs_of
from edgeloop_exporters.outputs import JOINED, answers_here, last_nodes

__all__ = ["decoder_nodes", "reach_of"]

JOINING = (aten.cat.default, aten.stack.default)
WITH_CONSTANTS = (aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor)
SURE = 4.0  # whose sigmoid is 0.98
MIN_PLACES = 16  # a constant that differs at so many places is a grid of anchors


def decoder_nodes(module: fx.GraphModule) -> set[fx.Node]:
    """The operations behind the last layers, where they decode boxes; none where they do not.

    They do if arrays of different kinds are joined there, or if a grid is added. A sigmoid that reads a layer stays in integers:
    its steps are 1/256 of a score.
    """
    if inputs_of(module):  # detectors take a picture alone
        return set()
    tail = _tail(module)
    if not any(_joins_kinds(node) or _has_a_grid(module, node) for node in tail):
        return set()
    return {node for node in tail if node.target is not aten.sigmoid.default or _unmoved(node.args[0]) in tail}


def reach_of(node: fx.Node, decoding: set[fx.Node]) -> float | None:
    """How far up the range of a layer's answer must go, whatever calibration saw: pictures of nothing say nothing of what is sure.

    None: as far as what was seen, or less.
    """
    ends = readers_of(node)
    if ends and all(end.target is aten.sigmoid.default and _answers(end, decoding) for end in ends):
        return SURE
    return 0.0 if any(user in decoding for user in node.users) else None


def _answers(gate: fx.Node, decoding: set[fx.Node]) -> bool:
    """Whether a sigmoid's values are answers, and no factor of something else."""
    return all(answers_here(end) or end in decoding for end in readers_of(gate))


def _tail(module: fx.GraphModule) -> set[fx.Node]:
    """What leads to no layer with weights. A convolution that reads a softmax is no layer: it takes the mean of the places."""
    tail: set[fx.Node] = set()
    unread: set[fx.Node] = set()  # checks, and results that nobody takes: of a choice of the best, one of two
    ends = set(last_nodes(module))
    for node in reversed(module.graph.nodes):
        if node.op == "call_function" and node not in ends and all(user in unread for user in node.users):
            unread.add(node)
            continue
        if node.op != "call_function" or node.target is JOINED or not isinstance(node.meta.get("val"), Tensor | tuple | list):
            continue
        if node.target in WEIGHTED and getattr(_unmoved(node.args[0]), "target", None) is not aten.softmax.int:
            continue
        readers = [user for user in node.users if user.op == "call_function" and user.target is not JOINED and user not in unread]
        if (node in ends or readers) and all(user in tail for user in readers):
            tail.add(node)
    return tail


def _unmoved(node: Any) -> Any:
    """What made this, before it was moved."""
    while isinstance(node, fx.Node) and node.target in SAME_SCALE:
        node = node.args[0]
    return node


def _joins_kinds(node: fx.Node) -> bool:
    """Boxes and scores, in one array: made by different operations, or by different layers and joined along their channels."""
    if node.target not in JOINING:
        return False
    parts: Any = node.args[0]
    sources = [_unmoved(part) for part in parts]
    layers = [part for part in parts if part.target in CONVOLUTIONS]
    along_channels = len(node.args) > 1 and node.args[1] in (1, 1 - node.meta["val"].dim())
    return len({source.target for source in sources}) > 1 or (len(layers) == len(parts) > 1 and along_channels)


def _has_a_grid(module: fx.GraphModule, node: fx.Node) -> bool:
    if node.target not in WITH_CONSTANTS:
        return False
    constants = [tensor_of(module, arg) for arg in node.args[:2]]
    return any(value is not None and value.dim() > 1 and max(value.shape[-1], value.shape[-2]) >= MIN_PLACES for value in constants)
