"""The runtimes a bundle's model files can run on: one small protocol, and a table of who speaks it."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Protocol

import msgspec
import numpy as np

from edgeloop_agent.caches import GraphCache
from edgeloop_agent.runtimes.named import NamedModel, RawModel, is_plain
from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import DeviceError
from edgeloop_contract.manifest import Quantization, Variant

__all__ = [
    "PLAIN", "RUNTIMES", "Runtime", "RuntimeOptions", "missing_library", "open_raw", "open_runtime", "to_scores", "version_of",
]  # fmt: skip

# runtime name in the manifest → (module here, extras that bring it)
RUNTIMES = {
    "onnx": ("edgeloop_agent.runtimes.onnx", "edgeloop[onnx]"),
    "tflite": ("edgeloop_agent.runtimes.tflite", "edgeloop[tflite]"),
}


class RuntimeOptions(msgspec.Struct, frozen=True):
    """How a model is opened; each runtime uses its own options.

    ONNX Runtime: `providers`, short names (XNNPACK, CUDA, TensorRT) tried before the CPU; `graphs`, a cache of optimised graphs;
    `optimised_model` and `profile`, files for the optimised graph and for a trace of kernels ("": none); `way`, one way of
    `providers.ways` and no other ("": `providers` in order); `dla_core` of a Jetson, for TensorRT (−1: none). TFLite: `delegate`, a
    delegate's library, with its options.
    """

    providers: Sequence[str] = ()
    graphs: GraphCache | None = None
    optimised_model: str = ""
    profile: str = ""
    way: str = ""
    dla_core: int = -1
    delegate: str = ""
    delegate_options: dict[str, str] = {}


PLAIN = RuntimeOptions()


class Runtime(Protocol):
    """One loaded model."""

    @property
    def description(self) -> str:
        """Library and version, with what it delegates to: part of the key under which measurements are remembered."""

    def run(self, samples: Array) -> Array:
        """Raw samples (N, *sample) to float32 scores (N, outputs)."""


def version_of(runtime: str) -> str:
    """Library and version that would run `runtime` here. Raises DeviceError with the extra that brings it."""
    module, _ = RUNTIMES[runtime]
    version: str = importlib.import_module(module).version()
    return version


def open_runtime(variant: Variant, model: bytes, threads: int = 1, options: RuntimeOptions = PLAIN) -> Runtime:
    """Load `model`. Raises DeviceError when the library is missing here or refuses the model, or the manifest describes another."""
    module, _ = RUNTIMES[variant.runtime]
    loaded = importlib.import_module(module).load(variant, model, threads, options)
    if is_plain(variant):
        check_one_input(variant, list(loaded.shapes()[0]))
        plain: Runtime = loaded
        return plain
    return NamedModel(variant, loaded)


def check_one_input(variant: Variant, names: Sequence[str]) -> None:
    """Raises DeviceError for a file with several inputs whose manifest describes one."""
    if len(names) != 1:
        listed = f" ({', '.join(names)})" if names else ""
        raise DeviceError(f"{variant.file} takes {len(names)} inputs{listed}, the manifest describes one: pack the bundle again")


def missing_library(runtime: str, error: ImportError) -> DeviceError:
    return DeviceError(f"runtime {runtime!r} is not installed here ({error}); pip install '{RUNTIMES[runtime][1]}'")


def to_scores(raw: Array, q: Quantization | None) -> Array:
    """A model's raw output as float32 scores. `q`: the output's quantization."""
    if q is None:
        return raw.astype(np.float32, copy=False)
    return (raw.astype(np.float32) - np.float32(q.zero_point)) * np.float32(q.scale)


def open_raw(variant: Variant, model: bytes) -> RawModel:
    """Load `model` without a look at what the manifest says of its tensors. Raises DeviceError."""
    module, _ = RUNTIMES[variant.runtime]
    loaded: RawModel = importlib.import_module(module).load(variant, model, 1, PLAIN)
    return loaded
