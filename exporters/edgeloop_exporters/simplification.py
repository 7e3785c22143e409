"""A traced graph in the form that integer runtimes know, before BatchNorm is folded and quantizers go in."""

from __future__ import annotations

from typing import Any

from torch import fx

from edgeloop_exporters import activations, convolutions, copies, resizing, rewrites, selections, slices, token_rewrites
from edgeloop_exporters.graph import aten

REWRITES = (
    convolutions.named_paddings, token_rewrites.narrow_tokens, token_rewrites.tables_of_one_hots, rewrites.constants,
    rewrites.fixed_filters, token_rewrites.rows_of_constants, token_rewrites.attention_of_four_axes, rewrites.alphas,
    rewrites.log_sigmoids, rewrites.nothing_done, rewrites.reductions_of_one, rewrites.largest_of_all_places,
    rewrites.vector_norms, selections.fixed_gathers, selections.extrema_alone, selections.middle_values,
    selections.adaptive_maxima, selections.running_extrema, copies.parts_apart, copies.quarter_turns, copies.flips_apart,
    copies.repeated, rewrites.long_reflections, copies.broadcasts, resizing.uneven_nearest, resizing.uneven_average_pools,
    activations.by_straight_pieces, activations.slopes, activations.gelus, slices.parts_of_joined,
)  # fmt: skip


def simplify(module: fx.GraphModule) -> None:
    """Rewrite operations in the form that runtimes have integer kernels for. Otherwise each becomes a chain of float arithmetic.

    Adaptive pooling to one value is a mean, and a mean over all places keeps its dimensions; a flatten of (N, C, 1, 1) is a
    squeeze; SiLU is x · sigmoid(x); dropout is removed.
    """
    rewrites.refuse_batch_statistics(module)
    module.graph.eliminate_dead_code()
    for rewrite in REWRITES:
        rewrite(module)
    graph = module.graph
    for node in list(graph.nodes):
        if node.target is aten.dropout.default:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
        elif node.target is aten.adaptive_avg_pool2d.default and list(node.args[1]) == [1, 1]:
            node.target, node.args = aten.mean.dim, (node.args[0], [2, 3], True)
        elif node.target is aten.mean.dim and _over_all_places(node):
            _squeeze_after(graph, node)
        elif node.target is aten.flatten.using_ints and node.args[1:] in ((1,), (1, -1)):
            trailing = node.args[0].meta["val"].shape[2:]
            if len(trailing) and all(isinstance(size, int) and size == 1 for size in trailing):
                node.target, node.args = aten.squeeze.dims, (node.args[0], list(range(2, 2 + len(trailing))))
        elif node.target in (aten.silu.default, aten.silu_.default):
            with graph.inserting_before(node):
                gate = graph.call_function(aten.sigmoid.default, (node.args[0],))
            gate.meta = dict(node.meta)
            node.target, node.args = aten.mul.Tensor, (node.args[0], gate)
    activations.numbers_as_tensors(module)
    module.recompile()


def _over_all_places(node: Any) -> bool:
    """A mean over every dimension after the channels that drops them."""
    rank = node.args[0].meta["val"].dim()
    keeps = len(node.args) > 2 and bool(node.args[2])
    return rank == 4 and not keeps and sorted(int(d) % rank for d in node.args[1]) == [2, 3]


def _squeeze_after(graph: fx.Graph, node: Any) -> None:
    node.args = (node.args[0], [2, 3], True)
    with graph.inserting_after(node):
        squeezed = graph.call_function(aten.squeeze.dims, (node, [2, 3]))
    squeezed.meta = dict(node.meta)
    node.meta["val"] = node.meta["val"].unsqueeze(-1).unsqueeze(-1)
    node.replace_all_uses_with(squeezed, delete_user_cb=lambda user: user is not squeezed)
