"""Which operations of a quantized graph compute in float: those asked for, residual streams, divisions, roots, masks."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import Tensor, fx

from edgeloop_exporters.carried_states import carried_states
from edgeloop_exporters.graph import WEIGHTED, aten, layer_name, tensor_of
from edgeloop_exporters.inputs import is_entry
from edgeloop_exporters.masks import embeddings, is_migration, masked_nodes

__all__ = [
    "SAME_SCALE", "begins_stream", "floating_nodes", "fuses_into_next", "is_sum", "only_float_reads", "sources", "stays_float",
]  # fmt: skip

# The output of these is their input, moved or selected: both sides must carry one scale to stay in integers.
SAME_SCALE = {
    aten.relu.default, aten.max_pool1d.default, aten.max_pool2d.default, aten.avg_pool1d.default,
    aten.avg_pool2d.default, aten.view.default, aten.reshape.default, aten.flatten.using_ints, aten.permute.default,
    aten.transpose.int, aten.squeeze.dim, aten.squeeze.default, aten.squeeze.dims, aten.unsqueeze.default,
    aten.slice.Tensor, aten.select.int, aten.contiguous.default, aten.clone.default, aten.dropout.default,
    aten.expand.default, aten.pad.default, aten.constant_pad_nd.default, aten.upsample_nearest2d.vec,
    aten.unflatten.int, aten.movedim.int, aten.index_select.default, aten.flip.default, aten.amax.default, aten.amin.default,
    aten.roll.default, aten.tril.default, aten.triu.default, aten.pixel_shuffle.default, aten.pixel_unshuffle.default,
    aten.channel_shuffle.default, aten.max_pool3d.default, aten.upsample_nearest1d.vec, aten.upsample_nearest3d.vec,
    aten.repeat.default, aten.tile.default, aten.repeat_interleave.self_int, aten.im2col.default, aten.movedim.intlist,
}  # fmt: skip
# Merged into the layer before them by every integer runtime: only their output needs a scale.
FUSED_AFTER = {aten.relu.default, aten.relu_.default, aten.hardtanh.default, aten.hardtanh_.default, aten.relu6.default}
FUSING = {*WEIGHTED, aten.add.Tensor, aten.batch_norm.default}
NORMS = {aten.layer_norm.default, aten.native_layer_norm.default, aten.group_norm.default}  # float in every runtime
MAX_PLACES = 64  # of a softmax in integers
# Computed in float, with the operations of `CARRIED` that lead to nothing else.
ROOTS = {aten.sqrt.default, aten.rsqrt.default, aten.reciprocal.default, aten.log.default, aten.std.correction, aten.var.correction}
CARRIED = {
    aten.pow.Tensor_Scalar, aten.mul.Tensor, aten.add.Tensor, aten.sub.Tensor, aten.rsub.Scalar, aten.mean.dim,
    aten.sum.dim_IntList, aten.exp.default, aten.clamp_min.default, aten.clamp.default, aten.abs.default, aten.amax.default,
    aten.expand.default, aten.view.default, aten.reshape.default, aten.flatten.using_ints, aten.permute.default, aten.transpose.int,
    aten.squeeze.dim, aten.squeeze.default, aten.squeeze.dims, aten.unsqueeze.default, aten.adaptive_avg_pool1d.default,
    aten.adaptive_avg_pool2d.default,
}  # fmt: skip


def is_sum(node: fx.Node) -> bool:
    """Of two activations, as at the end of a residual block: no constant is added. Quantizers may stand before it."""
    return node.target is aten.add.Tensor and all(isinstance(s, fx.Node) and s.op != "get_attr" for s in sources(node))


def sources(node: fx.Node) -> list[Any]:
    """What an operation of two reads, before it is rounded."""
    return [a.args[0] if isinstance(a, fx.Node) and a.op == "call_module" else a for a in node.args[:2]]


def floating_nodes(module: fx.GraphModule, float_layers: Collection[str], float_streams: bool) -> set[fx.Node]:
    floating: set[fx.Node] = set()
    for node in module.graph.nodes:
        named = node.op == "call_function" and layer_name(node) in float_layers
        if named or (float_streams and (is_sum(node) or begins_stream(node))):
            floating.add(node)
            if fuses_into_next(node):
                floating.add(next(iter(node.users)))
    floating |= {node for node in module.graph.nodes if node.target in NORMS or _is_wide(node)}
    floating |= {node for node in module.graph.nodes if node.target is aten.add.Tensor and _is_normalized_later(node)}
    floating |= masked_nodes(module) | embeddings(module) | {node for node in module.graph.nodes if is_migration(node)}
    return floating | _divisions(module) | carried_states(module, SAME_SCALE)


def _is_normalized_later(node: fx.Node) -> bool:
    """A stream whose sums a normalization reads, as in transformers: their few large values take the steps from all others, and
    what reads them computes in float anyway.
    """
    return any(user.target in NORMS or (user.target in SAME_SCALE and _is_normalized_later(user)) for user in node.users)


def _is_wide(node: fx.Node) -> bool:
    """A softmax over so many places that an even share of each is a few of the 256 steps that TFLite's integer kernel has."""
    value = node.meta.get("val")
    if node.target is not aten.softmax.int or not isinstance(value, Tensor):
        return False
    places = value.shape[node.args[1]]  # type: ignore[index]
    return isinstance(places, int) and places > MAX_PLACES


def _divisions(module: fx.GraphModule) -> set[fx.Node]:
    """Divisions by an activation, roots, and the statistics that only they read: a divisor of 8 bits is zero now and then, and
    TFLite's kernel then stops.
    """
    floating: set[fx.Node] = set()
    for node in reversed(module.graph.nodes):
        divides = node.target is aten.div.Tensor and isinstance(node.args[1], fx.Node) and tensor_of(module, node.args[1]) is None
        carried = node.target in CARRIED and bool(node.users) and all(user in floating for user in node.users)
        if divides or node.target in ROOTS or carried:
            floating.add(node)
    return floating


def begins_stream(node: fx.Node) -> bool:
    """Does a sum, and another layer too, read what this layer with weights makes, quantized in between or not?"""
    if node.target not in WEIGHTED:
        return False
    last = next(iter(node.users)) if fuses_into_next(node) else node
    readers = [r for u in last.users for r in (u.users if u.op == "call_module" else [u])]
    return len(readers) > 1 and any(map(is_sum, readers))


def stays_float(node: fx.Node, floating: set[fx.Node]) -> bool:
    """Does it come unrounded: from the input, a constant, or what computes in float, moved or not?

    What an integer kernel makes is rounded whoever reads it: there is no such kernel with a float output.
    """
    source = node.args[0] if node.args else None
    moved = node.target in SAME_SCALE and isinstance(source, fx.Node)
    return node.op != "call_function" or is_entry(node) or node in floating or (moved and stays_float(source, floating))  # type: ignore[arg-type]


def only_float_reads(node: fx.Node, floating: set[fx.Node]) -> bool:
    """Also behind operations that only move it: rounded there, a runtime would take it for an integer layer's input."""
    return bool(node.users) and all(
        user in floating or (user.target in SAME_SCALE and only_float_reads(user, floating)) for user in node.users
    )


def fuses_into_next(node: fx.Node) -> bool:
    return node.target in FUSING and len(node.users) == 1 and next(iter(node.users)).target in FUSED_AFTER
