"""A model file whose tensors go by name: several inputs or outputs, state, constants, another layout or batch than usual."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from edgeloop_contract.arrays import DTYPES, Array
from edgeloop_contract.errors import DeviceError
from edgeloop_contract.manifest import INPUT, SCORES, Variant
from edgeloop_contract.tensors import TensorSpec

__all__ = ["Memory", "NamedModel", "RawModel", "calls", "check_shapes", "is_plain", "real_values", "to_input"]

Memory = dict[str, Array]  # what a model remembers from one window to the next: by input tensor, empty before the first
FLIP = 0x80
BEGUN, BEGAN = "", np.zeros(0)  # in a memory whose state the runtime keeps: it was told to begin anew


class RawModel(Protocol):
    """A loaded file, by the names of its own tensors. "": the only one."""

    @property
    def description(self) -> str: ...
    def shapes(self) -> tuple[dict[str, list[int | None]], dict[str, list[int | None]]]:
        """Of inputs and outputs with the batch; None where the file leaves a size open."""

    def feed(self, tensors: dict[str, Array]) -> dict[str, Array]:
        """One inference, the tensors as they are."""

    def forget(self) -> None:
        """Begin anew what the runtime itself keeps from call to call."""


def is_plain(variant: Variant) -> bool:
    """Whether one array in and one array out is all there is to it."""
    spec = variant.inputs[0]
    batch = ("any",) if variant.runtime == "onnx" else ("any", "one")
    return (
        len(variant.inputs) == 1 and not variant.states and spec.constant is None and spec.layout == "channels-last"
        and variant.kept_inside is None and spec.batch in batch and variant.output.batch in batch and len(variant.outputs) == 1
    )  # fmt: skip


def to_input(samples: Array, spec: TensorSpec) -> Array:
    """Prepared samples (N, *shape), channels last, as this input's own type, layout and batch."""
    wanted = DTYPES[spec.dtype]
    if samples.dtype != wanted:
        samples = _converted(samples, spec, wanted)
    if spec.layout == "channels-first":
        samples = np.moveaxis(samples, -1, 1)
    return np.ascontiguousarray(samples.reshape(spec.shape if spec.batch == "none" else (len(samples), *spec.shape)))


def _converted(samples: Array, spec: TensorSpec, wanted: np.dtype[Any]) -> Array:
    if samples.dtype == np.uint8 and wanted == np.int8:  # counts − 128
        return (samples ^ FLIP).view(np.int8)
    q = spec.quantization
    if samples.dtype.kind != "f" or wanted.kind == "f" or q is None:
        return samples.astype(wanted)
    steps = samples.astype(np.float32) / np.float32(q.scale)
    limits = np.iinfo(wanted)
    rounded = np.trunc(steps + np.copysign(np.float32(0.5), steps))  # halves away from zero, as the runtimes' own operator rounds
    return np.asarray(np.clip(rounded + q.zero_point, limits.min, limits.max).astype(wanted))


def real_values(raw: Array, spec: TensorSpec) -> Array:
    """An output as the file gives it; integers with a scale as the real values that they stand for."""
    q = spec.quantization
    return raw if q is None else (raw.astype(np.float32) - np.float32(q.zero_point)) * np.float32(q.scale)


