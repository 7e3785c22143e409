"""A TFLite model's first graph as the common graph, and its tensors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from edgeloop_contract.errors import DeviceError, ModelError
from edgeloop_contract.manifest import Quantization
from edgeloop_exporters.model_files.checks import MAX_NAME, MAX_TENSORS, name_of
from edgeloop_exporters.model_files.description import Shape
from edgeloop_exporters.model_files.graph import Constant, Graph, Kind, Operator
from edgeloop_exporters.model_files.text import clean
from edgeloop_exporters.model_files.tflite_kinds import CUSTOM, FUSING, KINDS, OPERANDS, SUMS

__all__ = ["Opened", "TensorFacts", "open_tflite"]

NATIVE = {4: "NHWC", 5: "NDHWC"}
MAX_RANK = 16
MAX_SUBGRAPHS = 1000


@dataclass(frozen=True)
class TensorFacts:
    name: str
    dtype: str
    shape: Shape | None
    quantization: Quantization | None


@dataclass(frozen=True)
class Opened:
    """`operators`: names; `variables`: names of tensors that keep their values between calls."""

    graph: Graph
    tensors: dict[str, TensorFacts]
    operators: tuple[str, ...]
    variables: tuple[str, ...]
    notes: tuple[str, ...]


def open_tflite(model: Any, where: str) -> Opened:
    """Read a schema Model. Tensors are called by their numbers. Raises ModelError, and what a damaged file raises in the reader."""
    schema = schema_module(where)
    if not 0 < model.SubgraphsLength() <= MAX_SUBGRAPHS:
        raise ModelError(f"{where} has {model.SubgraphsLength()} graphs; a TFLite file has at least one")
    subgraph = model.Subgraphs(0)
    if max(subgraph.TensorsLength(), subgraph.OperatorsLength(), model.BuffersLength(), model.OperatorCodesLength()) > MAX_TENSORS:
        raise ModelError(f"{where} has more than {MAX_TENSORS:,} tensors or operators; edgeloop reads no larger graph")
    types = {number: name.lower() for name, number in vars(schema.TensorType).items() if not name.startswith("_")}
    tensors = [_facts(subgraph.Tensors(i), types, where) for i in range(subgraph.TensorsLength())]
    filled = [_filled(model, subgraph.Tensors(i)) for i in range(len(tensors))]
    kinds = _kinds(model, schema, where)
    named = list(_operators(model, subgraph, schema, kinds, len(tensors)))
    operators, custom = [operator for _, operator in named], [operator for name, operator in named if name in CUSTOM]
    constants = {str(i): Constant(t.dtype, prod(d or 0 for d in t.shape or ())) for i, t in enumerate(tensors) if filled[i]}
    graph = Graph(
        inputs=tuple(str(i) for i in _numbers(subgraph.InputsAsNumpy(), len(tensors), 0)),
        outputs=tuple(str(i) for i in _numbers(subgraph.OutputsAsNumpy(), len(tensors), 0)),
        operators=tuple(operators), constants=constants, native=NATIVE,
        types={str(i): t.dtype for i, t in enumerate(tensors)}, ranks={str(i): len(t.shape or ()) for i, t in enumerate(tensors)},
    )  # fmt: skip
    for number in {made for operator in custom for made in operator.makes if not tensors[int(made)].shape}:
        tensors[int(number)] = replace(tensors[int(number)], shape=None)  # the runtime alone knows it
    kept = [
        clean(tensors[i].name, MAX_NAME) or f"tensor {i}"
        for i in range(len(tensors))
        if subgraph.Tensors(i).IsVariable() or tensors[i].dtype == "resource"
    ]
    notes = (f"it has {model.SubgraphsLength()} graphs; the first one is read",) if model.SubgraphsLength() > 1 else ()
    return Opened(graph, {str(i): t for i, t in enumerate(tensors)}, tuple(sorted(set(kinds))), tuple(kept), notes)


def schema_module(where: str) -> Any:
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError as error:
        raise DeviceError(f"{where}: a TFLite file is read with ai-edge-litert: pip install 'edgeloop[tflite]'") from error
    return schema_py_generated


def _facts(tensor: Any, types: dict[int, str], where: str) -> TensorFacts:
    signature = tensor.ShapeSignatureAsNumpy() if tensor.ShapeSignatureLength() == tensor.ShapeLength() else 0
    sizes = signature if isinstance(signature, np.ndarray) else tensor.ShapeAsNumpy()
    sizes = sizes if isinstance(sizes, np.ndarray) else np.empty(0, np.int32)
    if len(sizes) > MAX_RANK:
        raise ModelError(f"{where} has a tensor of {len(sizes)} dimensions; edgeloop reads up to {MAX_RANK}")
    name = (tensor.Name() or b"").decode("utf-8", "replace")
    shape = tuple(int(size) if size >= 0 else None for size in sizes)
    return TensorFacts(name, types.get(tensor.Type(), f"type {tensor.Type()}"), shape, _quantization(tensor.Quantization()))


def _quantization(found: Any) -> Quantization | None:
    """Of the whole tensor; None where each channel has its own."""
    if found is None or found.ScaleLength() != 1 or found.ZeroPointLength() > 1:
        return None
    scale = float(found.Scale(0))
    zero = int(found.ZeroPoint(0)) if found.ZeroPointLength() else 0
    return Quantization(scale=scale, zero_point=zero) if np.isfinite(scale) and scale > 0 else None


def _filled(model: Any, tensor: Any) -> bool:
    buffer = model.Buffers(tensor.Buffer()) if 0 < tensor.Buffer() < model.BuffersLength() else None
    return buffer is not None and (buffer.DataLength() > 0 or buffer.Size() > 0)


def _kinds(model: Any, schema: Any, where: str) -> list[str]:
    """The name of each operator code. Raises ModelError for a custom one that the runtime lacks."""
    names = {number: name for name, number in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
    found = []
    for i in range(model.OperatorCodesLength()):
        code = model.OperatorCodes(i)
        number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        name = names.get(number, f"operator {number}")
        if name == "CUSTOM":
            name = name_of((code.CustomCode() or b"").decode("utf-8", "replace"), where, False)
            if name not in CUSTOM:
                needs = "TensorFlow's Flex delegate" if name.startswith("Flex") else "code of its maker's"
                raise ModelError(f"{where} needs the custom operator {name}, which LiteRT lacks ({needs}): convert it without that")
        elif name.startswith("operator "):
            raise ModelError(f"{where} has {name}, which this LiteRT does not know: update ai-edge-litert")
        found.append(name)
    return found


def _operators(model: Any, subgraph: Any, schema: Any, kinds: list[str], count: int) -> Iterator[tuple[str, Operator]]:
    for i in range(subgraph.OperatorsLength()):
        operator = subgraph.Operators(i)
        name = kinds[operator.OpcodeIndex()]
        reads = _numbers(operator.InputsAsNumpy(), count)
        made = tuple(str(o) for o in _numbers(operator.OutputsAsNumpy(), count))
        axes = _perm(model, subgraph, reads) if name == "TRANSPOSE" else ()
        given = [str(r) if r >= 0 else "" for r in reads]
        operands = OPERANDS.get(name)
        used = tuple(given[p] for p in operands if p < len(given)) if operands else tuple(given)
        kind = KINDS.get(name, "other")
        if kind in ("add", "pointwise") and len(reads) > 1:
            kind, used = _constant_last(model, subgraph, reads, kind)
        if used and made:
            yield name, Operator(kind, used, made, axes, activated=name in SUMS and _fused(operator, schema, name))


def _constant_last(model: Any, subgraph: Any, reads: list[int], kind: Kind) -> tuple[Kind, tuple[str, ...]]:
    constant = [r >= 0 and _filled(model, subgraph.Tensors(r)) for r in reads[:2]]
    used = tuple(str(r) for r in (reads[::-1] if constant[0] else reads))
    return ("bias" if kind == "add" and any(constant) else kind), used


def _fused(operator: Any, schema: Any, name: str) -> bool:
    options, table = getattr(schema, FUSING[name])(), operator.BuiltinOptions()
    if table is None or operator.BuiltinOptionsType() != getattr(schema.BuiltinOptions, FUSING[name]):
        return False
    options.Init(table.Bytes, table.Pos)
    return bool(options.FusedActivationFunction())


def _perm(model: Any, subgraph: Any, reads: list[int]) -> tuple[int, ...]:
    """The axes of a transpose, where they are a constant in the file."""
    if len(reads) < 2 or reads[1] < 0:
        return ()
    tensor = subgraph.Tensors(reads[1])
    if not _filled(model, tensor):
        return ()
    data = model.Buffers(tensor.Buffer()).DataAsNumpy()
    return (
        tuple(int(axis) for axis in data[: 4 * MAX_RANK].view("<i4")) if isinstance(data, np.ndarray) and data.size % 4 == 0 else ()
    )


def _numbers(values: Any, count: int, least: int = -1) -> list[int]:
    """Tensor numbers; -1 for one that is left out. Raises IndexError for one that is not there."""
    numbers = [int(v) for v in values] if isinstance(values, np.ndarray) else []
    if any(not least <= n < count for n in numbers):
        raise IndexError("a tensor's number that is not there")
    return numbers
