"""The outputs of written files as a manifest names them, and the scores that a file answers with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import fx

from edgeloop_agent.runtimes.named import Memory, NamedModel
from edgeloop_contract.arrays import Array
from edgeloop_contract.manifest import INPUT, SCORES, Quantization, Runtime, State, TensorSpec, Variant
from edgeloop_exporters.inputs import inputs_of
from edgeloop_exporters.named_inputs import NamedInput, feeds_of, samples_of
from edgeloop_exporters.named_outputs import joined
from edgeloop_exporters.outputs import outputs_of
from edgeloop_exporters.quantization import output_qparams

__all__ = ["file_scores", "input_specs", "output_specs", "states_of", "without_states"]


def output_specs(module: fx.GraphModule, runtime: Runtime, quantized: bool) -> list[TensorSpec]:
    """Of the file that is written of this graph. An int8 TFLite file gives int8 where the graph rounds its scores."""
    outputs, states = outputs_of(module), {entry.output for entry in inputs_of(module)}
    scales = output_qparams(module) if quantized and runtime == "tflite" else [None] * len(outputs)
    scales = [None if output.name in states else scale for output, scale in zip(outputs, scales, strict=True)]
    specs = []
    for output, scale in zip(outputs, scales, strict=True):
        quantization = Quantization(scale=scale[0], zero_point=scale[1] - 128) if scale else None
        specs.append(
            TensorSpec(
                dtype="int8" if scale else "float32", shape=list(output.shape), quantization=quantization,
                name=output.name, tensor=output.name,
            )
        )  # fmt: skip
    return specs


def input_specs(inputs: Sequence[NamedInput]) -> list[TensorSpec]:
    """Of the file that is written of a graph with several inputs, without its states."""
    fed = [entry for entry in inputs if not entry.output]
    return [
        TensorSpec(
            dtype=entry.door,  # type: ignore[arg-type]
            shape=list(entry.shape), name=entry.name, tensor=entry.name, of=entry.name if len(fed) > 1 else INPUT,
            layout="channels-first" if entry.first else "channels-last",
        )
        for entry in fed
    ]  # fmt: skip


def states_of(inputs: Sequence[NamedInput]) -> list[State]:
    """The tensors that the file feeds back, each for one sample at a time."""
    return [
        State(input=entry.name, output=entry.output, dtype=entry.dtype, shape=[1, *entry.shape])  # type: ignore[arg-type]
        for entry in inputs
        if entry.output
    ]


def without_states(outputs: Sequence[TensorSpec], inputs: Sequence[NamedInput]) -> list[TensorSpec]:
    """The outputs that are answers."""
    states = {entry.output for entry in inputs if entry.output}
    return [spec for spec in outputs if spec.name not in states]


def file_scores(
    runtime: Any, variant: Variant, samples: Array, inputs: Sequence[NamedInput] = (), recordings: Array | None = None
) -> Array:
    """Raw samples (N, *sample) to float32 scores (N, …); those of several outputs joined: answers in the manifest's order, then
    states. `inputs`: of a file with several; each sample has all of them. `recordings`: the number of each sample's; then the file
    feeds itself its states from one sample to the next, as on a device, and does not take those that are in the samples.
    """
    if not inputs and (not isinstance(runtime, NamedModel) or len(variant.outputs) == 1):
        return np.asarray(runtime.run(samples))
    size = len(samples) if variant.runtime == "onnx" and not variant.states else 1
    rows: list[list[Array]] = []
    memory: Memory = {}
    for start in range(0, len(samples), size):
        given = {INPUT: samples[start : start + size]}
        if inputs:
            parts, given = feeds_of(samples[start : start + size], inputs), samples_of(samples[start : start + size], inputs)
            if recordings is None:
                memory = {state.input: parts[state.input] for state in variant.states}
            elif start == 0 or recordings[start] != recordings[start - 1]:
                memory = {}
        given = {INPUT: next(iter(given.values()))} if len(given) == 1 else given
        if isinstance(runtime, NamedModel):
            answers = runtime.tensors(given, memory)
        else:  # one input of whole numbers, one output
            answers = {variant.output.name or SCORES: runtime.run(next(iter(given.values())))}
        found = [answers[spec.name or SCORES] for spec in variant.outputs]
        rows.append([*found, *(memory[state.input] for state in variant.states)])
    return joined([np.concatenate(parts) for parts in zip(*rows, strict=True)])