class NamedModel:
    """A variant on a loaded file. It keeps nothing between calls: what the model remembers is the caller's `Memory`."""

    def __init__(self, variant: Variant, raw: RawModel) -> None:
        """Raises DeviceError where the manifest and the file disagree."""
        self._variant, self.raw = variant, raw
        self.description = raw.description
        check_shapes(variant, *raw.shapes())
        self._constants = {
            spec.tensor: _with_batch(np.array(spec.constant, DTYPES[spec.dtype]).reshape(spec.shape), spec)
            for spec in variant.inputs
            if spec.constant is not None
        }
        self._fed = [spec for spec in variant.inputs if spec.constant is None]
        self._begins = {s.input: np.full(s.shape, s.initial, DTYPES[s.dtype]) for s in variant.states}

    def run(self, samples: Array) -> Array:
        """Samples (N, *sample) of the only input to float32 scores (N, outputs); each row as a recording of its own."""
        name = self._fed[0].of or INPUT
        rows = [self.tensors({name: samples[i : i + 1]}, {}) for i in range(len(samples))]
        scores = self._variant.output.name or SCORES
        return np.concatenate([row[scores].reshape(1, -1) for row in rows]).astype(np.float32, copy=False)

    def tensors(self, samples: Mapping[str, Array], memory: Memory) -> dict[str, Array]:
        """One prepared sample (1, *sample) by input to all outputs by name, each with a leading 1. `memory` is updated."""
        feeds = dict(self._constants)
        for spec in self._fed:
            sample = samples[spec.of] if spec.of else next(iter(samples.values()))
            feeds[spec.tensor] = to_input(sample, spec)
        for tensor, begin in self._begins.items():
            feeds[tensor] = memory.get(tensor, begin)
        if self._variant.kept_inside and BEGUN not in memory:
            self.raw.forget()
            memory[BEGUN] = BEGAN
        outputs = self.raw.feed(feeds)
        memory.update({state.input: outputs[state.output] for state in self._variant.states})
        answers = {}
        for spec in self._variant.outputs:
            values = real_values(outputs[spec.tensor], spec)
            if spec.batch == "any" and list(values.shape[1:]) != spec.shape:
                raise ValueError(f"{spec.tensor or 'the output'} has shape {list(values.shape)}; the manifest says {spec.shape}")
            answers[spec.name or SCORES] = values.reshape(1, *spec.shape) if spec.batch != "any" else values
        return answers


def _with_batch(values: Array, spec: TensorSpec) -> Array:
    return values if spec.batch == "none" else values[None]


def calls(runtime: Any, samples: Array | Mapping[str, Array]) -> tuple[Callable[[Any], object], Sequence[Any]]:
    """What runs one sample, and the samples for it."""
    if isinstance(samples, np.ndarray):
        return runtime.run, [np.ascontiguousarray(samples[i : i + 1]) for i in range(len(samples))]
    if not isinstance(runtime, NamedModel):
        return calls(runtime, next(iter(samples.values())))
    count = len(next(iter(samples.values())))
    rows = [{name: np.ascontiguousarray(values[i : i + 1]) for name, values in samples.items()} for i in range(count)]
    return lambda row: runtime.tensors(row, {}), rows


def check_shapes(variant: Variant, inputs: Mapping[str, list[int | None]], outputs: Mapping[str, list[int | None]]) -> None:
    """Raises DeviceError where the file has no such tensor, or one of another shape, or wants an input that nothing feeds."""
    for side, specs, there in (("input", variant.inputs, inputs), ("output", variant.outputs, outputs)):
        for spec in specs:
            declared = there.get(spec.tensor)
            rank = len(spec.shape) + (spec.batch != "none")
            if side == "output" and declared is not None and len(declared) != rank:
                continue  # some exporters declare another rank than the file gives; each answer has to have the manifest's shape
            _check(variant, side, spec.tensor, spec.shape if spec.batch == "none" else [None, *spec.shape], there)
    for state in variant.states:
        _check(variant, "input", state.input, state.shape, inputs)
        _check(variant, "output", state.output, state.shape, outputs)
    fed = {spec.tensor for spec in variant.inputs} | {state.input for state in variant.states}
    if extra := sorted(inputs.keys() - fed) if "" not in fed else []:
        raise DeviceError(f"{variant.file} takes an input {extra[0]!r} that the manifest does not name: pack the bundle again")


def _check(
    variant: Variant, side: str, tensor: str, shape: list[int] | list[int | None], there: Mapping[str, list[int | None]]
) -> None:
    found = there.get(tensor) if tensor else next(iter(there.values()), None)
    if found is None:
        names = ", ".join(there)
        raise DeviceError(f"{variant.file} has no {side} {tensor!r} (it has {names}): pack the bundle again")
    agree = all(a is None or b is None or a == b for a, b in zip(found, shape, strict=False))
    if len(found) != len(shape) or not agree:
        raise DeviceError(
            f"{variant.file}: {side} {tensor or 'tensor'} has shape {found} in the file and {shape} in the"
            " manifest: pack the bundle again"
        )
