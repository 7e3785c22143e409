"""Operations said in another form, because a converter or a runtime gets the first form wrong. Each says who does, and how."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from edgeloop_contract.errors import ModelError
from edgeloop_exporters.graph import TRANSPOSED, aten, layer_name, tensor_of

LOWEST = -1e30  # padding at or below it stands for minus infinity
PADS = (aten.constant_pad_nd.default, aten.pad.default)
MAX_POOLS = (aten.max_pool1d.default, aten.max_pool2d.default, aten.max_pool2d_with_indices.default)
CLIPS = (aten.relu.default, aten.relu_.default, aten.hardtanh.default)


def refuse_batch_statistics(module: fx.GraphModule) -> None:
    """A normalisation by the batch's own statistics means nothing on a device, where a batch is one sample. Raises ModelError."""
    for node in module.graph.nodes:
        if node.target is aten.batch_norm.default and (node.args[5] or tensor_of(module, node.args[3]) is None):
            raise ModelError(
                f"layer {layer_name(node) or '(network)'}: BatchNorm without running statistics normalises by the batch, and the"
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


def pads_with_least(node: fx.Node) -> bool:
    """Padding below everything, as before a max pooling: in integers it is the lowest of the input's own grid."""
    value = padding_value(node)
    return value is not None and value <= LOWEST


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
            scaled = _call(graph, node, aten.mul.Tensor, (second, factor), node.meta["val"])
        node.target, node.args, node.kwargs = aten.add.Tensor, (scaled, first), {}


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
            square = _call(graph, node, aten.mul.Tensor, (node.args[0], node.args[0]), node.args[0].meta["val"])
            total = _call(graph, node, aten.sum.dim_IntList, (square, list(places), keeps), node.meta["val"])
            root = _call(graph, node, aten.sqrt.default, (total,), node.meta["val"])
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


def trailing_softmax(module: fx.GraphModule) -> str:
    """Take a softmax or its logarithm off the end: scores are logits, and whoever reads them makes probabilities of them.

    Returns the layer's name, '' where there is none. Probabilities stay the same: those of log-softmax are those of its input.
    """
    output = module.graph.output_node()
    (last,) = output.all_input_nodes
    if last.target not in (aten.softmax.int, aten.log_softmax.int) or last.args[1] not in (-1, last.meta["val"].dim() - 1):
        return ""
    (scores, *_) = last.all_input_nodes
    output.replace_input_with(last, scores)
    name = layer_name(last) or "the last operation"
    module.graph.erase_node(last)
    return name


def broadcasts(module: fx.GraphModule) -> None:
    """An expand whose readers broadcast anyway is left out: TFLite's converter cannot move it to channels last."""
    joining = {aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor}
    graph = module.graph
    for node in list(graph.nodes):
        if node.target not in (aten.expand.default, aten.expand_as.default) or not node.users:
            continue
        source = node.args[0].meta["val"]
        whole = [u for u in node.users if u.target in joining and _others_as_large(u, node)]
        if len(whole) == len(node.users) and source.dim() == node.meta["val"].dim():
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)


def _others_as_large(user: fx.Node, node: fx.Node) -> bool:
    others = [a for a in user.args[:2] if isinstance(a, fx.Node) and a is not node]
    return len(others) == 1 and "val" in others[0].meta and others[0].meta["val"].shape == node.meta["val"].shape


def uneven_nearest(module: fx.GraphModule) -> None:
    """Nearest resizing by no whole factor picks rows and columns by index: the runtimes round the places differently."""
    graph = module.graph
    for node in list(graph.nodes):
        if node.target is not aten.upsample_nearest2d.vec:
            continue
        before, after = node.args[0].meta["val"], node.meta["val"]
        sizes = [(int(before.shape[axis]), int(after.shape[axis])) for axis in (2, 3)]
        if all(new % old == 0 for old, new in sizes):
            continue
        with torch.no_grad():
            ramps = [torch.arange(old, dtype=torch.float32) for old, _ in sizes]
            grid = ramps[0][:, None] * sizes[1][0] + ramps[1]
            picked = aten.upsample_nearest2d.vec(grid[None, None], node.args[1], node.args[2])[0, 0].long()
        rows, columns = picked[:, 0] // sizes[1][0], picked[0] % sizes[1][0]
        found = node.args[0]
        for axis, places in ((2, rows), (3, columns)):
            name = f"{node.name}_places_{axis}"
            module.register_buffer(name, places)
            with graph.inserting_before(node):
                index = graph.get_attr(name)
                index.meta = {"val": places}
                value = found.meta["val"].index_select(axis, places)
                found = _call(graph, node, aten.index_select.default, (found, axis, index), value)
        node.replace_all_uses_with(found)
        graph.erase_node(node)


