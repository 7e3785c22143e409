"""Reads an ONNX file: its tensors, its graph, and where its weights are."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edgeloop_contract.errors import DataError, DeviceError, ModelError
from edgeloop_contract.manifest import Quantization
from edgeloop_exporters.model_files.checks import MAX_NAME, MAX_TENSORS, name_of, not_empty
from edgeloop_exporters.model_files.description import ModelFile, Tensor
from edgeloop_exporters.model_files.graph import Graph
from edgeloop_exporters.model_files.onnx_graph import all_graphs, dtype_name, graph_of, shape_of
from edgeloop_exporters.model_files.onnx_metadata import onnx_metadata
from edgeloop_exporters.model_files.rules import activation_of, layout_of, precision_of
from edgeloop_exporters.model_files.states import guessed_states, proven_states
from edgeloop_exporters.model_files.text import clean

__all__ = ["MIN_OPSET", "external_files", "parse_onnx", "read_onnx", "whole_onnx"]

MIN_OPSET = 7  # the oldest that ONNX Runtime promises to read
# Domains whose operators ONNX Runtime has; "com.microsoft.nchwc" is what it writes itself.
DOMAINS = {"", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc", "com.ms.internal.nhwc", "ai.onnx.preview.training"}
TRAINING = "ai.onnx.training"
# Operator → the place of its data's scale, and of its result's; the zero point follows.
SCALES_OF_DATA = {"DequantizeLinear": 1, "QLinearConv": 1, "QLinearMatMul": 1}
SCALES_OF_RESULTS = {"QuantizeLinear": 1, "QLinearConv": 6, "QLinearMatMul": 6}
MAX_WHOLE_BYTES = 2**31 - 1  # of one protocol buffer


def parse_onnx(content: bytes, where: str) -> Any:
    """The onnx.ModelProto. Raises ModelError for what is none, or what ONNX Runtime cannot read."""
    try:
        import onnx
    except ImportError as error:
        raise DeviceError(f"{where}: an ONNX file is read with onnx: pip install 'edgeloop[workstation]'") from error
    try:
        model = onnx.ModelProto.FromString(content)
    except Exception as error:  # protobuf's own types, one for each of its implementations
        raise ModelError(f"{where} is not a whole ONNX file: export or download it again") from error
    if not model.HasField("graph") or not model.graph.node or not model.graph.output or model.ir_version < 1:
        raise ModelError(f"{where} is not an ONNX file: it has no graph with operators and outputs; export or download it again")
    versions = [o.version for o in model.opset_import if o.domain in ("", "ai.onnx")]
    if versions and min(versions) < MIN_OPSET:
        raise ModelError(f"{where}: opset {min(versions)}; from {MIN_OPSET} on it can be run: convert it (onnx.version_converter)")
    return model


def read_onnx(path: Path, content: bytes) -> ModelFile:
    """Describe an ONNX file of this content. Raises ModelError, and DataError where weights beside it are missing."""
    try:
        return _described(parse_onnx(content, str(path)), path)
    except (TypeError, AttributeError, UnicodeError) as error:  # protobuf gives bytes for a text that is not UTF-8
        raise ModelError(f"{path} is damaged: a name in it is not text; export or download it again") from error


def _described(model: Any, path: Path) -> ModelFile:
    where = str(path)
    _check_operators(model, where)
    external = tuple(str(file) for file in external_files(model, path))
    _with_output_shapes(model)
    graph = graph_of(model)
    scales = _quantizations(model.graph, graph)
    taken = [value for value in model.graph.input if value.name in graph.input_names]
    inputs = tuple(_tensor(graph, value, where, True, scales) for value in taken)
    outputs = tuple(_tensor(graph, value, where, False, scales) for value in model.graph.output)
    not_empty(inputs, outputs, where)
    states = proven_states(graph, inputs, outputs)
    return ModelFile(
        path=where, runtime="onnx", precision=precision_of(graph), inputs=inputs, outputs=outputs,
        states=states, guessed_states=guessed_states(inputs, outputs, states),
        operators=tuple(sorted({clean(node.op_type, MAX_NAME) for inner in all_graphs(model.graph) for node in inner.node})),
        external=external, metadata=onnx_metadata(model, graph),
    )  # fmt: skip


def _check_operators(model: Any, where: str) -> None:
    local = {(function.domain, function.name) for function in model.functions}
    count = 0
    for graph in all_graphs(model.graph):
        count += len(graph.node)
        if count > MAX_TENSORS:
            raise ModelError(f"{where} has more than {MAX_TENSORS:,} operators; edgeloop reads no larger graph")
        for node in graph.node:
            if node.domain not in DOMAINS and (node.domain, node.op_type) not in local:
                kind = name_of(f"{node.domain}.{node.op_type}", where, False)
                raise ModelError(f"{where} needs the custom operator {kind}, which ONNX Runtime lacks: export it without that")


def _with_output_shapes(model: Any) -> None:
    """Shapes of outputs that the file leaves out, as far as onnx can infer them."""
    import onnx

    if all(o.type.HasField("tensor_type") and o.type.tensor_type.HasField("shape") for o in model.graph.output):
        return
    try:
        inferred = onnx.shape_inference.infer_shapes(model)
    except Exception:  # onnx's own types, and ValueError beyond 2 GB: the shapes stay unknown
        return
    for output, better in zip(model.graph.output, inferred.graph.output, strict=True):
        output.CopyFrom(better)


def _tensor(graph: Graph, value: Any, where: str, is_input: bool, scales: Mapping[tuple[bool, str], Quantization]) -> Tensor:
    name = name_of(value.name, where)
    kind = value.type.WhichOneof("value") or "untyped"
    if kind != "tensor_type":
        return Tensor(name=name, dtype=kind.removesuffix("_type").split("_")[0], shape=None, activation=activation_of(graph, name))
    tensor = value.type.tensor_type
    return Tensor(
        name=name, dtype=dtype_name(tensor.elem_type), shape=shape_of(tensor), quantization=scales.get((is_input, name)),
        layout=layout_of(graph, name) if is_input else None, activation=None if is_input else activation_of(graph, name),
    )  # fmt: skip


def _quantizations(proto: Any, graph: Graph) -> dict[tuple[bool, str], Quantization]:
    """(is it an input, tensor) → the scale by which DequantizeLinear reads it, or QuantizeLinear makes it."""
    scalars = {t.name: t for t in proto.initializer if t.data_location == 0 and len(t.dims) < 2 and set(t.dims) <= {1}}
    found: dict[tuple[bool, str], Quantization] = {}
    for node in proto.node:
        for is_input, places in ((True, SCALES_OF_DATA), (False, SCALES_OF_RESULTS)):
            place, names = places.get(node.op_type), (node.input if is_input else node.output)[:1]
            wanted = graph.input_names if is_input else graph.output_names
            if place is None or not wanted.intersection(names) or len(node.input) <= place:
                continue
            zeros = list(node.input[place + 1 : place + 2])
            scale, zero = _scalar(scalars.get(node.input[place])), _scalar(scalars.get(zeros[0])) if zeros and zeros[0] else 0.0
            if scale is not None and zero is not None and scale > 0:
                found.setdefault((is_input, names[0]), Quantization(scale=scale, zero_point=int(zero)))
    return found


def _scalar(tensor: Any) -> float | None:
    from onnx import numpy_helper

    try:
        number = float(numpy_helper.to_array(tensor).reshape(-1)[0]) if tensor is not None else None
    except (ValueError, TypeError, IndexError):  # data of another size than it says
        return None
    return number if number is not None and math.isfinite(number) else None


def _external_tensors(model: Any) -> Iterator[Any]:
    for count, tensor in enumerate(_tensors(model)):
        if count > MAX_TENSORS:
            return
        if tensor.data_location == 1:
            yield tensor


def _tensors(model: Any) -> Iterator[Any]:
    for graph in all_graphs(model.graph):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
        for node in graph.node:
            for attribute in node.attribute:
                yield from (*attribute.tensors, *([attribute.t] if attribute.HasField("t") else []))


def external_files(model: Any, path: Path) -> list[Path]:
    """Files in the model's folder that hold its weights. Raises ModelError for one outside, DataError for one missing or short."""
    folder, found = path.parent.resolve(), {}
    for tensor in _external_tensors(model):
        entries = {e.key: e.value for e in tensor.external_data}
        location = entries.get("location", "")
        file = _inside(folder, location, path)
        found[file] = True
        try:
            first, length = int(entries.get("offset") or 0), int(entries.get("length") or 0)
        except ValueError as error:
            raise ModelError(f"{path}: the place of a tensor in {file.name} is no number: export it again") from error
        if first < 0 or length < 0 or first + length > file.stat().st_size:
            raise DataError(f"{file} is shorter than {path.name} says: copy it again, whole")
    return list(found)


