"""From the tensors that a model file describes to those of a manifest: batch, layout, state, constants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from edgeloop_agent.runtimes import open_raw
from edgeloop_contract.arrays import DTYPES, Array, DtypeName
from edgeloop_contract.errors import ModelError, UsageError
from edgeloop_contract.manifest import Variant
from edgeloop_contract.tensors import Batch, State, TensorSpec
from edgeloop_exporters.model_files.description import ModelFile, Tensor
from edgeloop_pipeline.packing.request import PackRequest

__all__ = ["FileTensors", "check_names", "tensors_of"]

EXAMPLE_SIZE = 320
PICTURE_SIDE = 16  # pixels: a tensor of so many and one or three channels first is a picture


@dataclass(frozen=True)
class FileTensors:
    """One file's tensors as a manifest says them. `outputs`: those that are no state."""

    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    states: list[State]


def tensors_of(model: ModelFile, content: bytes, variant: Any, request: PackRequest) -> FileTensors:
    """Raises ModelError for a file whose tensors the agent cannot feed, UsageError for a size or state that must be said.

    `variant`: a function that makes a Variant of the file with given inputs, outputs and states.
    """
    states = _states(model, request)
    inputs = [_input(model, tensor, request) for tensor in model.inputs if tensor.name not in states]
    if not any(spec.constant is None for spec in inputs):
        raise ModelError(f"{model.path}: no input is left that a sample could feed; take one out of --constant or --state")
    described = {tensor.name: tensor for tensor in model.inputs}
    made = {tensor.name: tensor for tensor in model.outputs}
    remembered = [_state(model, described[name], made[output], request) for name, output in states.items()]
    answers = _trial(variant(inputs, inputs, remembered), content, inputs, remembered)
    for state in remembered:
        if state.output not in answers or list(answers[state.output].shape) != state.shape:
            found = list(answers[state.output].shape) if state.output in answers else "no such output"
            raise UsageError(
                f"{model.path}: the state {state.input} has shape {state.shape}, {state.output} has {found}; name its pair"
            )
    outputs = [_output(model, t, answers[t.name]) for t in model.outputs if t.name not in states.values()]
    if not outputs:
        raise ModelError(f"{model.path}: every output is a state; nothing is left to answer with")
    return FileTensors(inputs, outputs, remembered)


def check_names(models: Sequence[ModelFile], request: PackRequest) -> None:
    """Raises UsageError for a size or a constant of an input that no file has."""
    names = list(dict.fromkeys(tensor.name for model in models for tensor in model.inputs))
    for option, given in (("--shape", request.shapes), ("--constant", request.constants)):
        if unknown := next((name for name in given if name not in names), None):
            raise UsageError(f"{option} {unknown}: no such input; the model's inputs are {', '.join(names)}")


def _state(model: ModelFile, source: Tensor, output: Tensor, request: PackRequest) -> State:
    if source.quantization != output.quantization:
        raise UsageError(
            f"{model.path}: {source.name} and {output.name} have other scales, so one cannot be the other: --no-states"
        )
    initial = float(source.quantization.zero_point) if source.quantization is not None else 0.0
    return State(
        input=source.name, output=output.name, dtype=_dtype(model, source), shape=_whole(model, source, request),
        reset=request.reset, initial=initial,
    )  # fmt: skip


def _states(model: ModelFile, request: PackRequest) -> dict[str, str]:
    """Input → output of the state that was named, or that the file proves."""
    if request.states or request.no_states:
        names, outputs = [t.name for t in model.inputs], [t.name for t in model.outputs]
        for source, target in request.states.items():
            if source not in names or target not in outputs:
                raise UsageError(
                    f"{model.path}: --state {source}={target}: inputs are {', '.join(names)}; outputs are {', '.join(outputs)}"
                )
        return dict(request.states)
    if model.guessed_states:
        pairs = " ".join(f"--state {pair.input}={pair.output}" for pair in model.guessed_states)
        raise UsageError(f"{model.path}: these look like state ({model.guessed_states[0].why}): say {pairs}, or --no-states")
    return {pair.input: pair.output for pair in model.states}


def _dtype(model: ModelFile, tensor: Tensor) -> DtypeName:
    if tensor.dtype not in get_args(DtypeName):
        raise ModelError(f"{model.path}: {tensor.name} is of type {tensor.dtype}; a bundle holds {', '.join(get_args(DtypeName))}")
    return tensor.dtype  # type: ignore[return-value]


