"""The leading part of a network that has to stay in float: a spectrum, a level, a norm of the raw input; or so many layers.

A spectrum squares sums of the input, and a logarithm tells the quiet ones apart: over 80 dB and more, where 8 bits hold 48.
"""

from __future__ import annotations

import operator

from torch import Tensor, fx

from edgeloop_exporters.floating import SAME_SCALE
from edgeloop_exporters.graph import WEIGHTED, aten, tensor_of
from edgeloop_exporters.inputs import is_entry

__all__ = ["leading_part", "spectrum"]

BENT = {aten.relu.default, aten.max_pool1d.default, aten.max_pool2d.default}  # among what keeps a scale
MOVES = (SAME_SCALE - BENT) | {
    aten.cat.default, aten.stack.default, operator.getitem, aten.reflection_pad1d.default, aten.reflection_pad2d.default,
    aten.replication_pad1d.default, aten.replication_pad2d.default, aten.unfold.default, aten.im2col.default, aten.index.Tensor,
    aten._to_copy.default, aten.to.dtype, aten.flip.default,
}  # fmt: skip
LOGARITHMS = {aten.log.default, aten.log2.default, aten.log10.default, aten.log1p.default}
POWERS = {
    aten.sqrt.default, aten.rsqrt.default, aten.abs.default, aten.square.default, aten.pow.Tensor_Scalar, aten.pow.Tensor_Tensor,
    aten.std.correction, aten.var.correction, aten.reciprocal.default, aten.atan2.default,
}  # fmt: skip
AVERAGES = {
    aten.mean.dim, aten.mean.default, aten.std.correction, aten.var.correction, aten.adaptive_avg_pool1d.default,
    aten.adaptive_avg_pool2d.default, aten.avg_pool1d.default, aten.avg_pool2d.default,
}  # fmt: skip
ARITHMETIC = {
    aten.add.Tensor, aten.sub.Tensor, aten.rsub.Scalar, aten.mul.Tensor, aten.div.Tensor, aten.neg.default, aten.sum.dim_IntList,
    aten.amax.default, aten.amin.default, aten.minimum.default, aten.maximum.default, aten.batch_norm.default, aten.where.self,
    aten.eq.Tensor, aten.eq.Scalar, aten.gt.Scalar, aten.lt.Scalar, aten.ne.Scalar, aten.max.dim, aten.min.dim,
}  # fmt: skip
BOUNDED = {aten.clamp_min.default, aten.clamp.default, aten.hardtanh.default}  # (x, least, most)
PLAIN = {*WEIGHTED, *MOVES, *LOGARITHMS, *POWERS, *AVERAGES, *ARITHMETIC}
LARGE = 1000.0  # what bounds a level; an activation is bounded by 1 or 6
PARTS = 2  # of a complex number


def spectrum(module: fx.GraphModule) -> set[fx.Node]:
    """What computes a spectrum, a level or a norm of the input, and what follows up to the next layer; none where nothing does.

    That is all between the input and a logarithm, a root or a square, if no activation stands on that way. A norm of what a layer
    makes, such as a LayerNorm behind patches of a picture, is none: that layer is learned, and its values are even.
    """
    plain = _without_activation(module)
    behind_layers: set[fx.Node] = set()
    front: set[fx.Node] = set()
    for node in plain:
        if node.target in WEIGHTED or any(source in behind_layers for source in node.all_input_nodes):
            behind_layers.add(node)
        if node.target in LOGARITHMS or _is_power(node):
            cone = _before(node, plain)
            if node.target in LOGARITHMS or not any(map(_is_norm, (cone | set(node.users)) & behind_layers)):
                front |= cone
    for node in plain:
        read = [source for source in node.all_input_nodes if source.op != "get_attr"]
        if node.target not in WEIGHTED and all(source in front for source in read):
            front.add(node)
    return _without_last_moves(module, front)


def leading_part(module: fx.GraphModule, layers: int) -> set[fx.Node]:
    """The first `layers` layers with weights, counted along the longest way, and what stands before the next ones; quantizers
    between them are passed. None where an answer is among them: that is no beginning, and answers are rounded.
    """
    depth: dict[fx.Node, int] = {}
    part: set[fx.Node] = set()
    for node in module.graph.nodes:
        given = [depth[source] for source in node.all_input_nodes if source in depth]
        if is_entry(node):
            depth[node] = 0
        elif given and node.op != "output":
            depth[node] = max(given) + (node.target in WEIGHTED)
            if node.op == "call_function" and depth[node] <= layers and isinstance(node.meta.get("val"), Tensor):
                part.add(node)
    ends = module.graph.output_node().all_input_nodes
    answers = {end if end.op != "call_module" else end.all_input_nodes[0] for end in ends}
    return _without_last_moves(module, part) if layers and not answers & part else set()


def _without_activation(module: fx.GraphModule) -> dict[fx.Node, None]:
    """Operations, in order, that read the input, constants, and each other alone."""
    plain: dict[fx.Node, None] = {}
    entries: set[fx.Node] = set()
    for node in module.graph.nodes:
        value = node.meta.get("val")
        if is_entry(node):
            if isinstance(value, Tensor) and value.is_floating_point():
                entries.add(node)
            continue
        read = [source for source in node.all_input_nodes if tensor_of(module, source) is None]
        known = bool(read) and all(source in plain or source in entries for source in read)
        if node.op == "call_function" and known and (node.target in PLAIN or _is_level(node)) and not _bends(module, node):
            plain[node] = None
    return plain


def _is_level(node: fx.Node) -> bool:
    """Bounds that keep a level away from zero, or a decibel within its range; those of an activation are 0, 1 or 6."""
    if node.target not in BOUNDED:
        return False
    limits = [limit for limit in node.args[1:] if isinstance(limit, (int, float))]
    return bool(limits) and (limits[0] > 0 or limits[0] < -LARGE or (len(limits) > 1 and limits[1] > LARGE))


def _bends(module: fx.GraphModule, node: fx.Node) -> bool:
    """A relu as a maximum with zero, and a gate: a product of two different things."""
    if node.target is aten.maximum.default:
        constants = [tensor_of(module, arg) for arg in node.args]
        return any(value is not None and not bool(value.any()) for value in constants)
    constant = any(not isinstance(arg, fx.Node) or tensor_of(module, arg) is not None for arg in node.args[:2])
    return node.target is aten.mul.Tensor and not constant and node.args[0] is not node.args[1]


def _is_power(node: fx.Node) -> bool:
    return node.target in POWERS or (node.target is aten.mul.Tensor and node.args[0] is node.args[1])


def _is_norm(node: fx.Node) -> bool:
    """A mean over what layers made, or a sum of more than the two parts of a complex number."""
    if node.target is not aten.sum.dim_IntList:
        return node.target in AVERAGES
    value, axes = node.args[0].meta["val"], node.args[1]  # type: ignore[union-attr]
    return any(value.shape[axis] != PARTS for axis in axes or range(value.dim()))  # type: ignore[union-attr]


def _before(node: fx.Node, plain: dict[fx.Node, None]) -> set[fx.Node]:
    """This one, and all that it is computed of."""
    cone, waiting = set[fx.Node](), [node]
    while waiting:
        one = waiting.pop()
        if one in plain and one not in cone:
            cone.add(one)
            waiting += one.all_input_nodes
    return cone


def _without_last_moves(module: fx.GraphModule, part: set[fx.Node]) -> set[fx.Node]:
    """What only moves or joins values at the end of the part is done with rounded ones."""
    for node in reversed(module.graph.nodes):
        if node in part and node.target in MOVES and not any(user in part for user in node.users):
            part.discard(node)
    return part