def _inside(folder: Path, location: str, path: Path) -> Path:
    try:
        file = (folder / location).resolve()
        inside = bool(location) and file.is_relative_to(folder) and not Path(location).is_absolute()
        is_file = file.is_file()
    except (OSError, ValueError, RuntimeError):  # a loop of links, a zero byte
        inside, is_file, file = False, False, folder
    if not inside:
        raise ModelError(f"{path} wants weights from outside its folder ({name_of(location[:80], str(path), False)}): not read")
    if not is_file:
        raise DataError(f"{path} needs its weights in {file.name} beside it, and that file is missing: copy it there")
    return file


def whole_onnx(path: Path, content: bytes) -> bytes:
    """The file with all its weights inside: as it is, where no other file holds some. Raises ModelError beyond 2 GB."""
    try:
        return _whole(parse_onnx(content, str(path)), path, content)
    except (TypeError, AttributeError, UnicodeError) as error:
        raise ModelError(f"{path} is damaged: a name in it is not text; export or download it again") from error


def _whole(model: Any, path: Path, content: bytes) -> bytes:
    files = external_files(model, path)
    if not files:
        return content
    if len(content) + sum(file.stat().st_size for file in files) > MAX_WHOLE_BYTES:
        raise ModelError(f"{path} and the weights beside it have more than 2 GB; a bundle holds one file of less")
    for tensor in _external_tensors(model):
        entries = {e.key: e.value for e in tensor.external_data}
        with _inside(path.parent.resolve(), entries["location"], path).open("rb") as file:
            file.seek(int(entries.get("offset") or 0))
            tensor.raw_data = file.read(int(entries["length"])) if entries.get("length") else file.read()
        del tensor.external_data[:]
        tensor.data_location = 0
    return bytes(model.SerializeToString(deterministic=True))