def _whole(model: ModelFile, tensor: Tensor, request: PackRequest) -> list[int]:
    """All sizes, the batch with them (1 where the file leaves it open). Raises UsageError for a size that must be said."""
    said = request.shapes.get(tensor.name)
    if tensor.shape is None:
        if said is None:
            raise UsageError(f"{model.path}: {tensor.name} has no shape in the file; say --shape {tensor.name}=1x…")
        return said
    shown = "x".join("?" if size is None else str(size) for size in tensor.shape)
    if said is not None:
        if len(said) != len(tensor.shape) or any(a not in (None, 0, b) for a, b in zip(tensor.shape, said, strict=True)):
            raise UsageError(f"{model.path}: --shape {tensor.name}={'x'.join(map(str, said))}: the file has {shown}")
        return said
    sizes = [1 if place == 0 and size is None else size for place, size in enumerate(tensor.shape)]
    if None in sizes or 0 in sizes:
        example = "x".join(str(size or EXAMPLE_SIZE) for size in sizes)
        raise UsageError(f"{model.path}: {tensor.name} has shape {shown}; say its sizes, such as --shape {tensor.name}={example}")
    return [size for size in sizes if size is not None]


def _batch(tensor: Tensor, whole: Sequence[int]) -> Batch:
    """A rank of 0 or 1 has no batch dimension, unless that is free; an open size of which another than 1 was said is no batch."""
    free = tensor.shape is not None and len(tensor.shape) > 0 and tensor.shape[0] is None
    if free and whole[:1] == [1]:
        return "any"
    return "one" if len(whole) > 1 and whole[0] == 1 else "none"


def _input(model: ModelFile, tensor: Tensor, request: PackRequest) -> TensorSpec:
    whole, dtype = _whole(model, tensor, request), _dtype(model, tensor)
    constant = request.constants.get(tensor.name)
    if constant is not None:
        if len(constant) != int(np.prod(whole)):
            raise UsageError(
                f"{model.path}: --constant {tensor.name}: {len(constant)} values; shape {whole} needs {int(np.prod(whole))}"
            )
        return TensorSpec(
            dtype=dtype, shape=whole, name=tensor.signature or tensor.name, tensor=tensor.name, batch="none", constant=constant
        )
    batch = _batch(tensor, whole)
    letters = tensor.layout or ""
    first = batch != "none" and len(letters) == len(whole) and letters[1:2] == "C" and len(letters) > 2
    # torchvision's detectors take one picture without a batch, which no convolution reads as it is.
    first = first or (batch == "none" and len(whole) == 3 and whole[0] in (1, 3) and min(whole[1:]) >= PICTURE_SIDE)
    return TensorSpec(
        dtype=dtype, shape=whole if batch == "none" else whole[1:], quantization=tensor.quantization,
        name=tensor.signature or tensor.name, tensor=tensor.name, batch=batch,
        layout="channels-first" if first else "channels-last",
    )  # fmt: skip


def _output(model: ModelFile, tensor: Tensor, answer: Array) -> TensorSpec:
    """Its shape is that of an answer: files often leave it open."""
    whole = list(answer.shape)
    if 0 in whole:
        raise ModelError(
            f"{model.path}: {tensor.name} had shape {whole} for a sample of zeros; its size must not depend on the sample"
        )
    batch: Batch = "none"
    if len(whole) > 1 and whole[0] == 1:
        batch = "any" if model.runtime == "onnx" and tensor.shape is not None and tensor.shape[0] is None else "one"
    return TensorSpec(
        dtype=_dtype(model, tensor), shape=whole if batch == "none" else whole[1:], quantization=tensor.quantization,
        name=tensor.signature or tensor.name, tensor=tensor.name, batch=batch,
    )  # fmt: skip


def _trial(variant: Variant, content: bytes, inputs: Sequence[TensorSpec], states: Sequence[State]) -> Mapping[str, Array]:
    """The file's answers to zeros. Raises DeviceError where the runtime here refuses it."""
    feeds = {}
    for spec in inputs:
        values = np.zeros(spec.shape, DTYPES[spec.dtype]) if spec.constant is None else np.array(spec.constant, DTYPES[spec.dtype])
        values = values.reshape(spec.shape)
        feeds[spec.tensor] = values if spec.batch == "none" else values[None]
    feeds |= {state.input: np.zeros(state.shape, DTYPES[state.dtype]) for state in states}
    return open_raw(variant, content).feed(feeds)
