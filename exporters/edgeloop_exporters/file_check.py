"""Checks that a written file loads in its runtime and gives torch's scores; if not, names the faulty layer."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor, fx

from edgeloop_agent.runtimes import open_runtime
from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import DeviceError, ModelError
from edgeloop_contract.manifest import Precision, TensorSpec, Variant
from edgeloop_exporters.convert import takes_counts, written
from edgeloop_exporters.faulty_layer import faulty_layer
from edgeloop_exporters.file_tensors import file_scores, input_specs, output_specs, states_of, without_states
from edgeloop_exporters.inputs import inputs_of
from edgeloop_exporters.last_bits import is_rounding, several_moved
from edgeloop_exporters.named_outputs import separate
from edgeloop_exporters.normalization import InputNormalization
from edgeloop_exporters.outputs import outputs_of
from edgeloop_exporters.quantization import output_steps
from edgeloop_exporters.quantizers import ActivationQuantizer

__all__ = ["check_file"]

MAX_STEPS = 40  # of an int8 file: no rounding, however deep the network
MANY_VALUES, ORDINARY = 1024, 0.99  # of so large an answer, this share of values is held to that
MOVED, DRAWS, ALIKE = 0.01, 3, 2.0  # share of rounded values moved by one; how often; times what that does to the answers
MAX_ERROR = 1e-3  # of a float file, as a share of the largest score: kernels sum in another order


def check_file(
    content: bytes,
    runtime: Literal["onnx", "tflite"],
    module: fx.GraphModule,
    normalization: InputNormalization,
    samples: Array,
    *,
    quantized: bool,
) -> None:
    """Raises ModelError with the layer that a runtime refuses, or that a float file gets wrong. `samples`: raw (N, *sample).

    An int8 file may be some steps off here: `parity` then counts them on the test set. Where rounding decides what a network
    answers, it may be many: no more than one in a hundred rounded values by one step makes of torch's own answers. A float file
    may be off by what the last bits of the input make of them.
    """

    def fault(content: bytes, graph: fx.GraphModule) -> str:
        try:
            scores = _scores(content, runtime, graph, normalization, samples, quantized)
        except DeviceError as error:
            return str(error).partition(";")[0]
        except Exception as error:  # a runtime's own types, which share no base
            return f"{runtime} cannot run it: {str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__}"
        if not np.isfinite(scores).all():
            return "it answers with NaN or infinity"
        with torch.no_grad():
            wanted = graph(normalization.normalize(torch.from_numpy(samples))).numpy()
        if scores.size != wanted.size:
            return f"it answers shape {scores.shape}, torch {wanted.shape}"
        faults, explained = _faults(graph, scores, wanted, quantized), _is_rounding if quantized else _in_last_bits
        return "" if faults and explained(graph, normalization, samples, scores, wanted) else (faults or [""])[0]

    def works(beginning: fx.GraphModule) -> bool:
        try:
            content = written(runtime, beginning, normalization, tuple(samples.shape[1:]), quantized)
        except ModelError:
            return False
        return not fault(content, beginning)

    wrong = fault(content, module)
    if wrong:
        kind = f"{runtime}-{'int8' if quantized else 'float32'}"
        where = faulty_layer(module, works)
        remedy = f"leave this file out (export.runtimes{'' if quantized else ', export.float32: false'})"
        first = f"; first at {where}" if where else ""
        raise ModelError(f"the {kind} file is not what the network is: {wrong}{first}; replace that operation, or {remedy}")


def _faults(graph: fx.GraphModule, scores: Array, wanted: Array, quantized: bool) -> list[str]:
    """Of each output that is more than rounding off, in words."""
    outputs = outputs_of(graph)
    found, torchs = separate(scores, outputs), separate(wanted, outputs)
    steps = output_steps(graph) if quantized else [None] * len(outputs)
    faults = [
        (output.name, _off(found[output.name], torchs[output.name], step)) for output, step in zip(outputs, steps, strict=True)
    ]
    return [f"{name}: {fault}" if name else fault for name, fault in faults if fault]


def _off(found: Array, wanted: Array, step: float | None) -> str:
    """The error of one output in words, where it is more than rounding; else \"\". `step`: of an int8 file, one of 255."""
    error = np.abs(found - wanted)
    if step is None:
        off, largest = float(error.max()), float(np.abs(wanted).max())
        return f"it is {off:.3g} off where torch answers up to {largest:.3g}" if off > MAX_ERROR * max(largest, 1e-3) else ""
    steps = _largest(error) / step
    return f"it is {steps:.0f} steps of 255 off" if steps > MAX_STEPS else ""


