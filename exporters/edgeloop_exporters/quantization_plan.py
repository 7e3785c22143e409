"""What a quantization plan says: which tensors get a scale, and which weights become int8."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx

from edgeloop_exporters.graph import CONVOLUTIONS, WEIGHTED, aten, layer_name, tensor_of
from edgeloop_exporters.inputs import is_entry
from edgeloop_exporters.kernel_scales import axis_of
from edgeloop_exporters.outputs import JOINED
from edgeloop_exporters.rewrites import padding_value

__all__ = ["INPUT", "QuantizationPlan", "QuantizationPoint", "QuantizedWeight", "is_activation", "pads_for_next", "weight_of"]

INPUT = "input"
MIN_TABLE = 4096  # values of a table of rows that becomes int8, a scale for each row


@dataclass(frozen=True)
class QuantizationPoint:
    """One activation tensor that gets a scale; points of one `group` share it. `rounding`: not where scores stay in float.

    `factor`: its scale is the group's times this, because it is a number times what has the group's. `least`: nobody reads below,
    `greatest`: nobody above. `most`: its range goes up to here at least, and is never cut: its few large values are those of things
    that are there.
    `readers`: the operations that take it rounded; None: all that compute in integers.
    """

    name: str
    layer: str
    group: str
    fixed: tuple[float, int] | None = None
    rounding: bool = True
    factor: float = 1.0
    least: float | None = None
    most: float | None = None
    readers: tuple[str, ...] | None = None
    greatest: float | None = None


@dataclass(frozen=True)
class QuantizedWeight:
    """One weight tensor that becomes int8; `axis` is its output-channel axis (None: one scale for the tensor)."""

    name: str
    layer: str
    axis: int | None


@dataclass(frozen=True)
class QuantizationPlan:
    """`floating`: nodes that compute in float. What they make is rounded for those that compute in integers only. `decoding`: those
    of them that make boxes of the layers' answers. `front`: those that make a spectrum of the input.
    `symmetric`: int8 around zero, for TensorRT.
    """

    points: tuple[QuantizationPoint, ...]
    weights: tuple[QuantizedWeight, ...]
    floating: frozenset[str] = frozenset()
    decoding: frozenset[str] = frozenset()
    front: frozenset[str] = frozenset()
    symmetric: bool = False

    def __str__(self) -> str:
        rows = [f"{p.name:24} {p.layer:24} scale of {p.group}" for p in self.points]
        rows += [f"{w.name:24} {w.layer:24} int8 {'per tensor' if w.axis is None else 'per channel'}" for w in self.weights]
        return "\n".join(rows)


def weight_of(module: fx.GraphModule, node: Any, floating: Collection[fx.Node]) -> QuantizedWeight | None:
    """The weight of a layer in integers, or the table whose rows are looked up, if it is large."""
    if node.target in WEIGHTED and node not in floating and (weight := tensor_of(module, node.args[1])) is not None:
        return QuantizedWeight(str(node.args[1].target), layer_name(node), axis_of(node, weight))
    table = tensor_of(module, node.args[0]) if node.target is aten.embedding.default else None
    if table is None or table.dim() != 2 or table.numel() < MIN_TABLE:
        return None
    return QuantizedWeight(str(node.args[0].target), layer_name(node), 0)


def is_activation(module: fx.GraphModule, node: fx.Node) -> bool:
    """A float tensor that arithmetic reads: the input, an operation's result, or a constant operand of add or mul."""
    value = node.meta.get("val")
    if not (isinstance(value, Tensor) and value.is_floating_point()) and node.op != "get_attr":
        return False
    if node.op == "get_attr":
        tensor = tensor_of(module, node)
        operands = {aten.add.Tensor, aten.mul.Tensor, aten.sub.Tensor, aten.matmul.default}
        return tensor is not None and tensor.is_floating_point() and any(u.target in operands for u in node.users)
    if node.op == "placeholder":
        return is_entry(node)  # a sample of several inputs is rounded input by input
    return node.op == "call_function" and node.target is not JOINED


def pads_for_next(node: fx.Node) -> bool:
    """Zeros around what a convolution reads: exact in any scale, and part of that convolution once nothing stands between."""
    return padding_value(node) == 0 and all(user.target in CONVOLUTIONS for user in node.users)
