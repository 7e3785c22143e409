"""Activations of straight pieces, and arithmetic with numbers, in the form that integer kernels know.

A runtime computes hard-swish, hard sigmoid and x + 3 in float between integer layers: it has kernels for two quantized tensors
alone. So hard sigmoid is relu6(x + 3) / 6, numbers become tensors with a scale of their own, which holds them exactly, and a
product with a positive number keeps the integers of its input under another scale (`quantizers.Rescaled`): it costs nothing.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from edgeloop_exporters.floating import SAME_SCALE
from edgeloop_exporters.gates import FLOORS, GATED, OPENS
from edgeloop_exporters.graph import aten, set_parameter, tensor_of
from edgeloop_exporters.rewrites import call

__all__ = ["by_straight_pieces", "factor_of", "gelus", "greatest_read", "least_read", "numbers_as_tensors", "readers_of", "slopes"]

HARD_SWISH = {aten.hardswish.default, aten.hardswish_.default}
HARD_SIGMOID = {aten.hardsigmoid.default, aten.hardsigmoid_.default}
PRODUCTS = {aten.mul.Tensor, aten.div.Tensor}
CLAMPS = {aten.clamp.default, aten.clamp_.default}


def by_straight_pieces(module: fx.GraphModule) -> None:
    """Hard-swish as x · relu6(x + 3) / 6, hard sigmoid as its second factor, a clamp between two numbers as a hard tanh."""
    graph = module.graph
    for node in list(graph.nodes):
        if node.target in HARD_SWISH | HARD_SIGMOID:
            x, value = node.args[0], node.meta["val"]
            with graph.inserting_before(node):
                shifted = call(graph, node, aten.add.Tensor, (x, 3.0), value)
                bent = call(graph, node, aten.relu6.default, (shifted,), value)
                if node.target in HARD_SIGMOID:
                    node.target, node.args = aten.mul.Tensor, (bent, 1 / 6)
                    continue
                gate = call(graph, node, aten.mul.Tensor, (bent, 1 / 6), value)
            node.target, node.args = aten.mul.Tensor, (x, gate)
        elif node.target in CLAMPS and len(node.args) == 3 and all(isinstance(a, (int, float)) for a in node.args[1:]):
            node.target = aten.hardtanh.default
            _as_relu6(module, node)


def _as_relu6(module: fx.GraphModule, node: fx.Node) -> None:
    """clamp(a · x + b, 0, h) as relu6(6 a / h · x + 6 b / h) · h / 6: relu6 is a step that TFLite's integer kernels end in."""
    (line, low, high), graph = node.args, module.graph
    if low != 0 or high == 6 or not isinstance(line, fx.Node) or len(line.users) > 1:
        return
    numbers = [_number(module, operand) for operand in line.args[:2]]
    if line.target is not aten.add.Tensor or numbers.count(None) != 1 or line.kwargs:
        return
    place = numbers.index(None)
    parts, slope = _inner(module, line.args[place])
    offset, k = numbers[1 - place], 6 / high  # type: ignore[operator]
    if len(parts) != 1 or slope <= 0 or offset is None:
        return
    value = node.meta["val"]
    with graph.inserting_before(node):
        steep = call(graph, node, aten.mul.Tensor, (parts[0], slope * k), value)
        shifted = call(graph, node, aten.add.Tensor, (steep, offset * k), value)
        bent = call(graph, node, aten.relu6.default, (shifted,), value)
    node.target, node.args = aten.mul.Tensor, (bent, 1 / k)


