"""A model of texts takes token ids, a mask and more; here it becomes a file with one input, from which the others are computed."""

from __future__ import annotations

from typing import Any

from edgeloop_contract.errors import ModelError
from edgeloop_exporters.model_files.description import Tensor
from edgeloop_exporters.model_files.onnx_file import parse_onnx

__all__ = ["TOKENS", "roles_of", "smallest_table", "with_one_input"]

TOKENS = "tokens"
IDS, MASK, TYPES, POSITIONS = "ids", "mask", "types", "positions"
# Parts of names as exporters write them, tried in this order.
WORDS = (("mask", MASK), ("type", TYPES), ("segment", TYPES), ("position", POSITIONS), ("id", IDS), ("token", IDS), ("input", IDS))
WHOLE = ("int64", "int32")
SAME_IDS = ("Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose", "Slice")  # ops that keep each id
SAME_ROWS = ("Cast", "Identity", "DequantizeLinear")  # ops that keep a table's rows
MIN_OPSET = 9  # ConstantOfShape
INT32, INT64 = 6, 7  # onnx.TensorProto


def roles_of(inputs: tuple[Tensor, ...], where: str) -> dict[str, str]:
    """Input → what it is: ids, mask, types or positions; each (batch, length). Raises ModelError where one is something else."""
    roles: dict[str, str] = {}
    for tensor in inputs:
        name = tensor.name.lower()
        role = IDS if len(inputs) == 1 else next((role for word, role in WORDS if word in name), "")
        whole = tensor.dtype in WHOLE or (role == MASK and tensor.dtype in ("float32", "float16", "bool"))
        if not role or role in roles.values() or not whole or tensor.shape is None or len(tensor.shape) != 2:
            shown = f"{tensor.name} {tensor.dtype} {'' if tensor.shape is None else list(tensor.shape)}".strip()
            raise ModelError(
                f"{where}: its input {shown} is none of token ids, attention mask, token types and positions, each of shape"
                " (batch, length); export the model with these inputs alone"
            )
        roles[tensor.name] = role
    if IDS not in roles.values():
        raise ModelError(f"{where}: no input takes token ids; export the model with an input input_ids")
    return roles


def with_one_input(content: bytes, inputs: tuple[Tensor, ...], length: int, pad: int, where: str) -> bytes:
    """The same ONNX model with one input, `tokens` (batch, length) int32. Its own inputs become tensors that are made of it.

    The mask is 1 where an id is not `pad`, token types are 0, positions count from 0. Raises ModelError (`roles_of`), also for
    a file that was exported for another length, and for opsets below 9.
    """
    from onnx import TensorProto, helper

    roles = roles_of(inputs, where)
    for tensor in inputs:
        size = tensor.shape[1] if tensor.shape is not None else None
        if size not in (None, length):
            raise ModelError(f"{where}: its input {tensor.name} takes {size} tokens, and not {length}; say --length {size}")
    model = parse_onnx(content, where)
    opset = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=1)
    if opset < MIN_OPSET:
        raise ModelError(f"{where}: opset {opset}; a model of texts is read from opset {MIN_OPSET} on: export it again")
    graph = model.graph
    types = {value.name: value.type.tensor_type.elem_type for value in graph.input}
    taken = {name for node in graph.node for name in (*node.input, *node.output)} | {t.name for t in graph.initializer}
    door = _free(TOKENS, taken)
    wide, shape, kept = (_free(f"{door}_{part}", taken) for part in ("int64", "shape", "kept"))
    made = [helper.make_node("Cast", [door], [wide], to=INT64)]
    constants = []
    if {TYPES, POSITIONS} & set(roles.values()):
        made.append(helper.make_node("Shape", [wide], [shape]))
    for name, role in roles.items():
        source = wide
        if role == MASK:
            padding, same = (_free(f"{name}_{part}", taken) for part in ("pad", "is_pad"))
            constants.append(helper.make_tensor(padding, INT64, [], [pad]))
            made += [helper.make_node("Equal", [wide, padding], [same]), helper.make_node("Not", [same], [kept])]
            source = kept
        elif role == TYPES:
            source = _free(f"{name}_zeros", taken)
            zero = helper.make_tensor("zero", INT64, [1], [0])
            made.append(helper.make_node("ConstantOfShape", [shape], [source], value=zero))
        elif role == POSITIONS:
            places, source = (_free(f"{name}_{part}", taken) for part in ("places", "expanded"))
            constants.append(helper.make_tensor(places, INT64, [1, length], list(range(length))))
            made.append(helper.make_node("Expand", [places, shape], [source]))
        made.append(helper.make_node("Cast", [source], [name], to=types.get(name, TensorProto.INT64)))
    _replace(graph, made, constants, set(roles), helper.make_tensor_value_info(door, INT32, ["batch", length]))
    return bytes(model.SerializeToString(deterministic=True))


def _replace(graph: Any, made: list[Any], constants: list[Any], names: set[str], door: Any) -> None:
    """Put the nodes in front, and the one input in the place of those `names`."""
    nodes, others = list(graph.node), [value for value in graph.input if value.name not in names]
    del graph.node[:], graph.input[:]
    graph.node.extend([*made, *nodes])
    graph.input.extend([door, *others])
    graph.initializer.extend(constants)


def _free(name: str, taken: set[str]) -> str:
    """The name, or one like it that the file does not use."""
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def smallest_table(content: bytes, where: str) -> tuple[str, int] | None:
    """Of the tables whose rows the input `tokens` chooses as it is: name and rows of the one with the fewest. None: none is found.

    `content`: an ONNX model of `with_one_input`. Ids that the model computes with first are not followed. Raises ModelError.
    """
    graph = parse_onnx(content, where).graph
    rows = {tensor.name: (tensor.name, tensor.dims[0]) for tensor in graph.initializer if len(tensor.dims)}
    ids, found = {TOKENS}, list[tuple[str, int]]()
    for node in graph.node:  # in the order of computation, as ONNX asks
        kind = node.op_type
        given = node.input[0] if node.input else ""
        if kind == "Constant":
            value = next((a.t for a in node.attribute if a.name == "value"), None)
            if value is not None and len(value.dims):
                rows[node.output[0]] = (node.output[0], value.dims[0])
        elif kind in SAME_IDS and given in ids:
            ids.add(node.output[0])
        elif kind in SAME_ROWS and given in rows:
            rows[node.output[0]] = rows[given]
        elif kind == "Gather" and given in rows and ids.intersection(node.input[1:]):
            found += [rows[given]] if all(a.i == 0 for a in node.attribute if a.name == "axis") else []
    return min(found, key=lambda table: table[1], default=None)
