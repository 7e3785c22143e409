"""The Open Inference Protocol v2 over REST, with the binary tensor extension: bytes to arrays and back.

A body is JSON, followed by the raw tensors that its `binary_data_size` parameters announce; the header
Inference-Header-Content-Length says where the JSON ends (KServe's and Triton's documentation of the protocol).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import DataError

__all__ = [
    "DATATYPE_NAMES", "HEADER_LENGTH", "Request", "decode_request", "decode_response", "encode_request", "encode_response", "flag",
]  # fmt: skip

HEADER_LENGTH = "Inference-Header-Content-Length"
DATATYPES: dict[str, Any] = {
    "BOOL": np.bool_, "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32, "UINT64": np.uint64, "INT8": np.int8,
    "INT16": np.int16, "INT32": np.int32, "INT64": np.int64, "FP16": np.float16, "FP32": np.float32, "FP64": np.float64,
}  # fmt: skip
DATATYPE_NAMES = {np.dtype(kind): name for name, kind in DATATYPES.items()}
MAX_RANK = 8
PART = 1 << 18  # bytes of text that are made numbers at once
MAX_NESTED = 8 << 20  # bytes of text: small lists take many times their text
TEXTS = "BYTES"  # the protocol's name for texts


class _Tensor(msgspec.Struct, frozen=True):
    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Any] | None = {}
    data: msgspec.Raw = msgspec.Raw()


class _Output(msgspec.Struct, frozen=True):
    name: str
    parameters: dict[str, Any] | None = {}


class _Request(msgspec.Struct, frozen=True):
    inputs: list[_Tensor]
    id: str | None = ""
    parameters: dict[str, Any] | None = {}
    outputs: list[_Output] | None = []


@dataclass(frozen=True)
class Request:
    """`inputs` by name; `outputs`: the wanted ones ([]: all), and whether each is wanted in binary (`binary` where not said)."""

    id: str
    inputs: dict[str, Array]
    outputs: dict[str, bool]
    binary: bool
    parameters: dict[str, Any] = field(default_factory=dict)


def flag(parameters: dict[str, Any] | None, name: str, default: bool = False) -> bool:
    """A parameter that is true or false; `default` where it is absent or null. Raises DataError for anything else."""
    given = (parameters or {}).get(name)
    if given is not None and not isinstance(given, bool):
        raise DataError(f"the parameter {name} is {str(given)[:40]!r}; send true or false")
    return default if given is None else given


def decode_request(body: bytes | bytearray, header_length: int | None, texts: bool = False) -> Request:
    """Read a request. `texts`: inputs may be texts, (N,) objects. Raises DataError that says what is wrong with it."""
    if header_length is not None and not 0 <= header_length <= len(body):
        raise DataError(f"{HEADER_LENGTH} is {header_length}; the body has {len(body)} bytes")
    text, binary = (body, b"") if header_length is None else (body[:header_length], body[header_length:])
    try:
        request = msgspec.json.decode(text, type=_Request)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"not an inference request: {error}") from error
    inputs = _tensors(request.inputs, binary, texts)
    parameters = request.parameters or {}
    in_binary = flag(parameters, "binary_data_output")
    outputs = {o.name: flag(o.parameters, "binary_data", in_binary) for o in request.outputs or []}
    return Request(request.id or "", inputs, outputs, in_binary, parameters)


def encode_request(name: str, values: Array, parameters: dict[str, Any]) -> tuple[bytes, int]:
    """A request for all outputs in binary, with one input: its body, and the length of the JSON."""
    data = np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<"), copy=False).tobytes()
    tensor = {
        "name": name, "datatype": DATATYPE_NAMES[values.dtype], "shape": list(values.shape),
        "parameters": {"binary_data_size": len(data)},
    }  # fmt: skip
    text = msgspec.json.encode({"inputs": [tensor], "parameters": {"binary_data_output": True, **parameters}})
    return text + data, len(text)


class _Response(msgspec.Struct, frozen=True):
    outputs: list[_Tensor]
    parameters: dict[str, Any] = {}


def decode_response(body: bytes, header_length: int | None) -> tuple[dict[str, Array], dict[str, Any]]:
    """A response's outputs by name, and its parameters. Raises DataError."""
    if header_length is not None and not 0 <= header_length <= len(body):
        raise DataError(f"{HEADER_LENGTH} is {header_length}; the body has {len(body)} bytes")
    text, binary = (body, b"") if header_length is None else (body[:header_length], body[header_length:])
    try:
        response = msgspec.json.decode(text, type=_Response)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"not an inference response: {error}") from error
    return _tensors(response.outputs, binary), response.parameters


