"""TFLite, by ai-edge-litert or by the original tflite-runtime: one backend, two providers, the maintained one first."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import numpy as np

from edgeloop_agent.runtimes import PLAIN, RuntimeOptions, missing_library, to_scores
from edgeloop_agent.runtimes.named import to_input
from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import DeviceError
from edgeloop_contract.manifest import Variant

PROVIDERS = (("ai_edge_litert.interpreter", "ai-edge-litert"), ("tflite_runtime.interpreter", "tflite-runtime"))
TO_INT8 = 0x80


def _library() -> tuple[Any, str]:
    """The first provider that imports, and its name and version."""
    failure: ImportError | None = None
    for module, distribution in PROVIDERS:
        try:
            library = importlib.import_module(module)
        except ImportError as error:
            failure = failure or error
            continue
        if distribution == "tflite-runtime" and int(np.__version__.split(".")[0]) >= 2:
            raise DeviceError(f"tflite-runtime cannot work with numpy {np.__version__}; pip install 'numpy<2'")
        return library, f"{distribution} {_version(module, distribution)}"
    assert failure is not None
    raise missing_library("tflite", failure)


def _version(module: str, distribution: str) -> str:
    """The package's own version; reading its metadata would take as long as a third of the runtime's start."""
    version_text = getattr(sys.modules[module.partition(".")[0]], "__version__", None)
    if version_text is None:
        from importlib.metadata import version as of_distribution

        version_text = of_distribution(distribution)
    return str(version_text)


def version() -> str:
    return _library()[1]


def _resize(interpreter: Any, variant: Variant) -> None:
    """Give inputs whose sizes the file leaves open those of the manifest."""
    for entry in interpreter.get_input_details():
        spec = next((s for s in variant.inputs if s.tensor == entry["name"]), None)
        if spec is not None and any(size < 0 for size in entry["shape_signature"][spec.batch != "none" :]):
            interpreter.resize_tensor_input(entry["index"], spec.shape if spec.batch == "none" else [1, *spec.shape])


def _index(details: list[dict[str, Any]], name: str) -> Any:
    """Of the tensor called `name`; of the first where it has no name, or where the file has no such tensor."""
    return next((entry["index"] for entry in details if entry["name"] == name), details[0]["index"])


class _Interpreter:
    def __init__(self, variant: Variant, interpreter: Any, description: str) -> None:
        self._variant, self._interpreter = variant, interpreter
        self._input = interpreter.get_input_details()[0]["index"]
        self._quantization = variant.output.quantization
        self._output = _index(interpreter.get_output_details(), variant.output.tensor)
        self.description = description
        self._tensor = interpreter.tensor(self._input)
        self._dtype = np.dtype(interpreter.get_input_details()[0]["dtype"])
        # Asked for once: the interpreter describes each tensor anew at each question.
        self._inputs = {str(entry["name"]): entry["index"] for entry in interpreter.get_input_details()}
        self._outputs = {str(entry["name"]): entry["index"] for entry in interpreter.get_output_details()}
        self._shifted = self._dtype == np.int8

    def run(self, samples: Array) -> Array:
        interpreter = self._interpreter
        rows = []
        for i in range(len(samples)):
            sample = samples[i : i + 1]
            if self._shifted and sample.dtype == np.uint8:  # straight into the model's memory; no view of it may outlive this line
                np.bitwise_xor(sample, TO_INT8, out=self._tensor().view(np.uint8))
            else:
                if sample.dtype != self._dtype:
                    sample = to_input(sample, self._variant.input)
                interpreter.set_tensor(self._input, sample)
            interpreter.invoke()
            rows.append(interpreter.get_tensor(self._output))
        return to_scores(rows[0] if len(rows) == 1 else np.concatenate(rows), self._quantization)

    def shapes(self) -> tuple[dict[str, list[int | None]], dict[str, list[int | None]]]:
        """Of inputs and outputs by name, with the batch."""
        described = (self._interpreter.get_input_details(), self._interpreter.get_output_details())
        given, made = ({str(e["name"]): list[int | None](map(int, e["shape"])) for e in entries} for entries in described)
        return given, made

    def feed(self, tensors: dict[str, Array]) -> dict[str, Array]:
        """One inference by the file's own names; "" is the only input, and the first output."""
        for name, values in tensors.items():
            self._interpreter.set_tensor(self._inputs[name] if name else self._input, values)
        self._interpreter.invoke()
        outputs: dict[str, Array] = {name: self._interpreter.get_tensor(index) for name, index in self._outputs.items()}
        first = next((name for name, index in self._outputs.items() if index == self._output), None)
        outputs[""] = outputs[first] if first is not None else self._interpreter.get_tensor(self._output)
        return outputs

    def forget(self) -> None:
        """Begin anew what the interpreter keeps in variables."""
        self._interpreter.reset_all_variables()


def load(variant: Variant, model: bytes, threads: int, options: RuntimeOptions = PLAIN) -> _Interpreter:
    """Open an interpreter for batch 1.

    If the delegate cannot be loaded, `description` says so and the model runs without it.
    """
    library, description = _library()
    delegates = []
    if options.delegate:
        try:
            delegates = [library.load_delegate(options.delegate, dict(options.delegate_options))]
            description = f"{description} ({options.delegate})"
        except (ValueError, OSError, RuntimeError) as error:
            why = (str(error) or "no reason given").splitlines()[0]
            description = f"{description} (asked for and not loaded: {options.delegate}: {why})"
    try:
        interpreter = library.Interpreter(model_content=model, num_threads=threads, experimental_delegates=delegates or None)
        _resize(interpreter, variant)
        interpreter.allocate_tensors()
        return _Interpreter(variant, interpreter, description)
    except Exception as error:  # the interpreter raises ValueError, RuntimeError or SystemError for one and the same thing
        why = " ".join(str(error).split())
        raise DeviceError(f"{description} refuses {variant.file}: {why}; update it or use another variant") from error
