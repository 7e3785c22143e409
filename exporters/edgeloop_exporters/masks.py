"""What a graph computes of token ids alone: masks of padding. They are float, and so is what they are added to or multiplied with.

A mask has one or two values, often 0 and the lowest float: rounded to 256 steps, such a range would leave nothing of the scores.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx

__all__ = ["MIGRATED", "embeddings", "is_migration", "mask_nodes", "masked_nodes"]

aten = torch.ops.aten
MIGRATED = "migrated_"  # begins the names of factors that `outliers` puts behind layers and LayerNorms
MASKING = {
    aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.where.self, aten.masked_fill.Scalar, aten.masked_fill.Tensor,
    aten.where.ScalarOther, aten.where.ScalarSelf, aten.where.Scalar,
}  # fmt: skip
MOVES = {aten.view.default, aten.reshape.default, aten.permute.default, aten.transpose.int, aten.unsqueeze.default}
SOFTMAXES = {aten.softmax.int, aten._softmax.default, aten.log_softmax.int}


def embeddings(module: fx.GraphModule) -> set[fx.Node]:
    """Rows of a table by whole numbers, and sums of such rows with each other and with constants."""
    found: set[fx.Node] = set()
    for node in module.graph.nodes:
        rows = node.target is aten.embedding.default
        summed = node.target is aten.add.Tensor and any(a in found for a in node.all_input_nodes)
        if rows or (summed and all(a in found or a.op == "get_attr" for a in node.all_input_nodes)):
            found.add(node)
    return found


def is_migration(node: fx.Node) -> bool:
    """A product with a factor for each channel, between float operations."""
    constants = [source for source in node.all_input_nodes if source.op == "get_attr"]
    return node.target is aten.mul.Tensor and any(str(c.target).startswith(MIGRATED) for c in constants)


def mask_nodes(module: fx.GraphModule) -> set[fx.Node]:
    """Floats that are made of whole numbers, truth values and single numbers alone."""
    masks: set[fx.Node] = set()
    for node in module.graph.nodes:
        value, sources = node.meta.get("val"), [s for s in node.all_input_nodes if isinstance(s.meta.get("val"), Tensor)]
        if node.op != "call_function" or not isinstance(value, Tensor) or not value.is_floating_point():
            continue
        made = [s for s in sources if s in masks or not s.meta["val"].is_floating_point()]
        if made and all(s in made or (s.op == "get_attr" and s.meta["val"].numel() == 1) for s in sources):
            masks.add(node)
    return masks


def masked_nodes(module: fx.GraphModule) -> set[fx.Node]:
    """Masks, what they are put on, and the softmaxes that read that."""
    masks = mask_nodes(module)
    masked: set[fx.Node] = set()
    for node in module.graph.nodes:
        value = node.meta.get("val")
        if node.op != "call_function" or not isinstance(value, Tensor) or not value.is_floating_point() or node in masks:
            continue
        sources = node.all_input_nodes
        put_on = node.target in MASKING and any(s in masks or _is_bool(s) for s in sources)
        if put_on or (node.target in MOVES | SOFTMAXES and any(s in masked for s in sources)):
            masked.add(node)
    moves = {node for node in masked if node.target in MOVES}
    return masks | (masked - moves)


def _is_bool(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.dtype == torch.bool
