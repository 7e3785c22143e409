"""OpenVINO, from its own package, behind what the agent uses of an ONNX Runtime session: another way to run the same ONNX file."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgeloop_contract.arrays import Array

__all__ = ["Session", "is_installed", "version"]

# OpenVINO's names of types → onnxruntime's
TYPES = {
    "f32": "float", "f16": "float16", "f64": "double", "u8": "uint8", "i8": "int8", "i16": "int16", "i32": "int32", "i64": "int64",
    "boolean": "bool",
}  # fmt: skip


def is_installed() -> bool:
    return importlib.util.find_spec("openvino") is not None


def version() -> str:
    return f"OpenVINO {_library().__version__.split('-')[0]}"


def _library() -> Any:
    # Imported, it would tell a server of its maker's about it; without this package it does not.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


class _Port:
    """An input or output as onnxruntime describes it: `shape` has None where the file leaves a size open."""

    def __init__(self, port: Any) -> None:
        self.name: str = port.any_name
        kind = port.element_type.get_type_name()
        self.type = f"tensor({TYPES.get(kind, kind)})"
        self.shape = [size.get_length() if size.is_static else None for size in port.partial_shape]


class Session:
    """One model, compiled for one sample: of a batch it answers one after the other.

    Computes in float32 what is not int8, as onnxruntime's CPU does, so that both give the same answers. Raises OpenVINO's own
    errors for a model that it does not take.
    """

    def __init__(self, model: bytes, threads: int) -> None:
        core = _library().Core()
        read = core.read_model(model, b"")
        self._inputs, self._outputs = [_Port(port) for port in read.inputs], [_Port(port) for port in read.outputs]
        open_first = {port.name: [1, *port.shape[1:]] for port in self._inputs if port.shape and port.shape[0] is None}
        self._one_by_one = bool(open_first)
        if open_first:
            read.reshape({name: [-1 if size is None else size for size in shape] for name, shape in open_first.items()})
        settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        compiled = core.compile_model(read, "CPU", settings)
        self._request = compiled.create_infer_request()
        self._places = {port.name: i for i, port in enumerate(self._outputs)}

    def get_inputs(self) -> list[_Port]:
        return self._inputs

    def get_outputs(self) -> list[_Port]:
        return self._outputs

    def get_providers(self) -> list[str]:
        return [version()]

    def run(self, names: Sequence[str] | None, feeds: Mapping[str, Array]) -> list[Array]:
        places = [self._places[name] for name in names] if names else list(range(len(self._outputs)))
        count = len(next(iter(feeds.values())))
        if not self._one_by_one or count == 1:
            return self._once(places, feeds)
        rows = [self._once(places, {name: values[i : i + 1] for name, values in feeds.items()}) for i in range(count)]
        return [np.concatenate(parts) for parts in zip(*rows, strict=True)]

    def _once(self, places: list[int], feeds: Mapping[str, Array]) -> list[Array]:
        self._request.infer({name: np.ascontiguousarray(values) for name, values in feeds.items()}, share_inputs=True)
        return [np.array(self._request.get_output_tensor(place).data) for place in places]  # the next call writes over them
