"""A model of texts takes token ids, a mask and more; here it becomes a file with one input, from which the others are computed."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgeloop_contract.errors import ModelError
from edgeloop_exporters.graph_names import free_name, names_of, rename
from edgeloop_exporters.model_files.description import Tensor
from edgeloop_exporters.model_files.onnx_file import parse_onnx

__all__ = [
    "IDS", "TOKENS", "TextInput", "fixed_length", "grouped", "roles_of", "roles_of_only", "smallest_table", "with_one_input",
    "with_text_inputs",
]  # fmt: skip

TOKENS = "tokens"
IDS, MASK, TYPES, POSITIONS = "ids", "mask", "types", "positions"
# Parts of names as exporters write them, tried in this order.
WORDS = (("mask", MASK), ("type", TYPES), ("segment", TYPES), ("position", POSITIONS), ("id", IDS), ("token", IDS), ("input", IDS))
TEXT = "text"
OF_TEXTS = {
    "attention", "attn", "id", "ids", "input", "inputs", "mask", "masks", "pad", "padding", "position", "positions", "segment",
    "segments", "token", "tokens", "type", "types",
}  # fmt: skip
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


def fixed_length(inputs: Sequence[Tensor], roles: Collection[str]) -> int:
    """How many ids the file takes of the text whose inputs these are; 0: it leaves that open."""
    sizes = (tensor.shape[1] for tensor in inputs if tensor.name in roles and tensor.shape is not None)
    return next((size for size in sizes if size), 0)


def grouped(inputs: Sequence[Tensor], said: Collection[str]) -> dict[str, dict[str, str]]:
    """Text → role by input, of a model that has texts beside other inputs: ids with the mask, types and positions of the same name
    besides such words (`title_ids` and `title_mask` are of the text `title`, `input_ids` and `attention_mask` of `text`).

    `said`: texts or inputs of ids that somebody named; empty: every input that looks like ids of several tokens is one. Another
    input's name is never taken for a text.
    """
    roles = {tensor.name: _role(tensor) for tensor in inputs}
    ids = [name for name, role in roles.items() if role == IDS]
    if not ids and not said:
        ids = [tensor.name for tensor in inputs if _is_row(tensor) and tensor.dtype in WHOLE and not roles[tensor.name]]
        ids = ids if len(ids) == 1 else []
    if said:
        rows = [tensor.name for tensor in inputs if _is_row(tensor) and tensor.dtype in WHOLE]
        ids = [name for name in rows if name in said or (_text_name(name) in said and roles[name] in (IDS, ""))]
    texts, others = dict[str, dict[str, str]](), {tensor.name for tensor in inputs} - {*ids}
    for name in ids:
        plain = _text_name(name)
        texts[name if plain in texts or plain in others else plain] = {name: IDS}
    for name, role in roles.items():
        of = _text_name(name)
        of = next(iter(texts)) if of == TEXT and of not in texts and len(texts) == 1 else of
        if name not in ids and role not in (IDS, "") and role not in texts.get(of, {of: role}).values():
            texts[of][name] = role
    return texts


def _role(tensor: Tensor) -> str:
    """By the words of its name; "" where it is none of a text's inputs."""
    words = set(_words(tensor.name))
    role = next((role for word, role in WORDS if word in words or f"{word}s" in words), "")
    whole = tensor.dtype in WHOLE or (role == MASK and tensor.dtype in ("float32", "float16", "bool"))
    return role if whole and _is_row(tensor) else ""


def _is_row(tensor: Tensor) -> bool:
    """Whether it has several values for each sample: (batch, length)."""
    return tensor.shape is not None and len(tensor.shape) == 2 and tensor.shape[1] != 1


def _words(name: str) -> list[str]:
    return re.findall(r"[a-z]+|[0-9]+", re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name).lower())


def _text_name(name: str) -> str:
    kept = [word for word in _words(name) if word not in OF_TEXTS]
    return "_".join(kept if kept and not kept[0].isdigit() else [TEXT, *kept])


@dataclass(frozen=True)
class TextInput:
    """One text of a model: `name`, the one input that it gets; `roles`: the file's inputs that are computed of it."""

    name: str
    roles: dict[str, str]
    length: int
    pad: int


def with_one_input(
    content: bytes, inputs: tuple[Tensor, ...], length: int, pad: int, where: str, said: Collection[str] = ()
) -> bytes:
    """The same ONNX model with one input, `tokens` (batch, length) int32 (`with_text_inputs`). Raises ModelError also for inputs
    that are something else (`roles_of_only`).
    """
    return with_text_inputs(content, inputs, [TextInput(TOKENS, roles_of_only(inputs, said, where), length, pad)], where)


