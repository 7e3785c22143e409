"""Operators that work value by value, along axes, or on shapes."""

from __future__ import annotations

import numpy as np

from edgeloop_exporters.tflite_import.table import Step, Unsupported, rule
from edgeloop_exporters.tflite_import.writing import TO_FIRST

BINARY = {
    "ADD": "Add", "SUB": "Sub", "MUL": "Mul", "DIV": "Div", "MAXIMUM": "Max", "MINIMUM": "Min", "POW": "Pow", "PRELU": "PRelu",
    "GREATER": "Greater", "GREATER_EQUAL": "GreaterOrEqual", "LESS": "Less", "LESS_EQUAL": "LessOrEqual", "EQUAL": "Equal",
}  # fmt: skip
UNARY = {
    "RELU": "Relu", "LOGISTIC": "Sigmoid", "TANH": "Tanh", "ABS": "Abs", "EXP": "Exp", "LOG": "Log", "SQRT": "Sqrt", "NEG": "Neg",
    "FLOOR": "Floor", "CEIL": "Ceil", "ROUND": "Round", "SIN": "Sin", "COS": "Cos", "ELU": "Elu", "HARD_SWISH": "HardSwish",
    "LOGICAL_NOT": "Not",
}  # fmt: skip
CLIPPED = {"RELU6": (0.0, 6.0), "RELU_N1_TO_1": (-1.0, 1.0), "RELU_0_TO_1": (0.0, 1.0)}
REDUCE = {
    "MEAN": "ReduceMean", "REDUCE_MAX": "ReduceMax", "REDUCE_MIN": "ReduceMin", "REDUCE_PROD": "ReduceProd", "SUM": "ReduceSum",
}  # fmt: skip
PLACE_FIRST = (0, 2, 3, 1)  # of a channels-last axis among channels-first ones


def _axis(step: Step, axis: int, rank: int) -> int:
    axis = axis % rank
    return PLACE_FIRST[axis] if step.first and rank == 4 else axis


@rule(*BINARY, "SQUARED_DIFFERENCE")
def _binary(step: Step) -> None:
    ranks = {len(step.shape(i)) for i in range(2) if step.inputs[i] not in step.write.constants}
    first = step.first and ranks == {4}
    a, b = (step.write.get(i, first) for i in step.inputs[:2])
    if step.op == "PRELU" and first and step.inputs[1] in step.write.constants:
        slope = step.constant(1).reshape((1,) * (3 - step.constant(1).ndim) + step.constant(1).shape[-3:])
        b = step.write.constant(slope.transpose(2, 0, 1))  # without a batch: one a channel is a layer of its own
    if step.op != "SQUARED_DIFFERENCE":
        return step.put(step.write.node(BINARY[step.op], [a, b]), first)
    apart = step.write.node("Sub", [a, b])
    return step.put(step.write.node("Mul", [apart, apart]), first)


@rule(*UNARY, *CLIPPED, "LEAKY_RELU", "GELU", "RSQRT", "SQUARE")
def _unary(step: Step) -> None:
    write, x = step.write, step.write.get(step.inputs[0], step.first)
    if step.op in UNARY:
        made = write.node(UNARY[step.op], [x])
    elif step.op in CLIPPED:
        made = write.node("Clip", [x, *(write.number(v) for v in CLIPPED[step.op])])
    elif step.op == "LEAKY_RELU":
        made = write.node("LeakyRelu", [x], alpha=float(step.option("alpha", 0.0)))
    elif step.op == "GELU":
        made = write.node("Gelu", [x], approximate="tanh" if step.option("approximate", False) else "none")
    elif step.op == "SQUARE":
        made = write.node("Mul", [x, x])
    else:
        made = write.node("Reciprocal", [write.node("Sqrt", [x])])
    step.put(made, step.first)


@rule("SOFTMAX", "LOG_SOFTMAX")
def _softmax(step: Step) -> None:
    beta = float(step.option("beta", 1.0)) if step.op == "SOFTMAX" else 1.0
    x = step.write.get(step.inputs[0], step.first)
    x = x if beta == 1.0 else step.write.node("Mul", [x, step.write.number(beta)])
    kind = "Softmax" if step.op == "SOFTMAX" else "LogSoftmax"
    step.put(step.write.node(kind, [x], axis=_axis(step, -1, len(step.shape(0)))), step.first)


@rule("CONCATENATION")
def _concat(step: Step) -> None:
    parts = [step.write.get(i, step.first) for i in step.inputs]
    step.put(step.write.node("Concat", parts, axis=_axis(step, int(step.option("axis")), len(step.goal()))), step.first)


@rule(*REDUCE)
def _reduce(step: Step) -> None:
    keeps, axes, rank = bool(step.option("keepDims", False)), step.axes(1), len(step.shape(0))
    first = rank == 4 and step.write.has_first(step.inputs[0]) and (keeps or sorted(axes) in ([1, 2], [1, 2, 3]))
    x = step.write.get(step.inputs[0], first)
    places = sorted(PLACE_FIRST[axis] for axis in axes) if first else axes
    made = step.write.node(REDUCE[step.op], [x, step.write.ints(*places)], keepdims=int(keeps))
    step.put(made, first and keeps)


