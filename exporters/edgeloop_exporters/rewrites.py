"""Operations rewritten because a converter or a runtime gets the first form wrong. Each docstring says which one, and how."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx

from edgeloop_contract.errors import ModelError
from edgeloop_exporters.graph import WEIGHTED, aten, layer_name, set_parameter, tensor_of

LOWEST = -1e30  # padding at or below it stands for minus infinity
MAX_POOLS = (aten.max_pool1d.default, aten.max_pool2d.default, aten.max_pool2d_with_indices.default)
MAX_CONSTANT = 1 << 24  # values
NOTHING = {aten.add.Tensor: 0, aten.sub.Tensor: 0, aten.mul.Tensor: 1, aten.div.Tensor: 1}
LONG_AXIS = 512  # places
OF_AXES = (aten.mean.dim, aten.sum.dim_IntList, aten.amax.default, aten.amin.default)


def refuse_batch_statistics(module: fx.GraphModule) -> None:
    """A normalization by the batch's own statistics means nothing on a device, where a batch is one sample. Raises ModelError."""
    for node in module.graph.nodes:
        if node.target is aten.batch_norm.default and (node.args[5] or tensor_of(module, node.args[3]) is None):
            raise ModelError(
                f"layer {layer_name(node) or '(network)'}: BatchNorm without running statistics normalizes by the batch, and the"
                " batch of a device is one sample; build it with track_running_stats=True, or use GroupNorm"
            )


def padding_value(node: fx.Node) -> float | None:
    """What a constant padding puts around its input; None for every other operation."""
    if node.target is aten.constant_pad_nd.default:
        return float(node.args[2]) if len(node.args) > 2 else 0.0  # type: ignore[arg-type]
    if node.target is aten.pad.default and (len(node.args) < 3 or node.args[2] == "constant"):
        value = node.args[3] if len(node.args) > 3 else node.kwargs.get("value")
        return 0.0 if value is None else float(value)  # type: ignore[arg-type]
    return None


def pads_with_lowest(node: fx.Node) -> bool:
    """Padding below everything, as before a max pooling: in integers it is the lowest of the input's own grid."""
    value = padding_value(node)
    return value is not None and value <= LOWEST


def constants(module: fx.GraphModule) -> None:
    """Whatever no input reaches is computed now: a weight that a parametrization makes of others, or one made in forward().

    Layers with weights are found by the parameter that they read, so a computed weight would stay in float, or make a file that
    TFLite refuses.
    """
    graph = module.graph
    known: dict[fx.Node, Tensor] = {}
    for node in list(graph.nodes):
        if node.op == "get_attr":
            value = tensor_of(module, node)
            if value is not None:
                known[node] = value
        elif node.op == "call_function" and isinstance(node.meta.get("val"), Tensor) and _is_fixed(node, known):
            args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: known[n])
            with torch.no_grad():
                value = node.target(*args, **kwargs)
            if isinstance(value, Tensor) and value.numel() <= MAX_CONSTANT:
                known[node] = value.detach().clone()
    for node in [n for n in known if n.op == "call_function" and any(u not in known for u in n.users)]:
        name = f"constant_{node.name}"
        if any(user.target in WEIGHTED for user in node.users):
            set_parameter(module, name, known[node])
        else:  # no weight: training into integers leaves it as it is
            module.register_buffer(name, known[node])
        with graph.inserting_before(node):
            read = graph.get_attr(name)
        read.meta = {**node.meta, "val": known[node]}
        node.replace_all_uses_with(read)
    graph.eliminate_dead_code()
    module.recompile()


def fixed_filters(module: fx.GraphModule) -> None:
    """A weight or bias in a buffer, as of a blur, becomes a parameter without a gradient: rounding looks for parameters alone."""
    for node in [n for n in module.graph.nodes if n.target in WEIGHTED]:
        for read in node.args[1:3]:
            value = tensor_of(module, read)
            if value is not None and not isinstance(value, torch.nn.Parameter):
                set_parameter(module, str(read.target), value, trained=False)