def _tensors(described: list[_Tensor], binary: bytes | bytearray, texts: bool = False) -> dict[str, Array]:
    arrays: dict[str, Array] = {}
    start = 0
    for tensor in described:
        if tensor.name in arrays:
            raise DataError(f"{tensor.name!r} is there twice")
        size = (tensor.parameters or {}).get("binary_data_size")
        if size is None:
            arrays[tensor.name] = _texts_of_json(tensor) if texts and tensor.datatype == TEXTS else _from_json(tensor)
            continue
        if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= len(binary) - start:
            raise DataError(f"{tensor.name!r}: binary_data_size {size!r}; {len(binary) - start} bytes are left in the body")
        data = binary[start : start + size]
        arrays[tensor.name] = _texts_of_bytes(tensor, data) if texts and tensor.datatype == TEXTS else _from_bytes(tensor, data)
        start += size
    if start != len(binary):
        raise DataError(f"{len(binary) - start} bytes at the end of the body belong to no tensor")
    return arrays


def _texts_of_json(tensor: _Tensor) -> Array:
    """Texts in a flat list, (N,) objects."""
    try:
        return _texts(tensor, msgspec.json.decode(bytes(tensor.data), type=list[str]) if tensor.data else [])
    except msgspec.MsgspecError as error:
        raise DataError(f"{tensor.name!r}: data are not a list of texts ({error})") from error


def _texts_of_bytes(tensor: _Tensor, data: bytes | bytearray) -> Array:
    """Texts in UTF-8, each behind its length in four bytes."""
    texts, place = list[str](), 0
    while place < len(data):
        end = place + 4 + int.from_bytes(data[place : place + 4], "little")
        if end > len(data) or place + 4 > len(data):
            raise DataError(f"{tensor.name!r}: its texts end before the {end} bytes that their lengths say")
        try:
            texts.append(bytes(data[place + 4 : end]).decode())
        except UnicodeDecodeError as error:
            raise DataError(f"{tensor.name!r}: text {len(texts)} is not UTF-8 (byte {error.start})") from error
        place = end
    return _texts(tensor, texts)


def _texts(tensor: _Tensor, texts: list[str]) -> Array:
    if tensor.shape not in ([len(texts)], [len(texts), 1]):
        raise DataError(f"{tensor.name!r}: shape {tensor.shape[: MAX_RANK + 1]} of {len(texts)} texts; send [{len(texts)}]")
    values = np.empty(len(texts), object)
    values[:] = texts
    return values


def _dtype_and_count(tensor: _Tensor) -> tuple[np.dtype[Any], int]:
    """Type, and how many values there must be."""
    if tensor.datatype not in DATATYPES:
        raise DataError(f"{tensor.name!r}: datatype {tensor.datatype!r}; known: {', '.join(DATATYPES)}")
    if len(tensor.shape) > MAX_RANK or any(n < 0 for n in tensor.shape):
        raise DataError(f"{tensor.name!r}: shape {tensor.shape[: MAX_RANK + 1]} is no shape")
    count = 1
    for n in tensor.shape:
        count *= n
    return np.dtype(DATATYPES[tensor.datatype]), count


def _from_bytes(tensor: _Tensor, data: bytes | bytearray) -> Array:
    dtype, count = _dtype_and_count(tensor)
    if count * dtype.itemsize != len(data):
        raise DataError(f"{tensor.name!r}: shape {tensor.shape} of {tensor.datatype} is not {len(data)} bytes")
    return np.frombuffer(data, dtype.newbyteorder("<")).astype(dtype, copy=False).reshape(tensor.shape)


