"""ONNX Runtime."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeloop_agent.hardware import int8_may_saturate, machine
from edgeloop_agent.runtimes import PLAIN, RuntimeOptions, missing_library, openvino, to_scores
from edgeloop_agent.runtimes.named import to_input
from edgeloop_agent.runtimes.providers import FP16, OPENVINO, SUFFIX, chain_of, full_names, is_tensorrt, options_of, with_engines
from edgeloop_contract.arrays import DTYPES, Array
from edgeloop_contract.errors import DeviceError, StorageError
from edgeloop_contract.manifest import Precision, Variant

if TYPE_CHECKING:
    from edgeloop_agent.caches import GraphCache

ERRORS_ONLY, FATAL_ONLY = 3, 4
UINT8_WEIGHTS, IN_FLOATS = "session.x64quantprecision", "session.disable_quant_qdq"  # onnxruntime's names of these options
NOTES = {IN_FLOATS: "; computed in floats: this CPU has no VNNI, and onnxruntime cannot make the file's weights uint8"}
CPU = "CPUExecutionProvider"


def _library() -> Any:
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # onnxruntime 1.31 wheels carry a telemetry endpoint
    try:
        import onnxruntime
    except ImportError as error:
        raise missing_library("onnx", error) from error
    return onnxruntime


def version(way: str = "") -> str:
    """Library and version that would run a model by this way ("": by onnxruntime's own)."""
    library = _library()
    return openvino.version() if way == OPENVINO and _own_openvino(library) else f"onnxruntime {library.__version__}"


def _own_openvino(library: Any) -> bool:
    """Whether OpenVINO would be its own package, and not a part of this build of onnxruntime."""
    return OPENVINO + SUFFIX not in library.get_available_providers()


def available_providers() -> list[str]:
    """Full names of those that this build has, and OpenVINO where its own package is installed; [] without onnxruntime."""
    try:
        found = list(_library().get_available_providers())
    except DeviceError:
        return []
    return [OPENVINO + SUFFIX, *found] if openvino.is_installed() and OPENVINO + SUFFIX not in found else found


def installed_accelerators() -> list[str]:
    """NVIDIA's providers of the installed build, and OpenVINO, by their short names: those that a benchmark tries."""
    found = available_providers()
    return [*with_engines(found), *([OPENVINO] if OPENVINO + SUFFIX in found else [])]


class _Session:
    def __init__(self, variant: Variant, session: Any, missing_providers: Sequence[str], note: str) -> None:
        self._variant, self._session = variant, session
        self._quantization = variant.output.quantization
        self._output = variant.output.tensor or session.get_outputs()[0].name
        self._input = session.get_inputs()[0].name
        self._dtype = _dtype(session.get_inputs()[0].type)
        providers = ", ".join(p.removesuffix("ExecutionProvider") for p in session.get_providers())
        absent = f"; asked for and not in this build: {', '.join(missing_providers)}" if missing_providers else ""
        what = f"{providers}{absent}{note}"
        self.description = what if isinstance(session, openvino.Session) else f"{version()} ({what})"
        described = (session.get_inputs(), session.get_outputs())
        given, made = ({e.name: [n if isinstance(n, int) else None for n in e.shape] for e in entries} for entries in described)
        self._names = list(made)
        self._shapes: tuple[dict[str, list[int | None]], dict[str, list[int | None]]] = (given, made)

    def run(self, samples: Array) -> Array:
        return to_scores(self.raw(samples), self._quantization)

    def raw(self, samples: Array) -> Array:
        """The model's raw output."""
        if samples.dtype != self._dtype and self._dtype is not None:
            samples = to_input(samples, self._variant.input)
        output: Array = self._session.run([self._output], {self._input: samples})[0]
        return output

    def shapes(self) -> tuple[dict[str, list[int | None]], dict[str, list[int | None]]]:
        """Of inputs and outputs by name, with the batch; None where the file leaves a size open."""
        return self._shapes

    def feed(self, tensors: dict[str, Array]) -> dict[str, Array]:
        """One inference by the file's own names; "" is the only input, and the first output."""
        if "" in tensors:
            tensors = {name or self._input: values for name, values in tensors.items()}
        values = self._session.run(self._names, tensors)
        outputs: dict[str, Array] = dict(zip(self._names, values, strict=True))
        outputs[""] = values[0]
        return outputs

    def forget(self) -> None:
        """ONNX Runtime keeps nothing from call to call."""

    def end_profiling(self) -> str:
        """The path of the trace of a session that was opened with `profile`."""
        return str(self._session.end_profiling())

    def two_outputs(self, samples: Array) -> tuple[Array, Array]:
        """The first output and the second one, of a model that has two."""
        first, second = self._session.run(None, {self._input: samples})
        return first, second


def _dtype(name: str) -> np.dtype[Any] | None:
    """Of onnxruntime's "tensor(uint8)"; None for what numpy has no type for."""
    plain = name.removeprefix("tensor(").removesuffix(")")
    return DTYPES.get({"float": "float32", "double": "float64"}.get(plain, plain))


def load(variant: Variant, model: bytes, threads: int, given: RuntimeOptions = PLAIN) -> _Session:
    """Open a session. `description` names the providers that this build lacks. Raises DeviceError."""
    library = _library()
    available = available_providers()
    chosen, missing_providers = full_names(available, chain_of(given.way, available) if given.way else given.providers)
    integer, graphs = variant.precision == Precision.INT8, given.graphs
    engines = graphs.engine_folder() if graphs is not None and any(map(is_tensorrt, chosen)) else ""
    workarounds = _workarounds(integer, variant.provider) if chosen == [CPU] else ("",)
    with_options = [(name, options_of(name, given.way, integer, given.dla_core, engines)) for name in chosen]

    def open_session(options: Any, workaround: str) -> Any:
        if given.optimised_model:
            options.optimized_model_filepath = given.optimised_model
        if given.profile:
            options.enable_profiling = True
            options.profile_file_prefix = given.profile
        if graphs is not None and graphs.max_bytes and chosen == [CPU]:
            return _from_cache(library, options, model, graphs, threads, workaround)
        if chosen == [CPU]:
            return _on_cpu(model, options)
        if chosen[0] == OPENVINO + SUFFIX and _own_openvino(library):
            return openvino.Session(model, threads)
        return library.InferenceSession(model, options, providers=with_options)

    try:
        session, workaround = _open_exact(open_session, threads, workarounds)
        if graphs is not None and engines:
            graphs.trim_engines()
        if (
            given.way and chosen[0] not in session.get_providers() and not isinstance(session, openvino.Session)
        ):  # onnxruntime went on without it
            raise DeviceError(f"{version()}: {given.way} does not start here; are its libraries and a GPU there?")
        why_floats = f"; computed in floats: made for {variant.provider}" if variant.provider else NOTES.get(workaround, "")
        note = "; what is not int8 in 16 bits" if given.way.endswith(FP16) else why_floats if workaround else ""
        return _Session(variant, session, missing_providers, note)  # names in it may be no UTF-8
    except DeviceError:
        raise
    except Exception as error:  # onnxruntime raises pybind types that share no public base
        why = " ".join(str(error).split())
        name = version(given.way)
        raise DeviceError(f"{name} refuses {variant.file}: {why}; update {name.split()[0]} or use another variant") from error


def session_of(model: bytes, threads: int = 1) -> Any:
    """A quiet session on the CPU, exact on every one (see `int8_may_saturate`). Raises onnxruntime's own errors."""
    return _open_exact(lambda options, _: _on_cpu(model, options), threads, _workarounds(True))[0]


def _workarounds(integer: bool, made_for: str = "") -> tuple[str, ...]:
    """What a file needs on this CPU, in the order to try it ("": nothing).

    Where int8 sums may saturate: uint8 weights, whose kernels are exact and a little slower; where layers share a tensor and
    onnxruntime cannot do that, float arithmetic. So too a file that is made for a provider: onnxruntime has few kernels for it on
    the CPU, and would make floats of its weights at every inference.
    """
    if made_for:
        return (IN_FLOATS,)
    return (UINT8_WEIGHTS, IN_FLOATS) if integer and int8_may_saturate() else ("",)


def _open_exact(open_session: Callable[[Any, str], Any], threads: int, workarounds: Sequence[str]) -> tuple[Any, str]:
    """A session, and the workaround that it needed ("": none)."""
    for workaround in workarounds:
        options = _options(threads)
        if workaround:
            options.add_session_config_entry(workaround, "1")
        if workaround != workarounds[-1]:
            options.log_severity_level = FATAL_ONLY
        try:
            return open_session(options, workaround), workaround
        except Exception:  # pybind types that share no public base
            if workaround == workarounds[-1]:
                raise
    raise AssertionError("the last workaround returns or raises")


def _on_cpu(model: bytes, options: Any) -> Any:
    """On the CPU there is nothing to fall back to; the attempt would be printed on standard output, among the answers."""
    return _library().InferenceSession(model, options, providers=[CPU], enable_fallback=0)


def _options(threads: int) -> Any:
    options = _library().SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = ERRORS_ONLY
    return options


def _from_cache(library: Any, options: Any, model: bytes, graphs: GraphCache, threads: int, workaround: str) -> Any:
    """A session of the cached optimised graph; if there is none, optimise the graph now and cache it."""
    parts = (hashlib.sha256(model).hexdigest(), version(), machine(), str(threads), workaround)
    kept = graphs.get(*parts)
    if kept is not None:
        plain = _options(threads)
        plain.graph_optimization_level = library.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            return _on_cpu(kept, plain)
        except Exception:  # its digest is right, but the runtime refuses it: make it again
            graphs.drop(*parts)
    try:
        with tempfile.TemporaryDirectory() as folder:
            options.optimized_model_filepath = str(Path(folder) / "graph.onnx")
            session = _on_cpu(model, options)
            with contextlib.suppress(StorageError, OSError):  # a full disk costs the cache, not the model
                graphs.put(Path(options.optimized_model_filepath).read_bytes(), *parts)
        return session
    except Exception:  # onnxruntime's own where the temporary folder is full, an OSError where there is none; or the model's fault
        options.optimized_model_filepath = ""
        return _on_cpu(model, options)