def _is_fixed(node: fx.Node, known: dict[fx.Node, Tensor]) -> bool:
    """Made of constants alone, and the same every time."""
    name = str(node.target)
    return all(n in known for n in node.all_input_nodes) and not any(
        word in name for word in ("rand", "bernoulli", "dropout", "normal")
    )


def largest_of_all_places(module: fx.GraphModule) -> None:
    """Adaptive max pooling to one value is a maximum: TFLite's converter does not know the pooling."""
    graph = module.graph
    for node in list(graph.nodes):
        pooled = node.args[0] if node.target is operator.getitem and node.args[1] == 0 else None
        if not isinstance(pooled, fx.Node) or pooled.target is not aten.adaptive_max_pool2d.default or len(pooled.users) > 1:
            continue
        if list(pooled.args[1]) == [1, 1]:  # type: ignore[arg-type]
            node.target, node.args = aten.amax.default, (pooled.args[0], [2, 3], True)
            graph.erase_node(pooled)


def alphas(module: fx.GraphModule) -> None:
    """add and sub with a factor as two operations: TFLite's converter takes no factor."""
    graph = module.graph
    for node in list(graph.nodes):
        alpha = node.kwargs.get("alpha", node.args[2] if len(node.args) > 2 else 1)
        if node.target not in (aten.add.Tensor, aten.sub.Tensor, aten.rsub.Tensor, aten.rsub.Scalar) or alpha == 1:
            continue
        first, second = node.args[:2] if node.target in (aten.add.Tensor, aten.sub.Tensor) else (node.args[1], node.args[0])
        with graph.inserting_before(node):
            factor = alpha if node.target is aten.add.Tensor else -alpha
            scaled = call(graph, node, aten.mul.Tensor, (second, factor), node.meta["val"])
        node.target, node.args, node.kwargs = aten.add.Tensor, (scaled, first), {}


def log_sigmoids(module: fx.GraphModule) -> None:
    """log sigmoid(x) as −softplus(−x): TFLite's converter loses the shape of its two results."""
    graph = module.graph
    for node in list(graph.nodes):
        if node.target is aten.log_sigmoid.default:
            with graph.inserting_before(node):
                negative = call(graph, node, aten.neg.default, node.args, node.meta["val"])
                soft = call(graph, node, aten.softplus.default, (negative,), node.meta["val"])
            node.target, node.args = aten.neg.default, (soft,)


def reductions_of_one(module: fx.GraphModule) -> None:
    """A mean, sum or extremum along axes of one value is that value: runtimes drop the operation, and keep a scale of its own."""
    for node in list(module.graph.nodes):
        if node.target not in OF_AXES or len(node.args) < 2 or not isinstance(node.args[1], (list, tuple, int)):
            continue
        value = node.args[0].meta["val"]
        axes = [int(d) % value.dim() for d in ([node.args[1]] if isinstance(node.args[1], int) else node.args[1])]
        if not axes or not all(isinstance(value.shape[d], int) and value.shape[d] == 1 for d in axes):
            continue
        if len(node.args) > 2 and node.args[2]:
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)
        else:
            node.target, node.args = aten.squeeze.dims, (node.args[0], axes)


def nothing_done(module: fx.GraphModule) -> None:
    """x + 0, x − 0, x · 1 and x ÷ 1 are x: left in, they take a scale of their own."""
    for node in list(module.graph.nodes):
        if node.target in NOTHING and len(node.args) == 2 and not node.kwargs and node.args[1] == NOTHING[node.target]:
            source = node.args[0]
            if isinstance(source, fx.Node) and source.meta["val"].dtype == node.meta["val"].dtype:
                node.replace_all_uses_with(source)
                module.graph.erase_node(node)