def roles_of_only(inputs: tuple[Tensor, ...], said: Collection[str], where: str) -> dict[str, str]:
    """As `roles_of`; and where that fails, all inputs are of one text by their names (`grouped`). Raises its ModelError."""
    try:
        return roles_of(inputs, where)
    except ModelError:
        texts = grouped(inputs, said)
        if len(texts) == 1 and len(only := next(iter(texts.values()))) == len(inputs):
            return only
        raise


def with_text_inputs(content: bytes, inputs: tuple[Tensor, ...], texts: Sequence[TextInput], where: str) -> bytes:
    """The same ONNX model with one input for each text, (batch, length) int32. The text's own inputs become tensors that are made
    of it; the others stay.

    The mask is 1 where an id is not `pad`, token types are 0, positions count from 0. Raises ModelError for a file that was
    exported for another length, and for opsets below 9.
    """
    from onnx import helper

    model = parse_onnx(content, where)
    opset = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=1)
    if opset < MIN_OPSET:
        raise ModelError(f"{where}: opset {opset}; a model of texts is read from opset {MIN_OPSET} on: export it again")
    graph, made, doors = model.graph, list[Any](), dict[str, Any]()
    sizes = {tensor.name: tensor.shape[1] for tensor in inputs if tensor.shape is not None and len(tensor.shape) == 2}
    types = {value.name: value.type.tensor_type.elem_type for value in graph.input}
    taken = names_of(graph)
    for text in texts:
        for name in text.roles:
            if (size := sizes.get(name)) not in (None, text.length):
                raise ModelError(f"{where}: its input {name} takes {size} tokens, and not {text.length}; say --length {size}")
        doors[next(name for name in types if name in text.roles)] = helper.make_tensor_value_info(
            text.name, INT32, ["batch", text.length]
        )
        inner = {name: name for name in text.roles}
        if text.name in taken:  # the name is the door's; what the graph reads under it gets another
            inner[text.name] = free_name(f"{text.name}_inner", taken)
            rename(graph, {text.name: inner[text.name]})
        made += _made_of(text, inner, types, taken, graph)
    replaced = {name for text in texts for name in text.roles}
    nodes, ports = list(graph.node), [doors.get(v.name, v) for v in graph.input if v.name in doors or v.name not in replaced]
    del graph.node[:], graph.input[:]
    graph.node.extend([*made, *nodes])
    graph.input.extend(ports)
    return bytes(model.SerializeToString(deterministic=True))


def _made_of(text: TextInput, inner: Mapping[str, str], types: Mapping[str, int], taken: set[str], graph: Any) -> list[Any]:
    """The nodes that compute the file's inputs of the text's ids; their constants go into the graph. `inner`: their names there."""
    from onnx import helper

    door, kinds = text.name, set(text.roles.values())
    wide, shape, kept = (free_name(f"{door}_{part}", taken) for part in ("int64", "shape", "kept"))
    made = [helper.make_node("Cast", [door], [wide], to=INT64)]
    if {TYPES, POSITIONS} & kinds:
        made.append(helper.make_node("Shape", [wide], [shape]))
    for name, role in text.roles.items():
        source = wide
        if role == MASK:
            padding, same = (free_name(f"{name}_{part}", taken) for part in ("pad", "is_pad"))
            graph.initializer.append(helper.make_tensor(padding, INT64, [], [text.pad]))
            made += [helper.make_node("Equal", [wide, padding], [same]), helper.make_node("Not", [same], [kept])]
            source = kept
        elif role == TYPES:
            source = free_name(f"{name}_zeros", taken)
            zero = helper.make_tensor("zero", INT64, [1], [0])
            made.append(helper.make_node("ConstantOfShape", [shape], [source], value=zero))
        elif role == POSITIONS:
            places, source = (free_name(f"{name}_{part}", taken) for part in ("places", "expanded"))
            graph.initializer.append(helper.make_tensor(places, INT64, [1, text.length], list(range(text.length))))
            made.append(helper.make_node("Expand", [places, shape], [source]))
        made.append(helper.make_node("Cast", [source], [inner[name]], to=types[name]))
    return made


def smallest_table(content: bytes, where: str, door: str = TOKENS) -> tuple[str, int] | None:
    """Of the tables whose rows the input `door` chooses as it is: name and rows of the one with the fewest. None: none is found.

    `content`: an ONNX model of `with_text_inputs`. Ids that the model computes with first are not followed. Raises ModelError.
    """
    graph = parse_onnx(content, where).graph
    rows = {tensor.name: (tensor.name, tensor.dims[0]) for tensor in graph.initializer if len(tensor.dims)}
    ids, found = {door}, list[tuple[str, int]]()
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