@rule("PAD", "PADV2", "MIRROR_PAD")
def _pad(step: Step) -> None:
    sides = [(int(a), int(b)) for a, b in step.constant(1)]
    sides = [sides[i] for i in TO_FIRST] if step.first else sides
    pads = step.write.ints(*(a for a, _ in sides), *(b for _, b in sides))
    x = step.write.get(step.inputs[0], step.first)
    if step.op == "MIRROR_PAD":
        if int(step.option("mode")):
            raise Unsupported("with mode SYMMETRIC")
        made = step.write.node("Pad", [x, pads], mode="reflect")
    elif step.op == "PADV2":
        made = step.write.node("Pad", [x, pads, step.write.number(float(step.constant(2).reshape(-1)[0]))])
    else:
        made = step.write.node("Pad", [x, pads])
    step.put(made, step.first)


@rule("RESHAPE", "SQUEEZE", "EXPAND_DIMS")
def _reshape(step: Step) -> None:
    """By the result's own shape, which the file has."""
    goal, x = step.goal(), step.write.get(step.inputs[0])
    if goal[:1] == (1,) and 0 not in goal:  # the file's batch: free here, also where it was part of another axis
        goal = (-1, *goal[1:])
    if step.inputs[0] in step.write.complex:
        step.write.put_complex(step.outputs[0], step.write.node("Reshape", [x, step.write.ints(*goal, 2)]))
        return
    step.put(step.write.node("Reshape", [x, step.write.ints(*goal)]), False)


@rule("TRANSPOSE")
def _transpose(step: Step) -> None:
    step.put(step.write.node("Transpose", [step.write.get(step.inputs[0])], perm=step.ints(1)), False)


@rule("SPLIT", "SPLIT_V")
def _split(step: Step) -> None:
    data, along = (1, 0) if step.op == "SPLIT" else (0, 2)
    rank, first = len(step.shape(data)), len(step.shape(data)) == 4 and step.write.has_first(step.inputs[data])
    axis = step.ints(along)[0] % rank
    sizes = [step.write.shapes[i][axis] for i in step.outputs]
    x = step.write.get(step.inputs[data], first)
    place = PLACE_FIRST[axis] if first else axis
    made = step.write.nodes_of("Split", [x, step.write.ints(*sizes)], len(step.outputs), axis=place)
    for i, name in enumerate(made):
        step.put(name, first, i)


@rule("STRIDED_SLICE", "SLICE")
def _slice(step: Step) -> None:
    shape, rank = step.shape(0), len(step.shape(0))
    starts, ends = step.ints(1), step.ints(2)
    if step.op == "SLICE":
        ends = [n if size == -1 else start + size for start, size, n in zip(starts, ends, shape, strict=True)]
        steps, shrunk = [1] * rank, 0
    else:
        steps, shrunk = step.ints(3), int(step.option("shrinkAxisMask"))
        if step.option("ellipsisMask") or step.option("newAxisMask") or step.option("offset", False):
            raise Unsupported("with new or left out axes")
        far = 1 << 40
        for axis in range(len(starts)):
            if int(step.option("beginMask")) >> axis & 1:
                starts[axis] = 0 if steps[axis] > 0 else far
            if int(step.option("endMask")) >> axis & 1:
                ends[axis] = far if steps[axis] > 0 else -far
            if shrunk >> axis & 1:
                ends[axis], steps[axis] = (starts[axis] + 1) or far, 1
    first = step.first and not shrunk
    axes = [PLACE_FIRST[axis] if first else axis for axis in range(len(starts))]
    vectors = [step.write.ints(*values) for values in (starts, ends, axes, steps)]
    made = step.write.node("Slice", [step.write.get(step.inputs[0], first), *vectors])
    if shrunk:
        made = step.write.node("Reshape", [made, step.write.ints(*step.goal())])
    step.put(made, first)


@rule("PACK")
def _pack(step: Step) -> None:
    axis = int(step.option("axis")) % len(step.goal())
    parts = [step.write.node("Unsqueeze", [step.write.get(i), step.write.ints(axis)]) for i in step.inputs]
    step.put(step.write.node("Concat", parts, axis=axis), False)


@rule("UNPACK")
def _unpack(step: Step) -> None:
    axis = int(step.option("axis")) % len(step.shape(0))
    x = step.write.get(step.inputs[0])
    for i in range(len(step.outputs)):
        step.put(step.write.node("Gather", [x, step.write.constant(np.array(i, np.int64))], axis=axis), False, i)


@rule("GATHER")
def _gather(step: Step) -> None:
    if step.option("batchDims"):
        raise Unsupported("along the batch")
    index = step.write.get(step.inputs[1])
    step.put(step.write.node("Gather", [step.write.get(step.inputs[0]), index], axis=int(step.option("axis"))), False)


@rule("TILE")
def _tile(step: Step) -> None:
    step.put(step.write.node("Tile", [step.write.get(step.inputs[0]), step.write.ints(*step.ints(1))]), False)


@rule("BROADCAST_TO")
def _broadcast(step: Step) -> None:
    step.put(step.write.node("Expand", [step.write.get(step.inputs[0]), step.write.ints(*step.goal())]), False)


@rule("SPACE_TO_DEPTH")
def _deeper(step: Step) -> None:
    x = step.write.get(step.inputs[0], True)
    step.put(step.write.node("SpaceToDepth", [x], blocksize=int(step.option("blockSize", 1))), True)


@rule("DEPTH_TO_SPACE")
def _wider(step: Step) -> None:
    x = step.write.get(step.inputs[0], True)
    step.put(step.write.node("DepthToSpace", [x], blocksize=int(step.option("blockSize", 1)), mode="DCR"), True)


@rule("SELECT", "SELECT_V2")
def _select(step: Step) -> None:
    step.put(step.write.node("Where", [step.write.get(i) for i in step.inputs[:3]]), False)