def slopes(module: fx.GraphModule) -> None:
    """PReLU with a slope for each channel as x + relu((slope − 1) · x), the product a convolution of one place.

    Both runtimes have integer kernels for all three. ONNX Runtime computes PReLU itself in float, channels last, a few values at
    a time: seven times as long as a network with relu. Where a slope is beyond 1, that channel's relu is of (1 − slope) · x, and
    another such convolution takes it away. A slope for all channels is a leaky relu.
    """
    for node in list(module.graph.nodes):
        if node.target is not aten.prelu.default:
            continue
        x, given, value = node.args[0], tensor_of(module, node.args[1]), node.meta["val"]
        if given is None or value.dim() not in (3, 4):
            continue
        slope = given.detach()
        if slope.numel() == 1:
            node.target, node.args = aten.leaky_relu.default, (x, float(slope))
            continue
        with module.graph.inserting_before(node):
            less = _by_channel(module, node, x, -(slope - 1).abs(), f"{node.name}_weight")
            bent = call(module.graph, node, aten.relu.default, (less,), value)
            if bool((slope > 1).any()):
                bent = _by_channel(module, node, bent, torch.where(slope > 1, -1.0, 1.0), f"{node.name}_sign")
        node.target, node.args = aten.add.Tensor, (x, bent)


def _by_channel(module: fx.GraphModule, node: fx.Node, x: Any, factors: torch.Tensor, name: str) -> fx.Node:
    """The product with a factor for each channel as a convolution of one place, in front of `node` and in its layer."""
    places = node.meta["val"].dim() - 2
    set_parameter(module, name, factors.reshape(-1, 1, *[1] * places))
    weight = module.graph.get_attr(name)
    weight.meta = {**node.meta, "val": tensor_of(module, weight)}
    target, ones = (aten.conv2d.default if places == 2 else aten.conv1d.default), [1] * places
    return call(module.graph, node, target, (x, weight, None, ones, [0] * places, ones, len(factors)), node.meta["val"])


def gelus(module: fx.GraphModule) -> None:
    """x · (1 + erf(x / √2)) / 2, as exporters write GELU, is GELU again: both runtimes have a kernel for the whole."""
    graph = module.graph
    for node in reversed(list(graph.nodes)):
        if node.target not in PRODUCTS or not node.users:
            continue
        parts, number = _product(module, node)
        for x, plus in (parts, parts[::-1]) if len(parts) == 2 and abs(number - 0.5) < 1e-4 else ():
            erf = _less_one(module, plus)
            inner, root = _product(module, erf.args[0]) if erf is not None else ([], 0.0)
            if inner == [x] and abs(root - math.sqrt(0.5)) < 1e-4:
                with graph.inserting_before(node):
                    whole = call(graph, node, aten.gelu.default, (x,), node.meta["val"])
                node.replace_all_uses_with(whole)
                break
    graph.eliminate_dead_code()


def _product(module: fx.GraphModule, node: Any) -> tuple[list[fx.Node], float]:
    """The factors of a product of products that nobody else reads, and the number among them."""
    if node.target not in PRODUCTS:
        return [node], 1.0
    first, second = node.args[:2]
    numbers = [_number(module, first), _number(module, second)]
    if node.target is aten.div.Tensor:
        parts, above = _inner(module, first)
        return (parts, above / numbers[1]) if numbers[1] else ([node], 1.0)
    found, product = list[fx.Node](), 1.0
    for part, known in zip((first, second), numbers, strict=True):
        inner, factor = _inner(module, part) if known is None else (list[fx.Node](), known)
        found, product = [*found, *inner], product * factor
    return found, product


def _inner(module: fx.GraphModule, part: Any) -> tuple[list[fx.Node], float]:
    return _product(module, part) if isinstance(part, fx.Node) and len(part.users) == 1 else ([part], 1.0)