def _largest(error: Array) -> float:
    """Of errors (N, …). In an answer for each place, rounding moves the edges of what is seen there: nearly the largest."""
    return float(np.quantile(error, ORDINARY) if error[0].size >= MANY_VALUES else error.max())


def _is_rounding(graph: fx.GraphModule, normalization: InputNormalization, samples: Array, scores: Array, wanted: Array) -> bool:
    """Whether torch's own answers move as far in the mean, where a few values are rounded as another kernel might."""
    generator = torch.Generator().manual_seed(0)

    def move(quantizer: ActivationQuantizer, _: object, rounded: Tensor) -> Tensor:
        if not quantizer.rounding:
            return rounded
        chance = torch.rand(rounded.shape, generator=generator)
        return rounded + quantizer.qparams()[0] * ((chance < MOVED / 2).float() - (chance > 1 - MOVED / 2).float())

    hooks = [m.register_forward_hook(move) for m in graph.modules() if isinstance(m, ActivationQuantizer)]
    try:
        with torch.no_grad():
            x = normalization.normalize(torch.from_numpy(samples))
            moved = max(float(np.abs(graph(x).numpy() - wanted).mean()) for _ in range(DRAWS))
    finally:
        for hook in hooks:
            hook.remove()
    return float(np.abs(scores.reshape(wanted.shape) - wanted).mean()) <= ALIKE * moved


def _in_last_bits(graph: fx.GraphModule, normalization: InputNormalization, samples: Array, scores: Array, wanted: Array) -> bool:
    """Whether each of torch's own float answers moves about as far where the input's last bits change: a mask's edges may."""
    outputs, generator = outputs_of(graph), np.random.default_rng(0)
    with torch.no_grad():
        given = [normalization.normalize(torch.from_numpy(samples)).numpy()]
        moved = [graph(torch.from_numpy(x)).numpy() for (x,) in several_moved(given, generator)]
    for name, torchs in separate(wanted, outputs).items():
        found = [separate(answers.reshape(wanted.shape), outputs)[name] for answers in (scores, *moved)]
        off, *movements = (float(np.abs(part - torchs).max() / max(float(np.abs(torchs).max()), 1e-9)) for part in found)
        if off > MAX_ERROR and not is_rounding(off, movements):
            return False
    return True


def _scores(
    content: bytes,
    runtime: Literal["onnx", "tflite"],
    module: fx.GraphModule,
    normalization: InputNormalization,
    samples: Array,
    quantized: bool,
) -> Array:
    """The file's scores, as torch gives them."""
    counts = quantized and runtime == "tflite" and takes_counts(module, normalization)
    given = TensorSpec(dtype="int8" if counts else normalization.dtype, shape=list(samples.shape[1:]))  # type: ignore[arg-type]
    inputs, outputs = inputs_of(module), output_specs(module, runtime, quantized)
    variant = Variant(
        name=runtime, runtime=runtime, precision=Precision.INT8 if quantized else Precision.FLOAT32, file=f"the {runtime} file",
        inputs=input_specs(inputs) or [given], outputs=without_states(outputs, inputs), states=states_of(inputs),
    )  # fmt: skip
    return file_scores(open_runtime(variant, content), variant, samples, inputs)
