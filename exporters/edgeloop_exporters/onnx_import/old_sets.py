"""Files of operator sets that runtimes no longer promise to run, in a newer one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from edgeloop_contract.errors import ModelError
from edgeloop_exporters.model_files.onnx_file import MIN_OPSET

__all__ = ["in_newer_set"]

TARGET = 13
BROADCAST = ("Add", "Sub", "Mul", "Div", "Pow", "And", "Or", "Xor", "Equal", "Greater", "Less", "PRelu")
REMEDY = "export the model again with opset 13 or newer"


def in_newer_set(path: Path, target: Path) -> Path:
    """`path` itself, or `target` with the same model in operator set 13, where the file's own is older than 7.

    onnx's own converter makes it; what is compared later is the new file. Raises ModelError where it cannot be converted. Weights
    beside such a file are not read: it is refused with the rest.
    """
    import onnx

    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception:  # whatever it is, reading the file says it in a sentence
        return path
    version = min((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=MIN_OPSET)
    if version >= MIN_OPSET:
        return path
    try:
        newer = onnx.version_converter.convert_version(_with_inputs(_with_places(model)), TARGET)
    except Exception as error:  # the converter's own types and RuntimeError
        why = re.sub(r"^\S+: (\w+: )?", "", " ".join(str(error).split()))[:200]  # without the place in the converter's source
        raise ModelError(f"{path}: opset {version} cannot be converted ({why}); {REMEDY}, or with fixed sizes") from error
    target.write_bytes(newer.SerializeToString())
    return target


def _with_inputs(model: Any) -> Any:
    """The converter knows constants that are inputs too, as such old files have them."""
    import onnx

    known = {value.name for value in model.graph.input}
    for tensor in model.graph.initializer:
        if tensor.name not in known:
            model.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    return model


def _with_places(model: Any) -> Any:
    """Constants stand where today's rules of shapes want them: old operators put a bias or a slope at an axis that they named."""
    import onnx

    inferred = onnx.shape_inference.infer_shapes(model)
    ranks = {v.name: len(v.type.tensor_type.shape.dim) for v in (*inferred.graph.value_info, *inferred.graph.input)}
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    moved: set[str] = set()
    for node in model.graph.node:
        constant = constants.get(node.input[1]) if len(node.input) == 2 and node.op_type in BROADCAST else None
        options = {a.name: a.i for a in node.attribute}
        rank = ranks.get(node.input[0]) if constant is not None else None
        if constant is None or rank is None or constant.name in moved:
            continue
        first = options.get("axis", -1)
        if node.op_type == "PRelu":
            first = 1 if len(constant.dims) == 1 and constant.dims[0] > 1 else -1
        elif not options.get("broadcast"):
            continue
        behind = 0 if first < 0 else rank - first - len(constant.dims)
        if behind <= 0:
            continue
        moved.add(constant.name)
        constant.dims.extend([1] * behind)
        del node.attribute[:]
        for value in model.graph.input:
            if value.name == constant.name:
                value.type.tensor_type.shape.CopyFrom(onnx.helper.make_tensor_type_proto(1, list(constant.dims)).tensor_type.shape)
    return model
