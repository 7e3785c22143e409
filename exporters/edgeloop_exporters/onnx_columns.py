"""Integer convolutions over few channels, as ONNX Runtime computes them fast: columns that are neighbours become channels of one.

Its integer kernel reads channels in fours. Where there are 1 or 3, as of a camera's picture, it copies every window first, which
took a quarter of a detector's time. Four columns of three channels are twelve channels in the same order of bytes, so this costs
nothing. The layer makes all columns of its output that a group has at once: it has more outputs, and weights of zero where a
window does not reach. The sums are the same integers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_exporters.unread import remove_unread

__all__ = ["columns_as_channels"]

FOUR = 4  # channels that the kernel reads at once
MAX_MORE = 4  # times the products, zeros among them; the kernel has eight times the speed of copied windows
LONG = 32  # values in one row of a window: such rows are copied fast
MIN_PLACES = 32  # of the output; below, three more operators may cost what is won
BETWEEN = ("Relu", "Clip")  # a layer and its rounding
LAST, FIRST = [0, 2, 3, 1], [0, 3, 1, 2]  # axes of channels last, and first


@dataclass(frozen=True)
class _Layer:
    """`along`: the axis whose places go together, of (batch, channels, rows, columns): columns, or rows where there is one column.

    `taken`, `given`: shapes of the input and output; `weights`: of the layer. `pads`: before each axis, then behind.
    """

    along: int
    taken: tuple[int, ...]
    given: tuple[int, ...]
    weights: tuple[int, ...]
    pads: list[int]
    strides: list[int]

    @property
    def step(self) -> int:
        return self.strides[self.along - 2]

    @property
    def width(self) -> int:
        """Columns that become one."""
        return math.lcm(self.step, FOUR // math.gcd(FOUR, self.taken[1]))

    @property
    def made(self) -> int:
        """Columns of the output for each group."""
        return self.width // self.step

    @property
    def low(self) -> int:
        """The first group that a window reads, counted from its own."""
        return -self.pads[self.along - 2] // self.width

    @property
    def high(self) -> int:
        """The last one."""
        return ((self.made - 1) * self.step - self.pads[self.along - 2] + self.weights[self.along] - 1) // self.width

    def wins(self) -> bool:
        """Whether columns go up in groups, and the work that is more is less than what is saved."""
        groups, rest = divmod(self.taken[self.along], self.width)
        even = not rest and groups * self.made == self.given[self.along]
        reach = self.weights[self.along]
        more = self.width * (self.high - self.low + 1) / reach
        copied = self.taken[1] % FOUR != 0 and math.prod(self.weights[2:]) > 1 and self.weights[3] * self.taken[1] < LONG
        return even and copied and more <= MAX_MORE and math.prod(self.given[2:]) >= MIN_PLACES

    def wide(self, values: Array) -> Array:
        """Weights (outputs, channels, rows, columns) as (outputs × made, channels × width, rows, groups)."""
        values = np.moveaxis(values, self.along, -1)
        outputs, channels, others, reach = values.shape
        wide = np.zeros((self.made, outputs, self.width, channels, others, self.high - self.low + 1), values.dtype)
        for place in range(self.made):
            for column in range(reach):
                group, within = divmod(place * self.step - self.pads[self.along - 2] + column, self.width)
                wide[place, :, within, :, :, group - self.low] = values[:, :, :, column]
        return np.moveaxis(wide.reshape(self.made * outputs, self.width * channels, others, -1), -1, self.along)

    def grouped(self) -> tuple[int, ...]:
        """The input with channels last, without the batch."""
        shape = list(self.taken)
        shape[self.along] //= self.width
        return (*shape[2:], shape[1] * self.width)


def columns_as_channels(model: Any) -> None:
    """Rewrite every convolution of this kind, in place, and forget shapes that were inferred.

    The graph is in pairs of QuantizeLinear and DequantizeLinear, with the shapes of inner tensors.
    """
    graph = model.graph
    shapes = {v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in (*graph.value_info, *graph.input)}
    for conv in [node for node in graph.node if node.op_type == "Conv"]:
        _rewrite(graph, conv, shapes)
    remove_unread(graph)
    graph.ClearField("value_info")


def _rewrite(graph: Any, conv: Any, shapes: dict[str, tuple[int, ...]]) -> None:
    from onnx import TensorProto, numpy_helper

    constants = {i.name: i for i in graph.initializer}
    made = {node.output[0]: node for node in graph.node}
    turn, weight, ending = made.get(conv.input[0]), made.get(conv.input[1]), _rounding(graph, conv, constants)
    entry = (
        made.get(turn.input[0]) if turn is not None and turn.op_type == "Transpose" and _numbers(turn, "perm") == FIRST else turn
    )
    if entry is None or weight is None or ending is None or {entry.op_type, weight.op_type} != {"DequantizeLinear"}:
        return
    zero = constants.get(entry.input[2]) if len(entry.input) > 2 else None
    if zero is None or zero.data_type != TensorProto.UINT8:  # signed ones are for TensorRT, which has kernels of its own
        return
    if entry.input[0] in constants or weight.input[0] not in constants:
        return
    values = numpy_helper.to_array(constants[weight.input[0]])
    layer = _layer(conv, values.shape, shapes)
    if layer is None or not layer.wins():
        return
    _repeat(graph, conv, 1, layer.wide(values), layer.made)
    if len(conv.input) > 2:
        _repeat(graph, conv, 2, None, layer.made)
    pads, strides, kernel = list(layer.pads), list(layer.strides), list(values.shape[2:])
    pads[layer.along - 2], pads[layer.along] = -layer.low, layer.high
    strides[layer.along - 2], kernel[layer.along - 2] = 1, layer.high - layer.low + 1
    for name, numbers in (("pads", pads), ("strides", strides), ("kernel_shape", kernel)):
        _set(conv, name, numbers)
    _before(graph, entry, conv, layer.grouped())
    _behind(graph, ending, (*layer.given[2:], layer.given[1]))


def _layer(conv: Any, weights: tuple[int, ...], shapes: dict[str, tuple[int, ...]]) -> _Layer | None:
    """None for a layer of another kind, or of unknown shape."""
    taken, given = shapes.get(conv.input[0], ()), shapes.get(conv.output[0], ())
    group = next((a.i for a in conv.attribute if a.name == "group"), 1)
    automatic = next((a.s for a in conv.attribute if a.name == "auto_pad"), b"NOTSET")
    pads, strides, dilations = (_numbers(conv, name) for name in ("pads", "strides", "dilations"))
    if len(weights) != 4 or len(taken) != 4 or len(given) != 4 or not all((*taken[1:], *given[1:])):
        return None
    if group != 1 or automatic not in (b"", b"NOTSET") or set(dilations) - {1} or min(pads) < 0:
        return None
    return _Layer(3 if taken[3] > 1 else 2, taken, given, weights, pads, strides)


def _rounding(graph: Any, conv: Any, constants: dict[str, Any]) -> Any:
    """The QuantizeLinear by one scale that alone reads the layer, behind its activation; None where that is otherwise."""
    last = conv
    while True:
        readers = [node for node in graph.node if last.output[0] in node.input]
        if len(readers) != 1 or any(last.output[0] == value.name for value in graph.output):
            return None
        (last,) = readers
        if last.op_type == "QuantizeLinear":
            scale = constants.get(last.input[1])
            return last if scale is not None and math.prod(scale.dims) == 1 else None
        if last.op_type not in BETWEEN:
            return None


def _repeat(graph: Any, conv: Any, place: int, values: Array | None, times: int) -> None:
    """Weights (`values`) or the bias, and their scales and zero points, once for each column that a group makes."""
    from onnx import helper, numpy_helper

    constants = {i.name: i for i in graph.initializer}
    source = next((node for node in graph.node if node.output[0] == conv.input[place]), None)
    # One scale in a list is that of the only output where it has an axis, else that of all outputs.
    each = source is None or any(a.name == "axis" for a in source.attribute)
    repeated = []
    for number, name in enumerate([conv.input[place]] if source is None else source.input):
        old = numpy_helper.to_array(constants[name])
        apart = old.ndim == 1 and (old.size > 1 or each or number == 0)
        new = values if values is not None and number == 0 else np.tile(old, times) if apart else old
        repeated.append(f"{conv.output[0]}/columns/{place}/{number}")
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(new), repeated[-1]))
    if source is None:
        conv.input[place] = repeated[0]
        return
    name = f"{conv.output[0]}/columns/{place}"  # no underscores: layers are called conv2d and conv2d_1
    again = helper.make_node(source.op_type, repeated, [name], name)
    again.attribute.extend(source.attribute)
    _insert(graph, source, [again])
    conv.input[place] = again.output[0]


def _before(graph: Any, entry: Any, conv: Any, shape: tuple[int, ...]) -> None:
    """Columns of the rounded input become channels, for this layer alone."""
    from onnx import helper

    made = f"{conv.output[0]}/columns/taken"
    if entry.output[0] == conv.input[0]:
        _insert(graph, conv, [*_moves(graph, entry.output[0], made, shape), *_rounded(entry.input[1:], made, f"{made}_again")])
        conv.input[0] = f"{made}_again"
    else:  # its channels were last
        _insert(
            graph,
            conv,
            [_grouped(graph, entry.output[0], made, shape), helper.make_node("Transpose", [made], [f"{made}_first"], perm=FIRST)],
        )
        conv.input[0] = f"{made}_first"


def _behind(graph: Any, ending: Any, shape: tuple[int, ...]) -> None:
    """Channels of the rounded output become columns again."""
    from onnx import helper

    made, wide = ending.output[0], f"{ending.output[0]}/columns/made"
    ending.output[0] = wide
    nodes = [
        helper.make_node("DequantizeLinear", [wide, *ending.input[1:]], [f"{wide}_floats"], f"{wide}_floats"),
        *_moves(graph, f"{wide}_floats", f"{wide}_apart", shape),
        helper.make_node("QuantizeLinear", [f"{wide}_apart", *ending.input[1:]], [made], f"{made}_again"),
    ]
    _insert(graph, ending, nodes, behind=1)


def _moves(graph: Any, source: str, made: str, shape: tuple[int, ...]) -> list[Any]:
    """Channels last, of another shape, and channels first again. ONNX Runtime works with channels last: it takes both turns out."""
    from onnx import helper

    return [
        helper.make_node("Transpose", [source], [f"{made}_last"], f"{made}_last", perm=LAST),
        _grouped(graph, f"{made}_last", f"{made}_grouped", shape),
        helper.make_node("Transpose", [f"{made}_grouped"], [made], f"{made}_first", perm=FIRST),
    ]


def _grouped(graph: Any, source: str, made: str, shape: tuple[int, ...]) -> Any:
    from onnx import helper, numpy_helper

    graph.initializer.append(numpy_helper.from_array(np.array([-1, *shape], np.int64), f"{made}_shape"))
    return helper.make_node("Reshape", [source, f"{made}_shape"], [made], made)


def _rounded(parts: Sequence[str], source: str, made: str) -> list[Any]:
    """By the same scale again: the same integers. Runtimes look for a pair around each operator."""
    from onnx import helper

    return [
        helper.make_node("QuantizeLinear", [source, *parts], [f"{made}_integers"], f"{made}_integers"),
        helper.make_node("DequantizeLinear", [f"{made}_integers", *parts], [made], made),
    ]


def _insert(graph: Any, beside: Any, nodes: list[Any], behind: int = 0) -> None:
    place = next(i for i, node in enumerate(graph.node) if node.output[0] == beside.output[0])
    for node in reversed(nodes):
        graph.node.insert(place + behind, node)


def _numbers(node: Any, name: str) -> list[int]:
    default = {"pads": [0, 0, 0, 0]}.get(name, [1, 1])
    return next((list(a.ints) for a in node.attribute if a.name == name), default)


def _set(node: Any, name: str, numbers: list[int]) -> None:
    from onnx import helper

    for place, attribute in enumerate(node.attribute):
        if attribute.name == name:
            del node.attribute[place]
            break
    node.attribute.append(helper.make_attribute(name, numbers))
