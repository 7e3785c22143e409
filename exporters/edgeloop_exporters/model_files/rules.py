"""What a graph proves: the layout of an input, the function before an output, the precision of the arithmetic."""

from __future__ import annotations

from collections import Counter

from edgeloop_contract.manifest import Precision
from edgeloop_exporters.model_files.description import Activation
from edgeloop_exporters.model_files.graph import Graph, Operator

__all__ = ["activation_of", "layout_of", "precision_of"]

KEEPS_AXES = {"same", "quantize", "dequantize", "pointwise", "bias", "add", "pad"}
KEEPS_VALUES = {"same", "quantize", "dequantize", "reshape", "transpose", "part"}
MOVES_DATA = {"same", "reshape", "transpose", "pad", "pool", "part"}
SCORES: dict[str, Activation] = {
    "softmax": "softmax", "sigmoid": "sigmoid", "log_softmax": "log_softmax", "argmax": "argmax",
    "linear": "linear", "convolution": "linear",
}  # fmt: skip
EIGHT_BITS = {"int8", "uint8", "int4", "uint4", "int2", "uint2"}
INTEGERS = {*EIGHT_BITS, "int16"}
MAX_STEPS = 10_000  # of one walk through a graph


def layout_of(graph: Graph, name: str) -> str | None:
    """One letter for each dimension of an input: a convolution or a pool reads it, moved or not. None without such proof."""
    rank = graph.ranks.get(name, 0)
    native = graph.native.get(rank)
    if native is None:
        return None
    found: set[str] = set()
    seen: set[tuple[str, tuple[int, ...]]] = set()
    waiting = [(name, tuple(range(rank)))]
    while waiting and len(seen) < MAX_STEPS:
        tensor, order = waiting.pop()  # axis of the tensor now → axis of the input
        if (tensor, order) in seen:
            continue
        seen.add((tensor, order))
        for operator in graph.readers.get(tensor, []):
            if operator.kind in ("convolution", "pool") and operator.reads[0] == tensor:
                letters = dict(zip(order, native, strict=True))
                found.add("".join(letters[axis] for axis in range(rank)))
            elif operator.kind == "transpose" and sorted(operator.axes) == list(range(rank)):
                waiting.append((operator.makes[0], tuple(order[axis] for axis in operator.axes)))
            elif operator.kind in KEEPS_AXES and graph.ranks.get(operator.makes[0], rank) == rank:
                waiting.append((operator.makes[0], order))
    return found.pop() if len(found) == 1 else None


def activation_of(graph: Graph, name: str) -> Activation | None:
    """The last function before an output, behind moves and (de)quantization; of joined outputs, the one that all of them share."""
    found: set[Activation | None] = set()
    seen: set[tuple[str, bool]] = set()
    waiting = [(name, False)]  # a tensor, and whether a constant is added to it
    while waiting and len(seen) < MAX_STEPS:
        tensor, biased = waiting.pop()
        operator = graph.maker.get(tensor)
        if (tensor, biased) in seen:
            continue
        seen.add((tensor, biased))
        if operator is None or operator.activated:
            return None
        if operator.kind in KEEPS_VALUES or operator.kind == "bias":
            waiting.append((operator.reads[0], biased or operator.kind == "bias"))
        elif operator.kind == "concat":
            waiting += [(part, biased) for part in operator.reads if part]
        else:
            last = SCORES.get(operator.kind)
            found.add(last if last == "linear" or not biased else None)
    return found.pop() if len(found) == 1 else None


def precision_of(graph: Graph) -> Precision:
    """The arithmetic that most weights take part in; of a graph without weights, by its inputs' and outputs' types."""
    counts: Counter[Precision] = Counter()
    for operator in graph.operators:
        if operator.kind not in ("convolution", "linear", "recurrent"):
            continue
        for place, name in enumerate(operator.reads[: 20 if operator.kind == "recurrent" else 2]):
            stored, count = _stored(graph, name)
            if not stored or count < 1:
                continue
            data = operator.reads[1 - place] if operator.kind != "recurrent" and place < 2 else operator.reads[0]
            counts[_arithmetic(graph, stored, data)] += count
    if counts:
        return max(counts, key=lambda precision: counts[precision])
    types = {graph.types.get(name, "") for name in (*graph.inputs, *graph.outputs)}
    if types & INTEGERS and not types & {"float32", "float16"}:
        return Precision.INT8
    return Precision.FLOAT16 if "float16" in types and "float32" not in types else Precision.FLOAT32


def _arithmetic(graph: Graph, stored: str, data: str) -> Precision:
    if stored in EIGHT_BITS:
        return Precision.INT8 if _is_integer(graph, data) else Precision.INT8_WEIGHTS
    return Precision.FLOAT16 if stored in ("float16", "bfloat16") else Precision.FLOAT32


def _stored(graph: Graph, name: str) -> tuple[str, int]:
    """The type and count of a constant, before it is made float; ("", 0) if it is none."""
    for _ in range(16):
        if name in graph.constants:
            return graph.constants[name].dtype, graph.constants[name].count
        maker = graph.maker.get(name)
        if maker is None or maker.kind not in {"same", "dequantize", "quantize", "reshape", "transpose"}:
            break
        name = maker.reads[0]
    return "", 0


def _is_integer(graph: Graph, name: str) -> bool:
    """Was this activation rounded by a scale that the file gives? Not where the runtime chooses a scale at each call."""
    for _ in range(32):
        maker: Operator | None = graph.maker.get(name)
        if maker is None:
            return graph.types.get(name) in INTEGERS
        if maker.kind in ("dequantize", "quantize"):
            return True
        if maker.kind not in MOVES_DATA and not (maker.kind == "pointwise" and len([r for r in maker.reads if r]) == 1):
            return graph.types.get(name) in INTEGERS
        name = maker.reads[0]
    return False