def _from_json(tensor: _Tensor) -> Array:
    """Numbers in nested or flat lists; those that the datatype cannot hold are an error, not wrapped around."""
    dtype, count = _dtype_and_count(tensor)
    text = memoryview(tensor.data)
    available = _max_values(text)
    if count and available != count:  # before they take several times the room of their text
        raise DataError(f"{tensor.name!r}: shape {tensor.shape} wants {count} values, data has {available}")
    wanted: Any = bool if dtype.kind == "b" else float if dtype.kind == "f" else int
    try:
        with np.errstate(over="ignore"):  # what is beyond the datatype becomes infinite, and is refused as that
            flat = _flat(text, dtype, wanted, count)
            if flat is None:
                flat = np.array(_flattened(tensor, wanted) if text else [], dtype=dtype)
            if len(flat) != count:
                raise DataError(f"{tensor.name!r}: shape {tensor.shape} wants {count} values, data has {len(flat)}")
            return flat.reshape(tensor.shape)
    except (OverflowError, ValueError) as error:
        raise DataError(f"{tensor.name!r}: {error}") from error


def _max_values(text: memoryview) -> int:
    """Of a flat or nested list of numbers, by its commas alone."""
    commas = sum(bytes(text[i : i + PART]).count(b",") for i in range(0, len(text), PART))
    return commas + 1 if commas or any(c not in b"[] \t\r\n" for c in bytes(text[:100])) else 0


def _flat(text: memoryview, dtype: np.dtype[Any], wanted: Any, count: int) -> Array | None:
    """The numbers of a flat list, a part at a time: all of them as Python's own would take ten times the room of their text.

    None for what is no flat list of such numbers.
    """
    whole = bytes(text[:1]), bytes(text[-1:])
    if whole != (b"[", b"]"):
        return None
    values, at, begin, end = np.empty(count, dtype), 0, 1, len(text) - 1
    while begin < end:
        part = bytes(text[begin : min(begin + PART, end)])
        if begin + len(part) < end:
            part = part[: max(part.rfind(b","), 0)]
        if b"[" in part or not part:
            return None
        try:
            some = msgspec.json.decode(b"[" + part + b"]", type=list[wanted])
        except msgspec.MsgspecError:
            return None
        if at + len(some) > count:
            return None
        values[at : at + len(some)] = some
        at, begin = at + len(some), begin + len(part) + 1
    return values if at == count else None


def _flattened(tensor: _Tensor, wanted: Any) -> list[Any]:
    if len(memoryview(tensor.data)) > MAX_NESTED:
        what = f"data are no flat list of numbers of {tensor.datatype}, and nested lists are read up to {MAX_NESTED >> 20} MiB"
        raise DataError(f"{tensor.name!r}: {what}; send the numbers flat, or in binary")
    try:
        nested = msgspec.json.decode(bytes(tensor.data))
        if not isinstance(nested, list):
            raise DataError(f"{tensor.name!r}: data is {str(bytes(tensor.data)[:40], 'utf-8', 'replace')}; send a list of numbers")
        for _ in tensor.shape[1:]:
            if not all(isinstance(part, list) for part in nested):
                raise DataError(f"{tensor.name!r}: data are neither a flat list nor nested lists of shape {tensor.shape}")
            nested = [value for part in nested for value in part]
        return msgspec.convert(nested, type=list[wanted])
    except (msgspec.MsgspecError, RecursionError) as error:
        raise DataError(f"{tensor.name!r}: data are not numbers of {tensor.datatype} ({error})") from error


def encode_response(
    model: str, version: str, request: Request, outputs: dict[str, Array], parameters: dict[str, Any] | None = None
) -> tuple[bytes, int | None]:
    """A response's body, and the length of its JSON where tensors follow it; `parameters`: its parameters.

    Raises DataError for an output that is not there.
    """
    chosen = request.outputs or dict.fromkeys(outputs, request.binary)
    described, tail = [], b""
    for name, in_binary in chosen.items():
        if name not in outputs:
            raise DataError(f"output {name!r} does not exist; there is {', '.join(outputs)}")
        values = outputs[name]
        tensor: dict[str, Any] = {"name": name, "datatype": DATATYPE_NAMES[values.dtype], "shape": list(values.shape)}
        if in_binary:
            data = np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<"), copy=False).tobytes()
            tensor["parameters"] = {"binary_data_size": len(data)}
            tail += data
        else:
            tensor["data"] = values.ravel().tolist()
        described.append(tensor)
    answer: dict[str, Any] = {"model_name": model, "model_version": version, "outputs": described}
    if request.id:
        answer["id"] = request.id
    if parameters:
        answer["parameters"] = parameters
    text = msgspec.json.encode(answer)
    return (text + tail, len(text)) if tail else (text, None)