def long_reflections(module: fx.GraphModule) -> None:
    """The mirror image at the ends of a long axis is looked up alone: TFLite's converter looks every place up, by an index each."""
    graph = module.graph
    for node in list(graph.nodes):
        pads = [int(p) for p in node.args[1]] if _reflects(node) else []
        source = node.args[0] if pads else None
        if source is None or any(pads[2:]) or not isinstance(source.meta["val"].shape[-1], int):
            continue
        value, (before, after) = source.meta["val"], pads[:2]
        size, axis = value.shape[-1], value.dim() - 1
        if size < LONG_AXIS or min(before, after) < 0 or max(before, after) >= size:
            continue
        parts: list[Any] = [source]
        with graph.inserting_before(node):
            for first, places in ((True, torch.arange(before, 0, -1)), (False, torch.arange(size - 2, size - 2 - after, -1))):
                if len(places):
                    name = f"mirrored_{node.name}_{len(parts)}"
                    module.register_buffer(name, places)
                    index = graph.get_attr(name)
                    index.meta = {**node.meta, "val": places}
                    looked = call(graph, node, aten.index_select.default, (source, axis, index), value.index_select(axis, places))
                    parts = [looked, *parts] if first else [*parts, looked]
            joined = call(graph, node, aten.cat.default, (parts, axis), node.meta["val"])
        node.replace_all_uses_with(joined)
        graph.erase_node(node)


def _reflects(node: fx.Node) -> bool:
    if node.target is aten.pad.default:
        return len(node.args) > 2 and node.args[2] == "reflect"
    return node.target is aten.reflection_pad1d.default


def vector_norms(module: fx.GraphModule) -> None:
    """A 2-norm as a root of a sum of squares: TFLite's converter drops dimensions of the operation itself (off by 10 orders)."""
    graph = module.graph
    for node in list(graph.nodes):
        if node.target is not aten.linalg_vector_norm.default:
            continue
        order = node.args[1] if len(node.args) > 1 else 2
        places, keeps = (node.args[2] if len(node.args) > 2 else None), (node.args[3] if len(node.args) > 3 else False)
        if order != 2 or places is None:
            continue
        with graph.inserting_before(node):
            square = call(graph, node, aten.mul.Tensor, (node.args[0], node.args[0]), node.args[0].meta["val"])
            total = call(graph, node, aten.sum.dim_IntList, (square, list(places), keeps), node.meta["val"])
            root = call(graph, node, aten.sqrt.default, (total,), node.meta["val"])
        node.replace_all_uses_with(root)
        graph.erase_node(node)


def is_normalized(node: fx.Node) -> bool:
    """x divided by its own 2-norm, which TFLite's converter makes one operation of."""
    if node.target is not aten.div.Tensor or not isinstance(node.args[1], fx.Node):
        return False
    root = node.args[1]
    while root.target in (aten.clamp_min.default, aten.clamp.default, aten.add.Tensor, aten.expand.default):
        root = root.args[0]  # type: ignore[assignment]
    total = root.args[0] if root.target is aten.sqrt.default else None
    square = total.args[0] if isinstance(total, fx.Node) and total.target is aten.sum.dim_IntList else None
    return isinstance(square, fx.Node) and square.target is aten.mul.Tensor and square.args == (node.args[0], node.args[0])


def trailing_softmax(module: fx.GraphModule) -> None:
    """Take a softmax or its logarithm off the end: scores of classes are logits, whose reader makes probabilities of them.

    Probabilities stay the same: those of log-softmax are those of its input. For classes alone.
    """
    output = module.graph.output_node()
    (last,) = output.all_input_nodes
    if last.target not in (aten.softmax.int, aten.log_softmax.int) or last.args[1] not in (-1, last.meta["val"].dim() - 1):
        return
    (scores, *_) = last.all_input_nodes
    output.replace_input_with(last, scores)
    module.graph.erase_node(last)
    module.recompile()


def call(graph: fx.Graph, like: fx.Node, target: Any, args: tuple[Any, ...], value: Any) -> fx.Node:
    """A node in `like`'s layer, with a value of this shape."""
    node = graph.call_function(target, args)
    node.meta = {**like.meta, "val": value}
    return node


# Of every graph; the others are for one converter.