def _less_one(module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """The erf of erf(…) + 1."""
    if node.target is not aten.add.Tensor or 1.0 not in (_number(module, node.args[0]), _number(module, node.args[1])):
        return None
    return next((a for a in node.args if isinstance(a, fx.Node) and a.target is aten.erf.default), None)


def _number(module: fx.GraphModule, operand: Any) -> float | None:
    if isinstance(operand, (int, float)):
        return float(operand)
    tensor = tensor_of(module, operand)
    return float(tensor.reshape(-1)[0]) if tensor is not None and tensor.numel() == 1 else None


def numbers_as_tensors(module: fx.GraphModule) -> None:
    """x + 3, x − 3, x · 3 and x / 3 with the number as a tensor, which quantization gives a scale."""
    graph = module.graph
    for node in list(graph.nodes):
        if node.target not in (aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor) or node.kwargs:
            continue
        value, number = node.meta.get("val"), node.args[1] if len(node.args) == 2 else None
        if not isinstance(number, (int, float)) or not number or not math.isfinite(number) or not isinstance(value, torch.Tensor):
            continue
        if not value.is_floating_point() or not isinstance(node.args[0], fx.Node):
            continue
        if node.target is aten.sub.Tensor:
            node.target, number = aten.add.Tensor, -number
        elif node.target is aten.div.Tensor:
            node.target, number = aten.mul.Tensor, 1 / number
        name = f"number_{node.name}"
        tensor = torch.tensor(float(number), dtype=value.dtype)
        module.register_buffer(name, tensor)
        with graph.inserting_before(node):
            read = graph.get_attr(name)
        read.meta = {**node.meta, "val": tensor}
        node.args = (node.args[0], read)


def least_read(module: fx.GraphModule, node: fx.Node) -> float:
    """The value below which all who read this tensor answer (nearly) the same: nothing is lost where rounding begins there.

    -3 before hard-swish and hard sigmoid, which are 0 below; SiLU is within 0.003 of it below -8, GELU within 0.0002 below -4.
    """
    least = -math.inf
    gates: set[fx.Node] = set()
    ends = readers_of(node)
    if ends and all(end.target is aten.sigmoid.default for end in ends):
        return -8.0
    for user in node.users:
        if OPENS in user.meta:
            factors = tensor_of(module, user.args[1])
            assert factors is not None
            least = max(least, FLOORS[user.meta[OPENS]] / float(factors.min()))
            gates |= {user.args[1], *(arg for u in node.users if GATED in u.meta for arg in u.args if arg is not node)}  # type: ignore[arg-type]
        elif user.target is aten.gelu.default:
            least = max(least, -4.0)
        elif user.target is aten.sigmoid.default:
            least, gates = max(least, -8.0), gates | {user}
        elif user.target is aten.add.Tensor and 3.0 in [_number(module, a) for a in user.args[:2]]:
            bent = next(iter(user.users))
            if len(user.users) > 1 or bent.target is not aten.relu6.default:
                return -math.inf
            least, gates = max(least, -3.0), gates | {bent, *(u for u in bent.users if factor_of(module, u) is not None)}
        elif user.target is not aten.mul.Tensor:
            return -math.inf
    products = [user for user in node.users if user.target is aten.mul.Tensor]
    ended = all(any(a in gates for a in product.args) for product in products)  # x by its own gate: 0 where that is
    return least if ended and node.users else -math.inf


def greatest_read(node: fx.Node) -> float | None:
    """The value above which all who read what restores a gate's input answer the same; None for everything else."""
    return -FLOORS[node.meta[OPENS]] if OPENS in node.meta else None


def readers_of(node: fx.Node) -> list[fx.Node]:
    """Who reads it, moved and joined with others or not."""
    moves = SAME_SCALE | {aten.cat.default}
    return [end for user in node.users for end in (readers_of(user) if user.target in moves else [user])]


def factor_of(module: fx.GraphModule, node: fx.Node) -> float | None:
    """The positive number that `node` multiplies an activation by; None for every other operation."""
    if node.target is not aten.mul.Tensor:
        return None
    number: Any = tensor_of(module, node.args[1])
    value = node.meta["val"]
    single = number is not None and number.numel() == 1 and number.dim() <= value.dim()
    return float(number.reshape(())) if single and float(number.reshape(())) > 0 else None
