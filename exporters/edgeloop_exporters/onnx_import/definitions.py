"""Operators that are defined by others: functions of the file itself, and those of the ONNX standard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgeloop_exporters.onnx_import.table import DTYPES
from edgeloop_exporters.onnx_import.values import Unsupported, Value

__all__ = ["Definition", "Functions", "functions_of", "own_definition", "standard_definition"]

MAX_NODES = 10_000  # of one body
NUMBERS = {dtype: number for number, dtype in reversed(list(DTYPES.items()))}


@dataclass(frozen=True)
class Definition:
    """`nodes`: the body, its attributes filled in; `inputs`, `outputs`: the names that it uses; `version`: of its operator set."""

    nodes: Sequence[Any]
    inputs: Sequence[str]
    outputs: Sequence[str]
    version: int


Functions = Mapping[tuple[str, str], Any]


def functions_of(model: Any) -> Functions:
    """(domain, name) → function, of those that the file brings."""
    return {(function.domain, function.name): function for function in model.functions}


def own_definition(function: Any, proto: Any, version: int) -> Definition:
    """Of a function that the file brings. Raises Unsupported where it is too long."""
    return _filled(function, proto, {a.name: a for a in function.attribute_proto}, version)


def standard_definition(proto: Any, inputs: Sequence[Value | None], version: int) -> Definition | None:
    """Of an operator that the standard defines by others; None where it does not. `inputs`: for their types."""
    import onnx

    try:
        schema = onnx.defs.get_schema(proto.op_type, version, "")
    except onnx.defs.SchemaError:
        return None
    try:
        body = _body(schema, proto, inputs, version)
    except Exception:  # onnx's own types: wrong attributes have no definition
        return None
    if body is None:
        return None
    defaults = {name: attribute.default_value for name, attribute in schema.attributes.items() if attribute.default_value.name}
    return _filled(body, proto, defaults, version)


def _body(schema: Any, proto: Any, inputs: Sequence[Value | None], version: int) -> Any:
    import onnx

    if schema.has_function:
        versions = [v for v in schema.function_opset_versions if v <= version]
        text = schema.get_function_with_opset_version(max(versions)) if versions else None
    elif schema.has_context_dependent_function:
        versions = [v for v in schema.context_dependent_function_opset_versions if v <= version]
        types = [_type(value).SerializeToString() for value in inputs]
        content = proto.SerializeToString()
        text = schema.get_context_dependent_function_with_opset_version(max(versions), content, types) if versions else None
    else:
        return None
    if not text:
        return None
    body = onnx.FunctionProto()
    body.ParseFromString(text)
    return body


def _type(value: Value | None) -> Any:
    import onnx

    if value is None:
        return onnx.TypeProto()
    return onnx.helper.make_tensor_type_proto(NUMBERS.get(value.dtype, 1), list(value.shape))


def _filled(body: Any, proto: Any, defaults: Mapping[str, Any], version: int) -> Definition:
    if len(body.node) > MAX_NODES:
        raise Unsupported(f"its definition has more than {MAX_NODES:,} operators")
    given = dict(defaults) | {a.name: a for a in proto.attribute}
    own = max((o.version for o in body.opset_import if o.domain in ("", "ai.onnx")), default=version)
    return Definition([_with_attributes(node, given) for node in body.node], list(body.input), list(body.output), own)


def _with_attributes(node: Any, given: Mapping[str, Any]) -> Any:
    """The node, with the values of the attributes that it only refers to, in its subgraphs too."""
    import onnx

    found = onnx.NodeProto()
    found.CopyFrom(node)
    del found.attribute[:]
    for attribute in node.attribute:
        if attribute.ref_attr_name:
            value = given.get(attribute.ref_attr_name)
            if value is None:
                continue
            kept = found.attribute.add()
            kept.CopyFrom(value)
            kept.name, kept.ref_attr_name = attribute.name, ""
            continue
        kept = found.attribute.add()
        kept.CopyFrom(attribute)
        for graph in ([kept.g] if kept.HasField("g") else []) + list(kept.graphs):
            inner = [_with_attributes(part, given) for part in graph.node]
            del graph.node[:]
            graph.node.extend(inner)
    return found
