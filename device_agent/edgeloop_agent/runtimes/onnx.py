"""ONNX Runtime."""

from __future__ import annotations

import os
from typing import Any

from edgeloop_agent.runtimes import Array, missing, to_scores
from edgeloop_contract.errors import DeviceError
from edgeloop_contract.manifest import Variant

ERRORS_ONLY = 3


def _library() -> Any:
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # onnxruntime 1.31 wheels carry a telemetry endpoint
    try:
        import onnxruntime
    except ImportError as error:
        raise missing("onnx", error) from error
    return onnxruntime


def version() -> str:
    return f"onnxruntime {_library().__version__}"


class _Session:
    def __init__(self, variant: Variant, session: Any) -> None:
        self._variant, self._session = variant, session
        self._output = session.get_outputs()[0].name
        self._input = session.get_inputs()[0].name
        providers = ", ".join(p.removesuffix("ExecutionProvider") for p in session.get_providers())
        self.description = f"{version()} ({providers})"

    def run(self, samples: Array) -> Array:
        return to_scores(self._session.run([self._output], {self._input: samples})[0], self._variant)


def load(variant: Variant, model: bytes, threads: int, optimised_model: str | None = None, profile: str | None = None) -> _Session:
    """Open a CPU session. `optimised_model` and `profile`: where to write the optimised graph and a trace of kernels."""
    library = _library()
    options = library.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = ERRORS_ONLY
    if optimised_model:
        options.optimized_model_filepath = optimised_model
    if profile:
        options.enable_profiling = True
        options.profile_file_prefix = profile
    try:
        session = library.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises pybind types that share no public base
        raise DeviceError(f"{version()} refuses {variant.file}: {error}; update onnxruntime or use another variant") from error
    return _Session(variant, session)