def uneven_average_pools(module: fx.GraphModule) -> None:
    """Average pooling with ceil_mode as one over whole windows, times what each place has too few of.

    ONNX Runtime's integer kernel divides the cut windows at the edge by a whole window's size (10 steps off).
    """
    graph = module.graph
    for node in list(graph.nodes):
        if node.target is not aten.avg_pool2d.default or len(node.args) < 5 or not node.args[4]:
            continue
        x, kernel, stride, padding = node.args[0], *(_pair(a) for a in node.args[1:4])
        stride = stride or kernel
        shape, out = x.meta["val"].shape, node.meta["val"].shape
        more = [max(0, (int(out[2 + i]) - 1) * stride[i] + kernel[i] - int(shape[2 + i]) - padding[i]) for i in (0, 1)]
        with torch.no_grad():
            ones = torch.ones(1, 1, int(shape[2]), int(shape[3]))
            share = aten.avg_pool2d(ones, *node.args[1:])
            padded = torch.nn.functional.pad(ones, (padding[1], more[1], padding[0], more[0]))
            factor = share / aten.avg_pool2d(padded, kernel, stride)
        name = f"{node.name}_share"
        module.register_buffer(name, factor)
        with graph.inserting_before(node):
            sides = [padding[1], more[1], padding[0], more[0]]
            wide = _call(graph, node, aten.constant_pad_nd.default, (x, sides, 0.0), _padded(x.meta["val"], sides))
            pooled = _call(graph, node, aten.avg_pool2d.default, (wide, kernel, stride), node.meta["val"])
            constant = graph.get_attr(name)
            constant.meta = {"val": factor}
            whole = _call(graph, node, aten.mul.Tensor, (pooled, constant), node.meta["val"])
        node.replace_all_uses_with(whole)
        graph.erase_node(node)


def _pair(value: Any) -> list[int]:
    given = [value] if isinstance(value, int) else list(value)
    return given * 2 if len(given) == 1 else given


def _padded(value: Tensor, sides: list[int]) -> Tensor:
    return torch.nn.functional.pad(value, sides)


def _call(graph: fx.Graph, like: fx.Node, target: Any, args: tuple[Any, ...], value: Tensor) -> fx.Node:
    """A node in `like`'s layer, with a value of this shape."""
    made = graph.call_function(target, args)
    made.meta = {**like.meta, "val": value}
    return made


def output_paddings(module: fx.GraphModule) -> None:
    """A transposed convolution with output padding as one without padding, cut to its size: TFLite's converter has no other.

    Called when BatchNorm is folded; the cut goes behind the activation that fuses into the layer.
    """
    graph = module.graph
    for node in list(graph.nodes):
        more = _numbers(node, 5) if node.target in TRANSPOSED else []
        padding = _numbers(node, 4) if any(more) else []
        if not padding or any(m > p for m, p in zip(more, padding, strict=True)):
            continue
        last = node
        while len(last.users) == 1 and next(iter(last.users)).target in (
            aten.relu.default,
            aten.relu_.default,
            aten.hardtanh.default,
        ):
            last = next(iter(last.users))
        sizes = last.meta["val"].shape[2:]
        node.args = (*node.args[:4], [0] * len(padding), [0] * len(padding), *node.args[6:])
        found = last
        for axis, (before, size) in enumerate(zip(padding, sizes, strict=True), 2):
            with graph.inserting_after(found):
                found = _call(graph, last, aten.slice.Tensor, (found, axis, before, before + int(size)), last.meta["val"])
        first = next(u for u in last.users if u.target is aten.slice.Tensor and u.meta["val"] is last.meta["val"])
        last.replace_all_uses_with(found, delete_user_cb=lambda user, first=first: user is not first)
    module.recompile()


def _numbers(node: fx.Node, place: int) -> list[int]:
    """A list among a transposed convolution's arguments, one number an axis of places."""
    axes = node.meta["val"].dim() - 2
    given = list(node.args[place]) if len(node.args) > place else [0]  # type: ignore[arg-type]
    return given * axes if len(given) == 1 else given


def constants_first(module: fx.GraphModule) -> None:
    """constant − x as x · (−1) + constant: TFLite's converter folds the subtraction into the convolution before it, and loses
    the sign (100 % of answers became 0 %). Only where x is computed in float; integer operations are converted rightly.
    """
    rounded = (torch.ops.quantized_decomposed.dequantize_per_tensor.default,)
    graph = module.graph
    for node in list(graph.nodes):
        if node.target in (aten.rsub.Scalar, aten.rsub.Tensor):
            x, constant = node.args[:2]
        elif node.target is aten.sub.Tensor:
            constant, x = node.args[:2]
        else:
            continue
        fixed = not isinstance(constant, fx.Node) or tensor_of(module, constant) is not None
        if not fixed or not isinstance(x, fx.Node) or x.target in rounded:
            continue
        with graph.inserting_before(node):
            negative = graph.call_function(aten.mul.Tensor, (x, -1.0))
            negative.meta = dict(node.meta)
            added = graph.call_function(aten.add.Tensor, (negative, constant))
            added.meta = dict(node.meta)
        node.replace_all_uses_with(added)
        graph.erase_node(node)
    module.recompile()


ALWAYS = (alphas, vector_norms, broadcasts, uneven_nearest, uneven_average_pools)  # of every graph; the others for one converter
